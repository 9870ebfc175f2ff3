//! Programs and the libraries they load: what has to be here as a whole before a machine may lose its network.
//!
//! What a program loads is told by its ELF segments (System V gABI, chapter 5): an interpreter, and names of libraries to be
//! found in directories of the program's own (`DT_RUNPATH`, `DT_RPATH`) and in those of the system. What a program opens by
//! name while it runs (dlopen) is not told there and not found here.

use std::collections::BTreeSet;

use elf::ElfBytes;
use elf::abi::{DT_NEEDED, DT_RPATH, DT_RUNPATH, PT_INTERP};
use elf::endian::AnyEndian;

use super::files::{self, FileError, Found};
use crate::image::{Image, ImageError};
use crate::model::{EntryName, FileKind, ImagePath};
use crate::store::Store;

/// Where every system has libraries. Debian has them in directories of these, one for each architecture.
const LIBRARIES: [&str; 2] = ["/usr/lib64", "/usr/lib"];

/// What is in the names of Debian's.
const MULTIARCH: &str = "-linux-";

/// How many names a program may have in its dynamic section; the largest of a distribution have some two hundred.
const NAMES_MAX: usize = 1024;

/// How many directories of its own it may name, and how long a name may be (`PATH_MAX`).
const DIRECTORIES_MAX: usize = 16;
const LENGTH_MAX: usize = 4096;

/// What stands for the program's own directory.
const ORIGIN: &str = "$ORIGIN";

/// How many symbolic links a path may lead over, as in Linux.
const LINKS_MAX: usize = 40;

/// Where `programs` and all that they load are in the image, links followed. A program that is not in it is left out. What a
/// file loads is known when its content is here: whoever fetches asks again when more has come, until nothing new is told.
///
/// # Errors
/// [`FileError`].
pub fn with_libraries(image: &Image, store: &Store, programs: &[&str]) -> Result<BTreeSet<ImagePath>, FileError> {
    let directories = directories(image)?;
    let mut found = BTreeSet::new();
    let mut open: Vec<String> = programs.iter().map(|path| (*path).to_owned()).collect();
    while let Some(path) = open.pop() {
        let Some(path) = follow(image, path.as_bytes())? else { continue };
        if !found.insert(path.clone()) {
            continue;
        }
        let content = match files::read(image, store, &path.to_string()) {
            // A program of that size that is not linked as a whole is not known.
            Err(FileError::TooLarge(_)) => continue,
            content => content?,
        };
        if let Found::Bytes(content) = content {
            let names = Names::of(&content, &directory_of(&path)).unwrap_or_default();
            open.extend(names.interpreter);
            for name in names.libraries {
                // A path where there is a slash. Else every directory that has it: one too many is a file that is not used.
                if name.contains('/') {
                    open.push(name);
                } else {
                    open.extend(names.directories.iter().chain(&directories).map(|place| format!("{place}/{name}")));
                }
            }
        }
    }
    Ok(found)
}

/// The directories of the system's libraries.
fn directories(image: &Image) -> Result<Vec<String>, FileError> {
    let mut found = Vec::new();
    for base in LIBRARIES {
        found.push(base.to_owned());
        let names = files::list(image, base)?.into_iter().map(|(name, _)| name);
        found.extend(names.filter(|name| name.contains(MULTIARCH)).map(|name| format!("{base}/{name}")));
    }
    Ok(found)
}

/// What an ELF file says it loads.
#[derive(Debug, Default, PartialEq, Eq)]
struct Names {
    interpreter: Option<String>,
    libraries: Vec<String>,
    directories: Vec<String>,
}

impl Names {
    /// Reads it from a file in the directory `origin`; `None` when it is no ELF file, or a damaged one.
    fn of(content: &[u8], origin: &str) -> Option<Self> {
        let file = ElfBytes::<AnyEndian>::minimal_parse(content).ok()?;
        let mut names = Self::default();
        if let Some(segment) = file.segments()?.iter().find(|segment| segment.p_type == PT_INTERP) {
            let path = file.segment_data(&segment).ok()?;
            names.interpreter = Some(String::from_utf8(path.strip_suffix(b"\0")?.to_vec()).ok()?);
        }
        // A program that loads nothing has neither.
        let (Some(dynamic), Some((_, strings))) = (file.dynamic().ok()?, file.dynamic_symbol_table().ok()?) else {
            return Some(names);
        };
        for entry in dynamic.iter().take(NAMES_MAX) {
            let text =
                || strings.get(usize::try_from(entry.d_val()).ok()?).ok().filter(|text| text.len() <= LENGTH_MAX);
            match entry.d_tag {
                DT_NEEDED => names.libraries.extend(text().map(str::to_owned)),
                DT_RUNPATH | DT_RPATH => {
                    names.directories.extend(text()?.split(':').map(|place| place.replace(ORIGIN, origin)));
                }
                _ => {}
            }
        }
        names.directories.truncate(DIRECTORIES_MAX);
        Some(names)
    }
}

fn directory_of(path: &ImagePath) -> String {
    let mut path = path.clone();
    path.pop();
    path.to_string()
}

/// The path of the regular file that an absolute path leads to; `None` when it leads to none.
fn follow(image: &Image, path: &[u8]) -> Result<Option<ImagePath>, ImageError> {
    let mut at = ImagePath::root();
    let mut rest = parts(path);
    let mut links = 0;
    while let Some(part) = rest.pop() {
        if part == b".." {
            at.pop();
            continue;
        }
        let Ok(name) = EntryName::new(part) else { return Ok(None) };
        let path = at.join(name);
        let Some(ino) = image.resolve(&path)? else { return Ok(None) };
        if image.kind(ino)? != FileKind::Symlink {
            at = path;
            continue;
        }
        links += 1;
        if links > LINKS_MAX {
            return Ok(None);
        }
        let target = image.symlink(ino)?;
        if target.starts_with(b"/") {
            at = ImagePath::root();
        }
        rest.extend(parts(target));
    }
    let is_file = image.resolve(&at)?.map(|ino| image.kind(ino)).transpose()? == Some(FileKind::Regular);
    Ok(is_file.then_some(at))
}

/// The names of a path that count, the first one last.
fn parts(path: &[u8]) -> Vec<Vec<u8>> {
    let parts = path.split(|byte| *byte == b'/').rev();
    parts.filter(|part| !matches!(*part, b"" | b".")).map(<[u8]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The program of this test: linked as any other, and not stripped.
    fn program() -> Vec<u8> {
        std::fs::read("/proc/self/exe").expect("a program runs")
    }

    #[test]
    fn a_program_says_what_it_loads() {
        let names = Names::of(&program(), "/usr/bin").expect("an ELF file");
        assert!(names.interpreter.is_some_and(|path| path.contains("/ld-linux")));
        assert!(names.libraries.iter().any(|name| name == "libc.so.6"), "{:?}", names.libraries);
    }

    #[test]
    fn a_damaged_one_says_nothing_or_something_else() {
        assert_eq!(Names::of(b"#!/bin/sh\n", "/"), None);
        let program = program();
        let head = &program[..program.len().min(1 << 16)];
        for length in 0..2048 {
            drop(Names::of(&head[..length], "/"));
        }
        for at in 0..2048 {
            for value in [0, 1, 0x7f, 0xff] {
                let mut damaged = head.to_vec();
                damaged[at] = value;
                drop(Names::of(&damaged, "/"));
            }
        }
    }
}
