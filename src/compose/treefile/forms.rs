//! The check of a whole file: its keys, and the form of their values.
//!
//! A file that has the right form is turned into one JSON object, from which [`super::raw::RawTreefile`] is read: keys without a
//! value are left out, and `packages-ARCH` of all architectures stand in `packages-by-arch`.
//!
//! *Not here*: the list of keys (`keys`), and what the values mean (`decide`).
//!
//! *Invariants*: each problem of a file is told, with its place, in the words of treefiles.
//!
//! *Used by* `raw`.

use serde_json::{Map, Value};

use super::document::{self, Node, NodeValue};
use super::error::{Place, Problem};
use super::keys::{self, Effect};
use super::value_form::Form;

/// A file whose keys and values have the right form.
pub(super) struct CheckedFile {
    /// The keys and their values.
    pub(super) object: Value,
    /// Where each key stands.
    pub(super) places: Vec<(String, Place)>,
    /// Keys that have no effect, each with the reason.
    pub(super) notes: Vec<(String, &'static str)>,
}

/// Parses a text and checks all of it. In JSON, unknown keys are comments, as for rpm-ostree.
///
/// # Errors
/// All problems of the text.
pub(super) fn check(text: &str, is_json: bool) -> Result<CheckedFile, Vec<Problem>> {
    let document = document::parse(text).map_err(|(place, what)| vec![Problem { place, what }])?;
    let mut checker = Checker { is_json, problems: Vec::new(), notes: Vec::new(), places: Vec::new() };
    let object = checker.treefile(&document);
    if checker.problems.is_empty() {
        Ok(CheckedFile { object, places: checker.places, notes: checker.notes })
    } else {
        Err(checker.problems)
    }
}

struct Checker {
    is_json: bool,
    problems: Vec<Problem>,
    notes: Vec<(String, &'static str)>,
    places: Vec<(String, Place)>,
}

impl Checker {
    fn problem(&mut self, place: Place, what: String) {
        self.problems.push(Problem { place, what });
    }

    /// Checks the keys of a treefile, or those of an inline include.
    fn treefile(&mut self, node: &Node) -> Value {
        let mut object = Map::new();
        let entries = match &node.value {
            NodeValue::Map(entries) => entries,
            NodeValue::Empty => return Value::Object(object),
            _ => {
                let what = format!("a treefile is a mapping of keys to values, and this is {}", node.kind());
                self.problem(node.place, what);
                return Value::Object(object);
            }
        };
        let mut by_arch = Map::new();
        let mut seen: Vec<(String, Place)> = Vec::new();
        for (written, place, value) in entries {
            let key = keys::canonical(written);
            if let Some((_, first)) = seen.iter().find(|(other, _)| *other == key) {
                self.problem(
                    *place,
                    format!("'{written}' stands here for the second time; the first is in line {}", first.line),
                );
                continue;
            }
            seen.push((key.clone(), *place));
            if let Some(arch) = key.strip_prefix("packages-") {
                if !keys::is_arch_name(arch) {
                    self.problem(
                        *place,
                        format!("there is no key '{written}': '{arch}' is no name of an architecture"),
                    );
                } else if let Some(list) = self.value(written, Form::List, value) {
                    by_arch.insert(arch.to_owned(), list);
                }
                continue;
            }
            self.places.push((key.clone(), *place));
            match keys::find(&key) {
                Some((form, Effect::Used)) => {
                    if let Some(value) = self.value(written, form, value) {
                        object.insert(key, value);
                    }
                }
                Some((_, Effect::Noted(why))) => self.notes.push((written.clone(), why)),
                Some((_, Effect::Refused(instead))) => {
                    // A key without a value, or with `false`, asks for nothing.
                    let asks = !matches!(&value.value, NodeValue::Empty | NodeValue::Bool { value: false, .. })
                        && !matches!(&value.value, NodeValue::List(list) if list.is_empty());
                    if asks {
                        self.problem(*place, format!("'{written}' is not supported: {instead}"));
                    }
                }
                None if self.is_json => self.notes.push((written.clone(), "unknown keys of JSON are comments")),
                None => {
                    let near = keys::nearest(written);
                    let hint = near.map_or_else(String::new, |near| format!("; did you mean '{near}'?"));
                    self.problem(*place, format!("there is no key '{written}'{hint}"));
                }
            }
        }
        if !by_arch.is_empty() {
            object.insert("packages-by-arch".to_owned(), Value::Object(by_arch));
        }
        Value::Object(object)
    }

    /// Checks one value; `None` if it is empty, or wrong and told.
    fn value(&mut self, key: &str, form: Form, node: &Node) -> Option<Value> {
        if matches!(node.value, NodeValue::Empty) {
            return None;
        }
        let before = self.problems.len();
        let value = self.formed(key, form, node);
        if value.is_none() && self.problems.len() == before {
            self.problem(node.place, format!("'{key}': expected {}, and this is {}", form.expected(), node.kind()));
        }
        value
    }

