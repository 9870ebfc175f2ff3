//! GRUB's environment block: 1024 bytes of `NAME=VALUE` lines that a boot loader can rewrite in place. Pure.

use std::collections::BTreeMap;

const HEADER: &str = "# GRUB Environment Block\n";
const SIZE: usize = 1024;

/// Why bytes are no environment block, or do not fit one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GrubEnvError {
    /// Not written by GRUB.
    #[error("not a GRUB environment block")]
    Header,
    /// More than a block holds.
    #[error("more than {SIZE} bytes of variables")]
    Full,
}

/// The variables of a block.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GrubEnv(BTreeMap<String, String>);

impl GrubEnv {
    /// Reads a block.
    ///
    /// # Errors
    /// [`GrubEnvError::Header`].
    pub fn parse(bytes: &[u8]) -> Result<Self, GrubEnvError> {
        let text = String::from_utf8_lossy(bytes);
        let rest = text.strip_prefix(HEADER).ok_or(GrubEnvError::Header)?;
        let lines = lines(rest).filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
        Ok(Self(lines.map(|(name, value)| (name.to_owned(), unescape(value))).collect()))
    }

    /// The bytes that GRUB reads.
    ///
    /// # Errors
    /// [`GrubEnvError::Full`].
    pub fn render(&self) -> Result<Vec<u8>, GrubEnvError> {
        let mut text = HEADER.to_owned();
        for (name, value) in &self.0 {
            text.push_str(&format!("{name}={}\n", value.replace('\\', "\\\\").replace('\n', "\\\n")));
        }
        if text.len() > SIZE {
            return Err(GrubEnvError::Full);
        }
        let mut bytes = text.into_bytes();
        bytes.resize(SIZE, b'#');
        Ok(bytes)
    }

    /// A variable.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The names of all variables.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Sets or, with `None`, removes a variable.
    pub fn set(&mut self, name: &str, value: Option<String>) {
        match value {
            Some(value) => _ = self.0.insert(name.to_owned(), value),
            None => _ = self.0.remove(name),
        }
    }
}

/// A backslash takes the end of its line along: values may have several.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut is_escaped = false;
    text.split(move |character| {
        let is_end = character == '\n' && !is_escaped;
        is_escaped = character == '\\' && !is_escaped;
        is_end
    })
}

fn unescape(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        text.push(if character == '\\' { characters.next().unwrap_or(character) } else { character });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_has_one_size_and_survives() {
        let mut block = GrubEnv::default();
        block.set("sapwood_tries_7", Some("3".to_owned()));
        block.set("odd", Some("a\\b=c\nd=e\r".to_owned()));
        let bytes = block.render().expect("fits");
        assert_eq!(bytes.len(), SIZE);
        assert_eq!(GrubEnv::parse(&bytes), Ok(block.clone()));
        block.set("odd", None);
        assert_eq!(block.names().collect::<Vec<_>>(), ["sapwood_tries_7"]);
        block.set("long", Some("x".repeat(SIZE)));
        assert_eq!(block.render(), Err(GrubEnvError::Full));
        assert_eq!(GrubEnv::parse(b"nonsense"), Err(GrubEnvError::Header));
    }
}
