//! Reads package sources in both formats of apt, and writes them in one (deb822), with known fields only. Pure.
//!
//! apt has many spellings for options that switch verification off. What is written here has none of them, whatever was read,
//! unless the treefile names the source in `unsigned-repos`.
//!
//! Formats: `sources.list(5)`.
//!
//! *Used by* `sources`.

use std::collections::BTreeMap;

/// The fields that say where a source is, in the order in which they are written.
const PLACE_FIELDS: [&str; 4] = ["types", "uris", "suites", "components"];

/// The other fields that are passed on. None has to do with verification, except for the keys.
const PASSED_FIELDS: [&str; 12] = [
    "architectures",
    "by-hash",
    "check-date",
    "check-valid-until",
    "date-max-future",
    "enabled",
    "languages",
    "pdiffs",
    "signed-by",
    "targets",
    "valid-until-max",
    "valid-until-min",
];

/// The fields that weaken or switch off verification.
const WEAKENING_FIELDS: [&str; 4] = ["trusted", "allow-insecure", "allow-weak", "allow-downgrade-to-insecure"];

/// The names that options of the one-line format have as fields.
const OPTION_NAMES: [(&str, &str); 3] = [("arch", "architectures"), ("lang", "languages"), ("target", "targets")];

/// The words that apt reads as "no".
const NO_WORDS: [&str; 6] = ["no", "false", "without", "off", "disable", "0"];

/// Why sources cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceListError {
    /// A line or field is not understood.
    #[error("'apt-sources': {0}")]
    Syntax(String),
    /// A source asks not to be verified.
    #[error("{uri} switches off the verification of signatures ({field})")]
    Unverified {
        /// The address of the source.
        uri: String,
        /// The field that does it.
        field: &'static str,
    },
}

/// The fields of one source; names are in lower case, and a value may have several lines.
type Fields = BTreeMap<String, String>;

/// Reads sources in the one-line format and returns them as stanzas. `is_unsigned` says of an address whether the treefile
/// allows it to be used without verification.
///
/// # Errors
/// [`SourceListError`].
pub fn read_lines(text: &str, is_unsigned: &dyn Fn(&str) -> bool) -> Result<String, SourceListError> {
    let mut stanzas = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if !line.is_empty() {
            let fields = parse_line(line).ok_or_else(|| SourceListError::Syntax(format!("'{line}' is no source")))?;
            stanzas.push(render(fields, is_unsigned)?);
        }
    }
    Ok(stanzas.join("\n"))
}

/// Reads sources in the deb822 format and returns them with known fields only.
///
/// # Errors
/// As for [`read_lines`].
pub fn read_stanzas(text: &str, is_unsigned: &dyn Fn(&str) -> bool) -> Result<String, SourceListError> {
    let (mut stanzas, mut fields, mut last) = (Vec::new(), Fields::new(), None);
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            if !fields.is_empty() {
                stanzas.push(render(std::mem::take(&mut fields), is_unsigned)?);
            }
            last = None;
        } else if line.starts_with([' ', '\t']) {
            let name = last.as_ref().ok_or_else(|| SourceListError::Syntax(format!("'{line}' continues no field")))?;
            let value = fields.entry(String::clone(name)).or_default();
            value.push('\n');
            value.push_str(line.trim());
        } else {
            let (name, value) =
                line.split_once(':').ok_or_else(|| SourceListError::Syntax(format!("'{line}' is no field")))?;
            let name = name.trim().to_lowercase();
            if fields.insert(name.clone(), value.trim().to_owned()).is_some() {
                return Err(SourceListError::Syntax(format!("a source has '{name}' twice")));
            }
            last = Some(name);
        }
    }
    Ok(stanzas.join("\n"))
}

/// Parses `deb [NAME=VALUE …] URI SUITE [COMPONENT …]`.
fn parse_line(line: &str) -> Option<Fields> {
    let mut fields = Fields::new();
    let (kind, rest) = line.split_once(char::is_whitespace)?;
    fields.insert("types".to_owned(), kind.to_owned());
    let mut rest = rest.trim_start();
    if let Some(inside) = rest.strip_prefix('[') {
        let (options, after) = inside.split_once(']')?;
        for option in options.split_whitespace() {
            let (name, value) = option.split_once('=')?;
            let name = name.to_lowercase();
            let name =
                OPTION_NAMES.iter().find(|(short, _)| *short == name).map_or(name, |(_, long)| (*long).to_owned());
            // `+=` and `-=` change a default of apt's.
            if name.ends_with(['+', '-']) || fields.insert(name, value.replace(',', " ")).is_some() {
                return None;
            }
        }
        rest = after;
    }
    let mut words = rest.split_whitespace();
    fields.insert("uris".to_owned(), words.next()?.to_owned());
    fields.insert("suites".to_owned(), words.next()?.to_owned());
    let components = words.collect::<Vec<_>>().join(" ");
    if !components.is_empty() {
        fields.insert("components".to_owned(), components);
    }
    Some(fields)
}

