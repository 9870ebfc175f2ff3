//! Variables of a treefile: their values, `${name}` in texts, and conditions.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

/// The value of a variable.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Number(i64),
    /// Anything else.
    Text(String),
}

impl fmt::Display for Value {
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
    /// A variable nobody set.
    #[error("there is no variable '{name}'; those there are: {}", .known.join(", "))]
    Unknown {
        /// Its name.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// `${` without an end.
    #[error("'{0}' has a '${{' without a '}}'")]
    Open(String),
    /// Not `variable operator value`.
    #[error("'{0}' is no condition: expected 'variable operator value', the operator one of == != < <= > >=")]
    Condition(String),
    /// A value that cannot be compared with the variable's.
    #[error("'{condition}' compares {variable} with another type of value")]
    Types {
        /// The condition.
        condition: String,
        /// The variable's value.
        variable: Value,
    },
}

/// The variables of a treefile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Variables(BTreeMap<String, Value>);

impl Variables {
    /// No variables but `basearch`.
    pub fn new(arch: &str) -> Self {
        Self(BTreeMap::from([("basearch".to_owned(), Value::Text(arch.to_owned()))]))
    }

    /// Sets a variable unless it is set.
    pub fn set_default(&mut self, name: &str, value: Value) {
        self.0.entry(name.to_owned()).or_insert(value);
    }

    fn get(&self, name: &str) -> Result<&Value, VariableError> {
        self.0
            .get(name)
            .ok_or_else(|| VariableError::Unknown { name: name.to_owned(), known: self.0.keys().cloned().collect() })
    }

    /// `text` with each `${name}` replaced by the variable's value.
    ///
    /// # Errors
    /// [`VariableError`].
    pub fn substitute(&self, text: &str) -> Result<String, VariableError> {
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

    /// Whether `variable operator value` holds.
    ///
    /// # Errors
    /// [`VariableError`].
    pub fn holds(&self, condition: &str) -> Result<bool, VariableError> {
        let bad = || VariableError::Condition(condition.to_owned());
        let at = condition.find(['=', '!', '<', '>']).ok_or_else(bad)?;
        let end = condition[at..].find(|c| !"=!<>".contains(c)).map_or(condition.len(), |length| at + length);
        let (name, operator, value) = (condition[..at].trim(), &condition[at..end], condition[end..].trim());
        if name.is_empty() || value.is_empty() {
            return Err(bad());
        }
        let variable = self.get(name)?;
        let order = match (variable, literal(value)) {
            (Value::Bool(a), Value::Bool(b)) => a.cmp(&b),
            (Value::Number(a), Value::Number(b)) => a.cmp(&b),
            (Value::Text(a), Value::Text(b)) => a.cmp(&b),
            // `releasever` is a text that is mostly compared as a number.
            (Value::Text(a), Value::Number(b)) if a.parse::<i64>().is_ok() => a.parse::<i64>().unwrap_or(b).cmp(&b),
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

fn literal(text: &str) -> Value {
    let quoted = |quote: char| text.strip_prefix(quote).and_then(|text| text.strip_suffix(quote));
    if let Some(text) = quoted('"').or_else(|| quoted('\'')) {
        return Value::Text(text.to_owned());
    }
    match (text, text.parse()) {
        ("true", _) => Value::Bool(true),
        ("false", _) => Value::Bool(false),
        (_, Ok(number)) => Value::Number(number),
        _ => Value::Text(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables() -> Variables {
        let mut variables = Variables::new("x86_64");
        variables.set_default("releasever", Value::Text("42".into()));
        variables.set_default("dev", Value::Bool(true));
        variables.set_default("stream", Value::Text("stable".into()));
        variables
    }

    #[test]
    fn texts_are_filled_in() {
        let done = variables().substitute("os/${basearch}/${releasever}-${dev}$x");
        assert_eq!(done.as_deref(), Ok("os/x86_64/42-true$x"));
        assert!(matches!(variables().substitute("${nope}"), Err(VariableError::Unknown { .. })));
        assert!(matches!(variables().substitute("${dev"), Err(VariableError::Open(_))));
    }

    #[test]
    fn conditions_hold_or_not_or_are_refused() {
        for (condition, holds) in [
            ("dev == true", true),
            ("dev != true", false),
            ("releasever >= 35", true),
            ("releasever < 42", false),
            ("stream == \"stable\"", true),
            ("stream != 'devel'", true),
            ("basearch == x86_64", true),
        ] {
            assert_eq!(variables().holds(condition), Ok(holds), "{condition}");
        }
        for bad in ["dev", "dev = true", "== true", "dev ==", "dev == 1", "stream > 5", "nope == 1"] {
            assert!(variables().holds(bad).is_err(), "{bad}");
        }
    }
}
