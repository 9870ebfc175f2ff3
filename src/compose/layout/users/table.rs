//! `/etc/passwd` and `/etc/group`: lines of fields with colons between them, in their order.

use super::super::LayoutError;

/// The names and numbers of one file, in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    lines: Vec<Vec<String>>,
}

impl Table {
    /// Reads lines whose third field is a number.
    ///
    /// # Errors
    /// [`LayoutError::Users`] names the line.
    pub fn parse(file: &'static str, text: &str) -> Result<Self, LayoutError> {
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

    /// Names and numbers.
    pub fn ids(&self) -> impl Iterator<Item = (&str, u32)> + Clone {
        self.lines.iter().map(|line| (line[0].as_str(), number(&line[2])))
    }

    /// The number of a name.
    pub fn id(&self, name: &str) -> Option<u32> {
        self.ids().find(|(other, _)| *other == name).map(|(_, id)| id)
    }

    /// The first name of a number.
    pub fn name(&self, id: u32) -> Option<&str> {
        self.ids().find(|(_, other)| *other == id).map(|(name, _)| name)
    }

    /// A field of each line, with the line's name.
    pub fn field(&self, index: usize) -> impl Iterator<Item = (&str, &str)> {
        self.lines.iter().map(move |line| (line[0].as_str(), line.get(index).map_or("", String::as_str)))
    }

    /// The fields of a name.
    pub fn line(&self, name: &str) -> Option<&[String]> {
        self.lines.iter().find(|line| line[0] == name).map(Vec::as_slice)
    }

    /// Replaces the numbers in one field.
    pub fn renumber(&mut self, field: usize, map: impl Fn(u32) -> u32) {
        for line in &mut self.lines {
            if let Some(text) = line.get_mut(field)
                && let Ok(id) = text.parse()
            {
                *text = map(id).to_string();
            }
        }
    }

    /// The text of the file.
    pub fn render(&self) -> String {
        self.lines.iter().map(|line| line.join(":") + "\n").collect()
    }
}

/// [`Table::parse`] has checked it.
fn number(text: &str) -> u32 {
    text.parse().unwrap_or(u32::MAX)
}
