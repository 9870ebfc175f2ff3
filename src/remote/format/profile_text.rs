//! A profile as people keep it: a text file with a path a line, in the order in which things were read.
//!
//! ```text
//! # sapwood profile 1
//! all /usr/bin/env
//! 0+2 /usr/bin/python3.11
//! ```
//!
//! The first word says which blocks of 256 KiB of a large file are read (first + count), `all` for a whole file. In a path, a
//! newline is written `\n` and a backslash `\\`. Lines that begin with `#` and empty ones are skipped. Profiles may be edited, and joined
//! with cat.

use std::collections::{HashMap, HashSet};

use super::profile::{Profile, ProfileEntry};
use crate::image::{Image, ImageError};
use crate::model::{FileKind, ImagePath};

const TITLE: &[u8] = b"# sapwood profile 1\n";

/// A line that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} is no line of a profile: expected 'all /path' or 'FIRST+COUNT /path'")]
pub struct ProfileTextError {
    /// Counted from 1.
    pub line: usize,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileLine {
    /// The file.
    pub path: ImagePath,
    /// The first block that is read.
    pub first: u32,
    /// How many blocks; 0 for the whole file.
    pub blocks: u32,
}

/// What is read, by path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProfileText {
    /// In order.
    pub lines: Vec<ProfileLine>,
}

impl ProfileText {
    /// The text that [`Self::parse`] reads.
    #[must_use]
    pub fn render(&self) -> Vec<u8> {
        let mut text = TITLE.to_vec();
        for line in &self.lines {
            match line.blocks {
                0 => text.extend_from_slice(b"all "),
                blocks => text.extend_from_slice(format!("{}+{blocks} ", line.first).as_bytes()),
            }
            for byte in line.path.to_bytes() {
                match byte {
                    b'\n' => text.extend_from_slice(b"\\n"),
                    b'\\' => text.extend_from_slice(b"\\\\"),
                    other => text.push(other),
                }
            }
            text.push(b'\n');
        }
        text
    }

    /// Reads a text.
    ///
    /// # Errors
    /// [`ProfileTextError`] for the first line that cannot be understood.
    pub fn parse(text: &[u8]) -> Result<Self, ProfileTextError> {
        let mut lines = Vec::new();
        for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            lines.push(parse_line(line).ok_or(ProfileTextError { line: index + 1 })?);
        }
        Ok(Self { lines })
    }

    /// What `profile` lists of `image`, each under one of the paths that lead to it.
    ///
    /// # Errors
    /// [`ImageError`] when the image is damaged, or what is needed of it is not here.
    pub fn of(image: &Image, profile: &Profile) -> Result<Self, ImageError> {
        let wanted: HashSet<u32> = profile.entries.iter().map(|entry| entry.object).collect();
        let mut paths = HashMap::new();
        image.walk(image.root(), &mut |path, ino, kind| {
            if kind == FileKind::Regular
                && let Some(object) = image.object_index(ino)?.filter(|object| wanted.contains(object))
            {
                paths.entry(object).or_insert_with(|| path.clone());
            }
            Ok::<(), ImageError>(())
        })?;
        let line = |entry: &ProfileEntry| {
            let path = paths.get(&entry.object)?.clone();
            Some(ProfileLine { path, first: entry.first, blocks: entry.blocks })
        };
        Ok(Self { lines: profile.entries.iter().filter_map(line).collect() })
    }

    /// Several profiles in one: what the first lists, then what only the others list. Of a file that one of them lists as a
    /// whole there are no parts.
    #[must_use]
    pub fn merged(profiles: &[Self]) -> Self {
        let lines = || profiles.iter().flat_map(|profile| &profile.lines);
        let whole: HashSet<Vec<u8>> =
            lines().filter(|line| line.blocks == 0).map(|line| line.path.to_bytes()).collect();
        let mut seen = HashSet::new();
        let mut merged = Vec::new();
        for line in lines() {
            let path = line.path.to_bytes();
            let line =
                if whole.contains(&path) { ProfileLine { first: 0, blocks: 0, ..line.clone() } } else { line.clone() };
            if seen.insert((path, line.first, line.blocks)) {
                merged.push(line);
            }
        }
        Self { lines: merged }
    }

    /// The profile for `image`: the objects behind the paths, each piece once, in order. Paths that are not there, or
    /// no longer files, are skipped.
    ///
    /// # Errors
    /// [`ImageError`] when the image is damaged.
    pub fn resolve(&self, image: &Image) -> Result<Profile, ImageError> {
        let mut seen = HashSet::new();
        let mut entries = Vec::new();
        for line in &self.lines {
            let Some(ino) = image.resolve(&line.path)? else { continue };
            if image.attributes(ino)?.kind != FileKind::Regular {
                continue;
            }
            let Some(object) = image.object_index(ino)? else { continue };
            let entry = ProfileEntry { object, first: line.first, blocks: line.blocks };
            if seen.insert(entry) {
                entries.push(entry);
            }
        }
        Ok(Profile { entries })
    }
}

fn parse_line(line: &[u8]) -> Option<ProfileLine> {
    let space = line.iter().position(|byte| *byte == b' ')?;
    let (blocks, path) = (std::str::from_utf8(&line[..space]).ok()?, &line[space + 1..]);
    let (first, blocks) = match blocks {
        "all" => (0, 0),
        range => {
            let (first, count) = range.split_once('+')?;
            let count: u32 = count.parse().ok()?;
            (first.parse().ok()?, if count == 0 { return None } else { count })
        }
    };
    if !path.starts_with(b"/") {
        return None;
    }
    let path = ImagePath::parse(&unescape(path)?).ok()?;
    Some(ProfileLine { path, first, blocks })
}

fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        bytes.push(match (byte, byte == &b'\\') {
            (byte, false) => *byte,
            (_, true) => match rest.next()? {
                b'n' => b'\n',
                b'\\' => b'\\',
                _ => return None,
            },
        });
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_survives_whatever_the_names() {
        let path = |text: &[u8]| ImagePath::parse(text).expect("legal");
        let text = ProfileText {
            lines: vec![
                ProfileLine { path: path(b"/usr/bin/env"), first: 0, blocks: 0 },
                ProfileLine { path: path(b"/a b\\n\n\xff#"), first: 3, blocks: 2 },
            ],
        };
        assert_eq!(ProfileText::parse(&text.render()), Ok(text));
    }

    #[test]
    fn joined_profiles_have_each_thing_once() {
        let parse = |text: &str| ProfileText::parse(text.as_bytes()).expect("legal");
        let merged = ProfileText::merged(&[
            parse("all /a\n0+2 /b\n5+1 /b\n"),
            parse("3+1 /c\n0+2 /b\nall /d\n1+1 /a\nall /c\n"),
        ]);
        assert_eq!(merged, parse("all /a\n0+2 /b\n5+1 /b\nall /c\nall /d\n"));
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        for bad in ["usr/bin", "all", "all usr", "1-2 /usr", "1+0 /usr", "x+1 /usr", "all /a\\x"] {
            let text = format!("# title\n\n{bad}\n");
            assert_eq!(ProfileText::parse(text.as_bytes()), Err(ProfileTextError { line: 3 }), "{bad}");
        }
    }
}
