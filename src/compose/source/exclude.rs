//! Patterns of paths that are left out of a tree, with the meaning that rsync's `--exclude` gives them.
//!
//! A pattern that begins with `/` is matched from the top of the tree, any other one at the end of a path, from a component on.
//! One that ends in `/` matches directories only. `*` stands for any bytes but `/`, `**` for any bytes, `?` for one byte but
//! `/`, `[a-z]` and `[!a-z]` for one byte in and not in a range; `\` takes the meaning from the next byte, unless the pattern
//! has none of these. What is below a directory that is left out is left out, too.
//!
//! *Not here*: rsync's `+` rules, which take something in again.
//!
//! *Invariants*: the time to match is linear in the path, whatever the pattern.
//!
//! *Used by* `walk`, `tar` and `cli::commit`.

use regex::bytes::Regex;

/// Why a text is not a pattern.
#[derive(Debug, thiserror::Error)]
pub enum PatternError {
    /// There is nothing to match.
    #[error("a pattern of what is left out is empty")]
    Empty,
    /// The pattern cannot be translated.
    #[error("'{pattern}' is not a pattern: a '[' has no ']', or a range is empty")]
    Malformed {
        /// The pattern.
        pattern: String,
    },
}

/// What is left out of a tree; nothing by default.
#[derive(Debug, Clone, Default)]
pub struct Exclusions(Vec<Pattern>);

#[derive(Debug, Clone)]
struct Pattern {
    regex: Regex,
    is_directory_only: bool,
}

impl Exclusions {
    /// Returns whether nothing is left out.
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a pattern.
    ///
    /// # Errors
    /// [`PatternError`].
    pub fn add(&mut self, pattern: &[u8]) -> Result<(), PatternError> {
        self.0.push(Pattern::parse(pattern)?);
        Ok(())
    }

    /// Returns whether a pattern matches the entry at `path`, which begins with `/`. The directories above it must have been
    /// asked about before.
    pub(crate) fn contain(&self, path: &[u8], is_directory: bool) -> bool {
        self.0.iter().any(|pattern| (is_directory || !pattern.is_directory_only) && pattern.regex.is_match(path))
    }

    /// Returns whether a pattern matches the entry at `path` or a directory above it.
    pub(crate) fn contain_with_parents(&self, path: &[u8], is_directory: bool) -> bool {
        let slashes = path.iter().enumerate().skip(1).filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        self.contain(path, is_directory) || slashes.into_iter().any(|end| self.contain(&path[..end], true))
    }
}

impl Pattern {
    fn parse(pattern: &[u8]) -> Result<Self, PatternError> {
        let (text, is_directory_only) = match pattern {
            [text @ .., b'/', b'*', b'*', b'*'] | [text @ .., b'/'] => (text, true),
            text => (text, false),
        };
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        let malformed = || PatternError::Malformed { pattern: pattern.escape_ascii().to_string() };
        let (start, body) = text.strip_prefix(b"/").map_or(("/", text), |rest| ("^/", rest));
        let has_wildcards = body.iter().any(|byte| matches!(byte, b'*' | b'?' | b'['));
        let body = if has_wildcards {
            translate(body).ok_or_else(malformed)?
        } else {
            body.iter().copied().map(literal).collect()
        };
        let regex = Regex::new(&format!("(?s-u){start}{body}$")).map_err(|_| malformed())?;
        Ok(Self { regex, is_directory_only })
    }
}

fn literal(byte: u8) -> String {
    format!("\\x{byte:02x}")
}

/// Translates a pattern into a regular expression; `None` if a class does not end.
fn translate(pattern: &[u8]) -> Option<String> {
    let (mut expression, mut rest) = (String::new(), pattern);
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'*' if after.first() == Some(&b'*') => {
                rest = &after[after.iter().take_while(|byte| **byte == b'*').count()..];
                expression.push_str(".*");
            }
            b'*' => expression.push_str("[^/]*"),
            b'?' => expression.push_str("[^/]"),
            b'\\' => {
                let (escaped, after) = rest.split_first().unwrap_or((&b'\\', rest));
                rest = after;
                expression.push_str(&literal(*escaped));
            }
            b'[' => {
                let (class, after) = translate_class(rest)?;
                rest = after;
                expression.push_str(&class);
            }
            other => expression.push_str(&literal(*other)),
        }
    }
    Some(expression)
}

/// Translates what follows a `[` into a class without `/`, and returns what follows the `]`.
fn translate_class(pattern: &[u8]) -> Option<(String, &[u8])> {
    let (negation, mut rest) = match pattern {
        [b'!' | b'^', rest @ ..] => ("^", rest),
        rest => ("", rest),
    };
    let mut class = String::new();
    loop {
        let (byte, after) = rest.split_first()?;
        rest = after;
        match byte {
            // A `]` that comes first is meant.
            b']' if !class.is_empty() => break,
            b'-' if !class.is_empty() && rest.first() != Some(&b']') => class.push('-'),
            b'\\' => {
                let (escaped, after) = rest.split_first()?;
                rest = after;
                class.push_str(&literal(*escaped));
            }
            other => class.push_str(&literal(*other)),
        }
    }
    Some((format!("[[{negation}{class}]&&[^/]]"), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_without_an_end_are_refused() {
        for bad in [&b""[..], b"/", b"/***", b"[", b"[a", b"[!]", b"[z-a]"] {
            assert!(Exclusions::default().add(bad).is_err(), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn a_directory_leaves_out_what_is_below_it() {
        let mut exclusions = Exclusions::default();
        exclusions.add(b"cache/").expect("legal");
        assert!(exclusions.contain_with_parents(b"/var/cache/apt/x", false));
        assert!(exclusions.contain_with_parents(b"/var/cache", true));
        assert!(!exclusions.contain_with_parents(b"/var/cache", false));
        assert!(!exclusions.contain_with_parents(b"/var/caches/x", false));
    }
}
