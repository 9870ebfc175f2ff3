//! Computes SELinux labels from a `file_contexts` file.
//!
//! Each line is `regular expression [-type] context`; the expression must match the whole path. As in libselinux, a line
//! without special characters wins over one with them, and among equals the last one wins; `<<none>>` means that the path
//! gets no label. Source of the syntax: selabel_file(5). Expressions are grouped by the directory they start with, so
//! that a path is matched only against those of its own ancestors.
//!
//! *Not here*: finding the files of a whole policy in a root ([`policy`]).
//!
//! *Used by* `pipeline` and `cli::commit`.

pub(crate) mod policy;

use std::cell::OnceCell;
use std::collections::HashMap;

use regex::bytes::Regex;

use crate::image::{NodeId, Tree};
use crate::model::{FileKind, XattrError};

/// The extended attribute that holds a label.
const LABEL_ATTRIBUTE: &[u8] = b"security.selinux";

/// Why a `file_contexts` file cannot be used or a label cannot be set.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContextsError {
    /// A line has neither two nor three fields.
    #[error("line {line}: expected 'expression [-type] context'")]
    Fields {
        /// The line number, from 1.
        line: usize,
    },
    /// The file type does not exist.
    #[error("line {line}: unknown file type '{found}'")]
    Kind {
        /// The line number, from 1.
        line: usize,
        /// The value found.
        found: String,
    },
    /// The expression cannot be compiled.
    #[error("line {line}: bad expression")]
    Expression {
        /// The line number, from 1.
        line: usize,
        source: Box<regex::Error>,
    },
    /// A label cannot be stored as an extended attribute.
    #[error(transparent)]
    Label(#[from] XattrError),
}

/// The rules of one policy.
pub(crate) struct FileContexts {
    rules: Vec<ContextRule>,
    /// Indices of the rules without special characters, by path.
    exact: HashMap<Vec<u8>, Vec<usize>>,
    /// Indices of the other rules, by the longest directory that their expression contains literally.
    by_stem: HashMap<Vec<u8>, Vec<usize>>,
}

struct ContextRule {
    line: usize,
    expression: String,
    compiled: OnceCell<Regex>,
    kind: Option<FileKind>,
    /// `None` for `<<none>>`.
    label: Option<Vec<u8>>,
}

impl FileContexts {
    /// Parses the rules. Lines that are templates for users (`%{USERNAME}` and the like) match no path of an image and are
    /// skipped.
    ///
    /// # Errors
    /// [`ContextsError`] names the line.
    pub(crate) fn parse(text: &str) -> Result<Self, ContextsError> {
        let mut contexts = Self { rules: Vec::new(), exact: HashMap::new(), by_stem: HashMap::new() };
        contexts.extend(text)?;
        Ok(contexts)
    }

    /// Parses further rules, which win over the earlier ones.
    ///
    /// # Errors
    /// [`ContextsError`] names the line.
    pub(crate) fn extend(&mut self, text: &str) -> Result<(), ContextsError> {
        for (number, line) in text.lines().enumerate() {
            let line_text = line.trim();
            if line_text.is_empty() || line_text.starts_with('#') || line_text.contains("%{") {
                continue;
            }
            self.add(parse_line(number + 1, line_text)?);
        }
        Ok(())
    }

    fn add(&mut self, rule: ContextRule) {
        let index = self.rules.len();
        match literal_path(&rule.expression) {
            Some(path) => self.exact.entry(path).or_default().push(index),
            None => self.by_stem.entry(stem(&rule.expression)).or_default().push(index),
        }
        self.rules.push(rule);
    }

