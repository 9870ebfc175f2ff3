//! The text form of a profile, for people: one path on each line, in the order in which files were read.
//!
//! ```text
//! # sapwood profile 1
//! all /usr/bin/env
//! 0+2 /usr/bin/python3.11
//! ```
//!
//! The first word tells which blocks of 256 KiB of a large file are read (first + count); `all` stands for a whole
//! file. In a path, a newline is written `\n` and a backslash `\\`. Lines that begin with `#` and empty lines are
//! skipped. Profiles may be edited, and joined with cat.
//!
//! *Used by* `publish` and by `sapwood profile`.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use super::profile::{Profile, ProfileEntry};
use crate::image::{Image, ImageError};
use crate::model::{FileKind, ImagePath};

const TITLE: &[u8] = b"# sapwood profile 1\n";

/// The error for a line that cannot be parsed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} is no line of a profile: expected 'all /path' or 'FIRST+COUNT /path'")]
pub struct ProfileTextError {
    /// The line's number, counted from 1.
    pub(crate) line: usize,
}

/// An error of reading the file of a profile.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProfileFileError {
    /// The file cannot be read.
    #[error("cannot read the profile {}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    /// The file is no profile.
    #[error("{}", .path.display())]
    Format { path: PathBuf, source: ProfileTextError },
}

/// A line of a profile.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ProfileLine {
    /// The file.
    pub path: ImagePath,
    /// The first block that is read.
    pub first: u32,
    /// Number of blocks; 0 for the whole file.
    pub blocks: u32,
}

/// A list of what is read, by path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProfileText {
    /// The lines, in order.
    pub lines: Vec<ProfileLine>,
}

impl ProfileText {
    /// Returns the text that [`Self::parse`] reads.
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

    /// Reads the file of a profile.
    ///
    /// # Errors
    /// When there is no such file or it is not a profile.
    pub(crate) fn read(path: &Path) -> Result<Self, ProfileFileError> {
        let text = std::fs::read(path).map_err(|source| ProfileFileError::Read { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|source| ProfileFileError::Format { path: path.to_owned(), source })
    }

    /// Reads the text form.
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

    /// Returns the text form of a `profile` of `image`. Each object is listed under one of the paths that lead to it.
    ///
    /// # Errors
    /// [`ImageError`] when the image is damaged, or a needed part of it is missing.
    pub(crate) fn from_profile(image: &Image, profile: &Profile) -> Result<Self, ImageError> {
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

    /// Merges several profiles: first the entries of the first, then those that only later ones list. If one of them
    /// lists a whole file, its parts are left out.
    pub(crate) fn merge(profiles: &[Self]) -> Self {
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

    /// Returns the profile for `image`: the objects of the paths, each entry once, in order. Paths that do not exist,
    /// or are not regular files any more, are skipped.
    ///
    /// # Errors
    /// [`ImageError`] when the image is damaged.
    pub(crate) fn resolve(&self, image: &Image) -> Result<Profile, ImageError> {
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
    fn text_round_trips_with_any_names() {
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
    fn merged_profiles_list_each_entry_once() {
        let parse = |text: &str| ProfileText::parse(text.as_bytes()).expect("legal");
        let merged =
            ProfileText::merge(&[parse("all /a\n0+2 /b\n5+1 /b\n"), parse("3+1 /c\n0+2 /b\nall /d\n1+1 /a\nall /c\n")]);
        assert_eq!(merged, parse("all /a\n0+2 /b\n5+1 /b\nall /c\nall /d\n"));
    }

    #[test]
    fn error_names_the_line_that_cannot_be_parsed() {
        for bad in ["usr/bin", "all", "all usr", "1-2 /usr", "1+0 /usr", "x+1 /usr", "all /a\\x"] {
            let text = format!("# title\n\n{bad}\n");
            assert_eq!(ProfileText::parse(text.as_bytes()), Err(ProfileTextError { line: 3 }), "{bad}");
        }
    }
}