    /// Returns the value if it has the form; `None` otherwise, where problems inside of it are told already.
    fn formed(&mut self, key: &str, form: Form, node: &Node) -> Option<Value> {
        match (form, &node.value) {
            (Form::Text, _) => node.text().map(Value::String),
            (Form::Bool, NodeValue::Bool { value, .. }) => Some(Value::Bool(*value)),
            (
                Form::TextOrList | Form::Include,
                NodeValue::Bool { .. } | NodeValue::Whole { .. } | NodeValue::Text(_),
            ) => node.text().map(Value::String),
            (Form::List | Form::TextOrList, NodeValue::List(elements)) => self.elements(key, Form::Text, elements),
            (Form::Pairs, NodeValue::List(elements)) => {
                if let Some(wrong) = elements.iter().find(|element| !is_list_of_two(element)) {
                    self.problem(wrong.place, format!("'{key}': expected [source, destination] in each entry"));
                    return None;
                }
                self.elements(key, Form::List, elements)
            }
            (Form::Lists, NodeValue::List(elements)) => self.elements(key, Form::List, elements),
            (Form::Mapping, NodeValue::Map(_)) => Some(plain(node)),
            (Form::Variables, NodeValue::Map(entries)) => {
                for (name, _, value) in entries {
                    if value.text().is_none() {
                        let what = format!(
                            "'{key}': expected a text, a whole number or a boolean as '{name}', and this is {}",
                            value.kind()
                        );
                        self.problem(value.place, what);
                    }
                }
                Some(plain(node))
            }
            (Form::Check, NodeValue::Map(entries)) => self.check_of_users(key, node.place, entries),
            (Form::Include, NodeValue::List(elements)) => self.elements(key, Form::Include, elements),
            (Form::Include, NodeValue::Map(_)) => {
                let outer = std::mem::take(&mut self.places);
                let object = self.treefile(node);
                self.places = outer;
                Some(object)
            }
            (Form::ArchInclude, NodeValue::Map(entries)) => {
                let mut object = Map::new();
                for (arch, _, files) in entries {
                    object.extend(self.value(key, Form::Include, files).map(|files| (arch.clone(), files)));
                }
                Some(Value::Object(object))
            }
            (Form::Conditional, NodeValue::List(elements)) => {
                let fields = [("if", Form::TextOrList), ("include", Form::Include)];
                Some(elements.iter().filter_map(|element| self.record(key, form, &fields, element)).collect())
            }
            (Form::RepoPackages, NodeValue::List(elements)) => {
                let fields = [("repo", Form::Text), ("packages", Form::List)];
                Some(elements.iter().filter_map(|element| self.record(key, form, &fields, element)).collect())
            }
            _ => None,
        }
    }

    /// Checks the elements of a list. An element without a value is left out.
    fn elements(&mut self, key: &str, form: Form, elements: &[Node]) -> Option<Value> {
        Some(elements.iter().filter_map(|element| self.value(key, form, element)).collect())
    }

    /// Checks a mapping that has exactly these fields.
    fn record(&mut self, key: &str, form: Form, fields: &[(&str, Form)], node: &Node) -> Option<Value> {
        let NodeValue::Map(entries) = &node.value else {
            self.problem(
                node.place,
                format!("'{key}': expected {}, and this entry is {}", form.expected(), node.kind()),
            );
            return None;
        };
        let mut object = Map::new();
        for (name, place, value) in entries {
            let Some((_, form)) = fields.iter().find(|(field, _)| field == name) else {
                self.problem(
                    *place,
                    format!("'{key}': there is no '{name}' in an entry; expected {}", form.expected()),
                );
                continue;
            };
            object.extend(self.value(&format!("{key}: {name}"), *form, value).map(|value| (name.clone(), value)));
        }
        for (field, _) in fields {
            if !entries.iter().any(|(name, _, _)| name == field) {
                self.problem(node.place, format!("'{key}': '{field}' is missing in an entry"));
            }
        }
        Some(Value::Object(object))
    }

    fn check_of_users(&mut self, key: &str, place: Place, entries: &[(String, Place, Node)]) -> Option<Value> {
        let text = |name: &str| entries.iter().find(|(other, _, _)| other == name).and_then(|(_, _, node)| node.text());
        let wanted = match text("type").as_deref() {
            Some("none" | "previous") => None,
            Some("file") => Some("filename"),
            Some("data") => Some("entries"),
            _ => return None,
        };
        for (name, place, value) in entries {
            let is_right = match name.as_str() {
                "type" => true,
                "filename" => value.text().is_some(),
                "entries" => matches!(&value.value, NodeValue::Map(ids) if ids.iter().all(|(_, _, id)| is_ids(id))),
                _ => {
                    self.problem(*place, format!("'{key}': there is no '{name}'; expected {}", Form::Check.expected()));
                    continue;
                }
            };
            if !is_right {
                self.problem(
                    value.place,
                    format!("'{key}': '{name}' has another form; expected {}", Form::Check.expected()),
                );
            }
        }
        if let Some(wanted) = wanted.filter(|wanted| !entries.iter().any(|(name, _, _)| name == wanted)) {
            self.problem(place, format!("'{key}': '{wanted}' is missing; expected {}", Form::Check.expected()));
        }
        let fields = entries.iter().filter(|(name, _, _)| name == "type" || Some(name.as_str()) == wanted);
        Some(fields.map(|(name, _, value)| (name.clone(), plain(value))).collect())
    }
}

const fn is_list_of_two(node: &Node) -> bool {
    matches!(&node.value, NodeValue::List(elements) if elements.len() == 2)
}

/// Returns whether a node is a number of a user or group, or a list of these.
fn is_ids(node: &Node) -> bool {
    let is_id = |node: &Node| matches!(node.value, NodeValue::Whole { value, .. } if u32::try_from(value).is_ok());
    is_id(node) || matches!(&node.value, NodeValue::List(ids) if ids.iter().all(is_id))
}

/// Returns a value as JSON has it.
fn plain(node: &Node) -> Value {
    match &node.value {
        NodeValue::Empty => Value::Null,
        NodeValue::Bool { value, .. } => Value::Bool(*value),
        NodeValue::Whole { value, .. } => (*value).into(),
        NodeValue::Text(text) => Value::String(text.clone()),
        NodeValue::List(elements) => elements.iter().map(plain).collect(),
        NodeValue::Map(entries) => entries.iter().map(|(key, _, value)| (key.clone(), plain(value))).collect(),
    }
}