    /// Returns the label of a path, or `None` when the policy gives it none.
    ///
    /// # Errors
    /// [`ContextsError::Expression`] for a rule that is needed and cannot be compiled.
    pub(crate) fn label(&self, path: &[u8], kind: FileKind) -> Result<Option<&[u8]>, ContextsError> {
        let fits = |rule: &ContextRule| rule.kind.is_none_or(|wanted| wanted == kind);
        let exact = self.exact.get(path).into_iter().flatten().rev().find(|index| fits(&self.rules[**index]));
        if let Some(index) = exact {
            return Ok(self.rules[*index].label.as_deref());
        }
        let mut best = None;
        for stem in stems(path) {
            for &index in self.by_stem.get(stem).into_iter().flatten().rev() {
                if best.is_some_and(|best| index <= best) {
                    break;
                }
                if fits(&self.rules[index]) && self.rules[index].matches(path)? {
                    best = Some(index);
                    break;
                }
            }
        }
        Ok(best.and_then(|index| self.rules[index].label.as_deref()))
    }

    /// Labels every entry of a tree by its path, replacing existing labels. An entry without a label in the policy gets none.
    pub(crate) fn apply(&self, tree: &mut Tree) -> Result<(), ContextsError> {
        self.apply_as(tree, &|path| path.to_vec())
    }

    /// Labels a tree like [`Self::apply`], but looks up each entry under the path that `policy_path` returns.
    fn apply_as(&self, tree: &mut Tree, policy_path: &dyn Fn(&[u8]) -> Vec<u8>) -> Result<(), ContextsError> {
        let mut pending = vec![(tree.root(), Vec::new())];
        while let Some((node, path)) = pending.pop() {
            let shown: &[u8] = if path.is_empty() { b"/" } else { &path };
            let kind = tree.node(node).kind.file_kind();
            let label = self.label(&policy_path(shown), kind)?;
            set_label(tree, node, label)?;
            if kind == FileKind::Directory {
                let below = |name: &[u8]| [&path, &b"/"[..], name].concat();
                pending.extend(tree.children(node).map(|(name, child)| (child, below(name.as_bytes()))));
            }
        }
        Ok(())
    }
}

fn set_label(tree: &mut Tree, node: NodeId, label: Option<&[u8]>) -> Result<(), XattrError> {
    let xattrs = &mut tree.node_mut(node).metadata.xattrs;
    match label {
        // The terminating NUL is part of the value for the kernel and for the tools that compare labels.
        Some(label) => xattrs.set(LABEL_ATTRIBUTE, &[label, b"\0"].concat()),
        None => {
            xattrs.remove(LABEL_ATTRIBUTE);
            Ok(())
        }
    }
}

impl ContextRule {
    fn matches(&self, path: &[u8]) -> Result<bool, ContextsError> {
        let compiled = match self.compiled.get() {
            Some(compiled) => compiled,
            None => {
                let compiled = Regex::new(&format!("(?s-u)^(?:{})$", self.expression))
                    .map_err(|error| ContextsError::Expression { line: self.line, source: Box::new(error) })?;
                self.compiled.get_or_init(|| compiled)
            }
        };
        Ok(compiled.is_match(path))
    }
}

fn parse_line(line: usize, text: &str) -> Result<ContextRule, ContextsError> {
    let fields: Vec<&str> = text.split_whitespace().collect();
    let (expression, kind, label) = match fields[..] {
        [expression, label] => (expression, None, label),
        [expression, kind, label] => (expression, Some(kind), label),
        _ => return Err(ContextsError::Fields { line }),
    };
    let kind = match kind {
        None => None,
        Some("--") => Some(FileKind::Regular),
        Some("-d") => Some(FileKind::Directory),
        Some("-l") => Some(FileKind::Symlink),
        Some("-c") => Some(FileKind::CharDevice),
        Some("-b") => Some(FileKind::BlockDevice),
        Some("-p") => Some(FileKind::Fifo),
        Some("-s") => Some(FileKind::Socket),
        Some(found) => return Err(ContextsError::Kind { line, found: found.to_owned() }),
    };
    let label = (label != "<<none>>").then(|| label.as_bytes().to_vec());
    Ok(ContextRule { line, expression: expression.to_owned(), compiled: OnceCell::new(), kind, label })
}

