//! Parses and renders GRUB's environment block: 1024 bytes of `NAME=VALUE` lines that the boot loader can rewrite in place.
//!
//! *Not here*: what the variables mean (`grub`). Everything in this file is pure.
//!
//! *Used by* `grub` and `menu`.

use std::collections::BTreeMap;

const BLOCK_HEADER: &str = "# GRUB Environment Block\n";
const BLOCK_BYTES: usize = 1024;

/// Why bytes are not an environment block, or variables do not fit into one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GrubEnvError {
    /// The bytes do not begin with GRUB's header.
    #[error("not a GRUB environment block")]
    Header,
    /// The variables need more bytes than a block has.
    #[error("more than {BLOCK_BYTES} bytes of variables")]
    Full,
}

/// The variables of an environment block.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GrubEnv(BTreeMap<String, String>);

impl GrubEnv {
    /// Parses a block.
    ///
    /// # Errors
    /// [`GrubEnvError::Header`].
    pub fn parse(bytes: &[u8]) -> Result<Self, GrubEnvError> {
        let text = String::from_utf8_lossy(bytes);
        let rest = text.strip_prefix(BLOCK_HEADER).ok_or(GrubEnvError::Header)?;
        let lines = split_lines(rest).filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
        Ok(Self(lines.map(|(name, value)| (name.to_owned(), unescape(value))).collect()))
    }

    /// Returns the block as bytes.
    ///
    /// # Errors
    /// [`GrubEnvError::Full`].
    pub fn render(&self) -> Result<Vec<u8>, GrubEnvError> {
        let mut text = BLOCK_HEADER.to_owned();
        for (name, value) in &self.0 {
            text.push_str(&format!("{name}={}\n", value.replace('\\', "\\\\").replace('\n', "\\\n")));
        }
        if text.len() > BLOCK_BYTES {
            return Err(GrubEnvError::Full);
        }
        let mut bytes = text.into_bytes();
        bytes.resize(BLOCK_BYTES, b'#');
        Ok(bytes)
    }

    /// Returns the value of a variable.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Returns the names of all variables.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Sets a variable; `None` removes it.
    pub fn set(&mut self, name: &str, value: Option<String>) {
        match value {
            Some(value) => _ = self.0.insert(name.to_owned(), value),
            None => _ = self.0.remove(name),
        }
    }
}

/// Splits a block into lines. A line end after a backslash is part of the value.
fn split_lines(text: &str) -> impl Iterator<Item = &str> {
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
    fn block_round_trips_and_has_a_fixed_size() {
        let mut block = GrubEnv::default();
        block.set("sapwood_tries_7", Some("3".to_owned()));
        block.set("odd", Some("a\\b=c\nd=e\r".to_owned()));
        let bytes = block.render().expect("fits");
        assert_eq!(bytes.len(), BLOCK_BYTES);
        assert_eq!(GrubEnv::parse(&bytes), Ok(block.clone()));
        block.set("odd", None);
        assert_eq!(block.names().collect::<Vec<_>>(), ["sapwood_tries_7"]);
        block.set("long", Some("x".repeat(BLOCK_BYTES)));
        assert_eq!(block.render(), Err(GrubEnvError::Full));
        assert_eq!(GrubEnv::parse(b"nonsense"), Err(GrubEnvError::Header));
    }
}
