//! Variables of a treefile: their values, substitution of `${name}` in texts, and conditions.
//!
//! *Used by* `load` and `decide`.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

/// The value of a variable.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum VariableValue {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Number(i64),
    /// Anything else.
    Text(String),
}

impl fmt::Display for VariableValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Number(value) => value.fmt(f),
            Self::Text(value) => f.write_str(value),
        }
    }
}

/// Why a text with variables, or a condition, cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VariableError {
    /// A variable is not set.
    #[error("there is no variable '{name}'; those there are: {}", .known.join(", "))]
    Unknown {
        /// Its name.
        name: String,
        /// The names of the variables that are set.
        known: Vec<String>,
    },
    /// A `${` has no `}`.
    #[error("'{0}' has a '${{' without a '}}'")]
    Open(String),
    /// A condition is not `variable operator value`.
    #[error("'{0}' is no condition: expected 'variable operator value', the operator one of == != < <= > >=")]
    Condition(String),
    /// The value has another type than the variable.
    #[error("'{condition}' compares {variable} with another type of value")]
    Types {
        /// The condition.
        condition: String,
        /// The variable's value.
        variable: VariableValue,
    },
}

/// The variables of a treefile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Variables(BTreeMap<String, VariableValue>);

impl Variables {
    /// Returns the variable `basearch` alone.
    pub(crate) fn new(arch: &str) -> Self {
        Self(BTreeMap::from([("basearch".to_owned(), VariableValue::Text(arch.to_owned()))]))
    }

    /// Sets a variable unless it is set already.
    pub(crate) fn set_default(&mut self, name: &str, value: VariableValue) {
        self.0.entry(name.to_owned()).or_insert(value);
    }

    fn get(&self, name: &str) -> Result<&VariableValue, VariableError> {
        self.0
            .get(name)
            .ok_or_else(|| VariableError::Unknown { name: name.to_owned(), known: self.0.keys().cloned().collect() })
    }

    /// Returns `text` with each `${name}` replaced by the variable's value.
    pub(crate) fn substitute(&self, text: &str) -> Result<String, VariableError> {
        let mut done = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let (name, after) = after.split_once('}').ok_or_else(|| VariableError::Open(text.to_owned()))?;
            done.push_str(before);
            done.push_str(&self.get(name.trim())?.to_string());
            rest = after;
        }
        Ok(done + rest)
    }

    /// Returns whether the condition `variable operator value` holds.
    pub(crate) fn evaluate(&self, condition: &str) -> Result<bool, VariableError> {
        let bad = || VariableError::Condition(condition.to_owned());
        let at = condition.find(['=', '!', '<', '>']).ok_or_else(bad)?;
        let end = condition[at..].find(|c| !"=!<>".contains(c)).map_or(condition.len(), |length| at + length);
        let (name, operator, value) = (condition[..at].trim(), &condition[at..end], condition[end..].trim());
        if name.is_empty() || value.is_empty() {
            return Err(bad());
        }
        let variable = self.get(name)?;
        let order = match (variable, parse_literal(value)) {
            (VariableValue::Bool(a), VariableValue::Bool(b)) => a.cmp(&b),
            (VariableValue::Number(a), VariableValue::Number(b)) => a.cmp(&b),
            (VariableValue::Text(a), VariableValue::Text(b)) => a.cmp(&b),
            // `releasever` is a text, but it is mostly compared with a number.
            (VariableValue::Text(a), VariableValue::Number(b)) if a.parse::<i64>().is_ok() => {
                a.parse::<i64>().unwrap_or(b).cmp(&b)
            }
            (variable, _) => {
                return Err(VariableError::Types { condition: condition.to_owned(), variable: variable.clone() });
            }
        };
        match operator {
            "==" => Ok(order == Ordering::Equal),
            "!=" => Ok(order != Ordering::Equal),
            "<" => Ok(order == Ordering::Less),
            "<=" => Ok(order != Ordering::Greater),
            ">" => Ok(order == Ordering::Greater),
            ">=" => Ok(order != Ordering::Less),
            _ => Err(bad()),
        }
    }
}

fn parse_literal(text: &str) -> VariableValue {
    let quoted = |quote: char| text.strip_prefix(quote).and_then(|text| text.strip_suffix(quote));
    if let Some(text) = quoted('"').or_else(|| quoted('\'')) {
        return VariableValue::Text(text.to_owned());
    }
    match (text, text.parse()) {
        ("true", _) => VariableValue::Bool(true),
        ("false", _) => VariableValue::Bool(false),
        (_, Ok(number)) => VariableValue::Number(number),
        _ => VariableValue::Text(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables() -> Variables {
        let mut variables = Variables::new("x86_64");
        variables.set_default("releasever", VariableValue::Text("42".into()));
        variables.set_default("dev", VariableValue::Bool(true));
        variables.set_default("stream", VariableValue::Text("stable".into()));
        variables
    }

    #[test]
    fn substitute_replaces_known_variables() {
        let done = variables().substitute("os/${basearch}/${releasever}-${dev}$x");
        assert_eq!(done.as_deref(), Ok("os/x86_64/42-true$x"));
        assert!(matches!(variables().substitute("${nope}"), Err(VariableError::Unknown { .. })));
        assert!(matches!(variables().substitute("${dev"), Err(VariableError::Open(_))));
    }

    #[test]
    fn conditions_are_evaluated_or_refused() {
        for (condition, holds) in [
            ("dev == true", true),
            ("dev != true", false),
            ("releasever >= 35", true),
            ("releasever < 42", false),
            ("stream == \"stable\"", true),
            ("stream != 'devel'", true),
            ("basearch == x86_64", true),
        ] {
            assert_eq!(variables().evaluate(condition), Ok(holds), "{condition}");
        }
        for bad in ["dev", "dev = true", "== true", "dev ==", "dev == 1", "stream > 5", "nope == 1"] {
            assert!(variables().evaluate(bad).is_err(), "{bad}");
        }
    }
}