/// Characters that distinguish an expression from a plain path.
const SPECIAL: &[u8] = b".^$?*+|[({";

/// Returns the path that an expression without special characters matches, or `None` if it has special characters.
fn literal_path(expression: &str) -> Option<Vec<u8>> {
    let mut path = Vec::with_capacity(expression.len());
    let mut bytes = expression.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => path.push(bytes.next()?),
            _ if SPECIAL.contains(&byte) => return None,
            _ => path.push(byte),
        }
    }
    Some(path)
}

/// Returns the directory that contains every path matching the expression: its literal start up to the last slash. A `?`
/// or `*` makes the character before it optional, and alternatives at the top level have no common start.
fn stem(expression: &str) -> Vec<u8> {
    let end = expression.bytes().position(|byte| byte == b'\\' || SPECIAL.contains(&byte)).unwrap_or(expression.len());
    let mut plain = &expression.as_bytes()[..end];
    if matches!(expression.as_bytes().get(end), Some(b'?' | b'*' | b'{')) {
        plain = &plain[..plain.len().saturating_sub(1)];
    }
    let has_top_level_choice = expression.contains('|') && !expression.contains('(');
    match plain.iter().rposition(|byte| *byte == b'/') {
        Some(slash) if !has_top_level_choice => plain[..slash].to_vec(),
        _ => Vec::new(),
    }
}

/// Returns the directories above a path from the top, beginning with `""`, in the form of [`stem`].
fn stems(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(index, _)| &path[..index])
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "\
# a comment
/.*                     system_u:object_r:default_t:s0
/usr(/.*)?              system_u:object_r:usr_t:s0
/usr/bin(/.*)?          system_u:object_r:bin_t:s0
/usr/bin/sh       --    system_u:object_r:shell_exec_t:s0
/usr/lib(/.*)?\\.so(\\.[^/]*)* -- system_u:object_r:lib_t:s0
/usr/x\\.conf            system_u:object_r:exact_t:s0
/usr/x.*                system_u:object_r:later_t:s0
/usr/none               <<none>>
%{HOME}/x               template
/                 -d    system_u:object_r:root_t:s0
";

    #[test]
    fn exact_rule_wins_over_pattern_and_last_over_first() {
        let contexts = FileContexts::parse(POLICY).expect("valid");
        let cases = [
            ("/", FileKind::Directory, Some("root_t")),
            ("/etc", FileKind::Directory, Some("default_t")),
            ("/usr", FileKind::Directory, Some("usr_t")),
            ("/usr/bin/ls", FileKind::Regular, Some("bin_t")),
            ("/usr/bin/sh", FileKind::Regular, Some("shell_exec_t")),
            ("/usr/bin/sh", FileKind::Symlink, Some("bin_t")),
            ("/usr/lib/a/b.so.1", FileKind::Regular, Some("lib_t")),
            ("/usr/lib/a/b.so.1", FileKind::Symlink, Some("usr_t")),
            ("/usr/x.conf", FileKind::Regular, Some("exact_t")),
            ("/usr/xyz", FileKind::Regular, Some("later_t")),
            ("/usr/none", FileKind::Regular, None),
        ];
        for (path, kind, expected) in cases {
            let label = contexts.label(path.as_bytes(), kind).expect("rules compile");
            let expected = expected.map(|name| format!("system_u:object_r:{name}:s0").into_bytes());
            assert_eq!(label.map(<[u8]>::to_vec), expected, "{path}");
        }
    }

    #[test]
    fn errors_name_the_line() {
        for (text, line) in [("\n/a", 2), ("/a -q x", 1), ("/a -- b c", 1)] {
            let message = FileContexts::parse(text).err().expect("an invalid line").to_string();
            assert!(message.starts_with(&format!("line {line}:")), "{message}");
        }
    }
}
