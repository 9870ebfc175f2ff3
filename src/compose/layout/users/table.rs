//! Parses and renders `/etc/passwd` and `/etc/group`: lines of fields separated by colons.

use super::super::LayoutError;

/// The lines of one file, in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AccountTable {
    lines: Vec<Vec<String>>,
}

impl AccountTable {
    /// Parses lines whose third field is a number. Empty lines and those that start with `#`, `+` or `-` are dropped.
    ///
    /// # Errors
    /// [`LayoutError::Users`] names the line.
    pub(crate) fn parse(file: &'static str, text: &str) -> Result<Self, LayoutError> {
        let mut lines = Vec::new();
        for (index, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with(['#', '+', '-']) {
                continue;
            }
            let fields: Vec<String> = line.split(':').map(str::to_owned).collect();
            let error = |what| LayoutError::Users { file, line: index + 1, what };
            match fields.get(2).map(|id| id.parse::<u32>()) {
                None => return Err(error("too few fields")),
                Some(Err(_)) => return Err(error("the third field is no number")),
                Some(Ok(_)) => lines.push(fields),
            }
        }
        Ok(Self { lines })
    }

    /// Returns the names and ids, in the order of the lines.
    pub(crate) fn ids(&self) -> impl Iterator<Item = (&str, u32)> + Clone {
        self.lines.iter().map(|line| (line[0].as_str(), parsed_id(&line[2])))
    }

    /// Returns the id of a name.
    pub(crate) fn id(&self, name: &str) -> Option<u32> {
        self.ids().find(|(other, _)| *other == name).map(|(_, id)| id)
    }

    /// Returns the first name with an id.
    pub(crate) fn name(&self, id: u32) -> Option<&str> {
        self.ids().find(|(_, other)| *other == id).map(|(name, _)| name)
    }

    /// Returns one field of each line, with the line's name.
    pub(crate) fn field(&self, index: usize) -> impl Iterator<Item = (&str, &str)> {
        self.lines.iter().map(move |line| (line[0].as_str(), line.get(index).map_or("", String::as_str)))
    }

    /// Returns the fields of the line of a name.
    pub(crate) fn line(&self, name: &str) -> Option<&[String]> {
        self.lines.iter().find(|line| line[0] == name).map(Vec::as_slice)
    }

    /// Replaces the ids in one field of all lines.
    pub(crate) fn renumber(&mut self, field: usize, map: impl Fn(u32) -> u32) {
        for line in &mut self.lines {
            if let Some(text) = line.get_mut(field)
                && let Ok(id) = text.parse()
            {
                *text = map(id).to_string();
            }
        }
    }

    /// Returns the text of the file.
    pub(crate) fn render(&self) -> String {
        self.lines.iter().map(|line| line.join(":") + "\n").collect()
    }
}

/// Returns the id in a field; [`AccountTable::parse`] has checked that it is a number.
fn parsed_id(text: &str) -> u32 {
    text.parse().unwrap_or(u32::MAX)
}