fn render(mut fields: Fields, is_unsigned: &dyn Fn(&str) -> bool) -> Result<String, SourceListError> {
    let uris = fields.get("uris").cloned().unwrap_or_default();
    let mut text = String::new();
    for name in PLACE_FIELDS {
        match fields.remove(name) {
            Some(value) => push_field(&mut text, name, &value)?,
            None if name == "components" => {}
            None => return Err(SourceListError::Syntax(format!("a source has no '{name}'"))),
        }
    }
    for field in WEAKENING_FIELDS {
        let Some(value) = fields.remove(field) else { continue };
        if NO_WORDS.contains(&value.to_lowercase().as_str()) {
            continue;
        }
        if !is_unsigned(&uris) {
            let uri = uris.split_whitespace().next().unwrap_or_default().to_owned();
            return Err(SourceListError::Unverified { uri, field });
        }
        push_field(&mut text, field, "yes")?;
    }
    for (name, value) in fields {
        if PASSED_FIELDS.contains(&name.as_str()) {
            push_field(&mut text, &name, &value)?;
        } else if !name.starts_with("x-") {
            return Err(SourceListError::Syntax(format!("'{name}' is no field that is known here")));
        }
    }
    Ok(text)
}

/// Appends a field; the lines of its value after the first are written as continuations.
fn push_field(text: &mut String, name: &str, value: &str) -> Result<(), SourceListError> {
    if value.contains(|c: char| c.is_control() && c != '\n') {
        return Err(SourceListError::Syntax(format!("'{name}' has a control character")));
    }
    text.push_str(name);
    text.push(':');
    for line in value.split('\n') {
        text.push(' ');
        text.push_str(line);
        text.push('\n');
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_become_the_same_stanza() {
        let line =
            "# mirror\ndeb [arch=amd64,arm64 signed-by=/k.gpg trusted=no] http://h/d bookworm main contrib # x\n";
        let stanza = "Types: deb\nURIs: http://h/d\nSuites: bookworm\nComponents: main\n contrib\nX-Note: z\nArchitectures: amd64 arm64\nSigned-By: /k.gpg\n";
        let (first, second) = (read_lines(line, &|_| false), read_stanzas(stanza, &|_| false));
        let expected = "types: deb\nuris: http://h/d\nsuites: bookworm\ncomponents: main contrib\narchitectures: amd64 arm64\nsigned-by: /k.gpg\n";
        assert_eq!(first.as_deref(), Ok(expected));
        assert_eq!(second.map(|text| text.replace("main\n contrib", "main contrib")).as_deref(), Ok(expected));
    }

    #[test]
    fn key_in_a_stanza_keeps_its_lines() {
        let stanza =
            "Types: deb\nURIs: http://h/\nSuites: ./\nSigned-By:\n -----BEGIN-----\n .\n abc\n -----END-----\n";
        let text = read_stanzas(stanza, &|_| false).expect("legal");
        assert!(text.ends_with("signed-by: \n -----BEGIN-----\n .\n abc\n -----END-----\n"), "{text}");
    }

    #[test]
    fn every_spelling_of_an_unverified_source_is_refused() {
        for value in ["yes", "YES", "true", "1", "on", "with", "enable", "force", "2", "yes,", "\"yes\""] {
            let line = format!("deb [trusted={value}] http://h/ ./\n");
            let stanza = format!("types: deb\nuris: http://h/\nsuites: ./\nTRUSTED : {value}\n");
            for read in [read_lines(&line, &|_| false), read_stanzas(&stanza, &|_| false)] {
                assert_eq!(read, Err(SourceListError::Unverified { uri: "http://h/".to_owned(), field: "trusted" }));
            }
            let named = read_lines(&line, &|uri| uri == "http://h/").expect("named");
            assert!(named.contains("trusted: yes\n"), "{named}");
        }
        for line in ["deb [trusted+=yes] http://h/ ./", "deb [ trusted=yes http://h/ ./", "deb \"http://h/\"", "deb"] {
            assert!(matches!(read_lines(line, &|_| false), Err(SourceListError::Syntax(_))), "{line}");
        }
    }
}
