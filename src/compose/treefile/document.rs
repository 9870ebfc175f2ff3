//! A YAML or JSON text as a tree of values, each with its place.
//!
//! *Not here*: which keys there are (`keys`) and which form their values have (`forms`).
//!
//! *Invariants*: a scalar keeps its text as written, so that `1.10` and `no` can be read as texts.
//!
//! *Used by* `forms`.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::error::Place;

/// A value and where it stands.
pub(super) struct Node {
    /// The line and column.
    pub(super) place: Place,
    pub(super) value: NodeValue,
}

/// What a node holds.
pub(super) enum NodeValue {
    /// Nothing: a key without a value.
    Empty,
    /// `true` or `false`; YAML also takes `yes`, `no`, `on` and `off`.
    Bool { text: String, value: bool },
    /// A whole number.
    Whole { text: String, value: i64 },
    /// Any other text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A mapping, in the order of the file; a key may be there more than once.
    Map(Vec<(String, Place, Node)>),
}

/// Parses a text.
///
/// # Errors
/// The place, and what is wrong there.
pub(super) fn parse(text: &str) -> Result<Node, (Place, String)> {
    let options = serde_saphyr::options! { duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins };
    // A mapping with the same key twice is read by `Parsed`, which keeps both.
    let parsed: Result<Spanned<Parsed>, _> = serde_saphyr::from_str_with_options(text, options);
    match parsed {
        Ok(parsed) => Ok(node(parsed, text)),
        Err(error) => {
            let place = error.location().map_or(Place { line: 1, column: 1 }, |location| Place {
                line: location.line(),
                column: location.column(),
            });
            let what = "this is not YAML or JSON: look for a bracket or quotation mark that is not closed, a tab, an \
                indentation that differs from that of the lines before, or a second ':' in a line";
            Err((place, what.to_owned()))
        }
    }
}

/// A value as the parser of YAML gives it.
enum Parsed {
    Empty,
    Bool(bool),
    Whole(i64),
    /// A number that is no `i64`; its text is what counts.
    Number(f64),
    Text(String),
    List(Vec<Spanned<Parsed>>),
    Map(Vec<(Spanned<Parsed>, Spanned<Parsed>)>),
}

impl<'de> Deserialize<'de> for Parsed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ParsedVisitor)
    }
}

struct ParsedVisitor;

impl<'de> Visitor<'de> for ParsedVisitor {
    type Value = Parsed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Parsed, E> {
        Ok(Parsed::Empty)
    }

    fn visit_none<E>(self) -> Result<Parsed, E> {
        Ok(Parsed::Empty)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Parsed, D::Error> {
        Parsed::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Parsed, E> {
        Ok(Parsed::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Parsed, E> {
        Ok(Parsed::Whole(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Parsed, E> {
        Ok(i64::try_from(value).map_or_else(|_| Parsed::Text(value.to_string()), Parsed::Whole))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Parsed, E> {
        Ok(Parsed::Number(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Parsed, E> {
        Ok(Parsed::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Parsed, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = list.next_element()? {
            elements.push(element);
        }
        Ok(Parsed::List(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parsed, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Parsed::Map(entries))
    }
}

fn node(parsed: Spanned<Parsed>, source: &str) -> Node {
    let place = Place { line: parsed.referenced.line(), column: parsed.referenced.column() };
    // The text of a number or a boolean as written: of `1.10`, the number would be 1.1.
    let span = parsed.defined.span();
    let written = span.byte_offset().zip(span.byte_len()).and_then(|(start, length)| {
        let start = usize::try_from(start).ok()?;
        source.get(start..start.checked_add(usize::try_from(length).ok()?)?)
    });
    let written = |value: String| written.map(str::trim).filter(|text| !text.is_empty()).map_or(value, str::to_owned);
    let value = match parsed.value {
        Parsed::Empty => NodeValue::Empty,
        Parsed::Bool(value) => NodeValue::Bool { text: written(value.to_string()), value },
        Parsed::Whole(value) => NodeValue::Whole { text: written(value.to_string()), value },
        Parsed::Number(value) => NodeValue::Text(written(value.to_string())),
        Parsed::Text(text) => NodeValue::Text(text),
        Parsed::List(elements) => NodeValue::List(elements.into_iter().map(|element| node(element, source)).collect()),
        Parsed::Map(entries) => NodeValue::Map(
            entries
                .into_iter()
                .map(|(key, value)| {
                    let key = node(key, source);
                    (key.text().unwrap_or_default(), key.place, node(value, source))
                })
                .collect(),
        ),
    };
    Node { place, value }
}

impl Node {
    /// Returns the text of a scalar as written.
    pub(super) fn text(&self) -> Option<String> {
        match &self.value {
            NodeValue::Bool { text, .. } | NodeValue::Whole { text, .. } | NodeValue::Text(text) => Some(text.clone()),
            NodeValue::Empty | NodeValue::List(_) | NodeValue::Map(_) => None,
        }
    }

    /// Returns what the value is, in words.
    pub(super) const fn kind(&self) -> &'static str {
        match self.value {
            NodeValue::Empty => "nothing",
            NodeValue::Bool { .. } => "true or false",
            NodeValue::Whole { .. } => "a number",
            NodeValue::Text(_) => "a text",
            NodeValue::List(_) => "a list",
            NodeValue::Map(_) => "a mapping",
        }
    }
}
