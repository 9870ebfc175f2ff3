//! Finds the libraries that programs load, so that all files which a machine needs without a network can be fetched before.
//!
//! The ELF segments of a program (System V gABI, chapter 5) name its interpreter and its libraries. Libraries are searched in
//! directories that the program names (`DT_RUNPATH`, `DT_RPATH`) and in those of the system.
//!
//! *Not here*: fetching the files. Libraries that a program opens at run time (dlopen) are not found.
//!
//! *Used by* `upgrade`, for lazy deployments.

use std::collections::BTreeSet;

use elf::ElfBytes;
use elf::abi::{DT_NEEDED, DT_RPATH, DT_RUNPATH, PT_INTERP};
use elf::endian::AnyEndian;

use super::commit_files::{self, FileContent, FileError};
use crate::image::{Image, ImageError};
use crate::model::{EntryName, FileKind, ImagePath};
use crate::store::Store;

/// The library directories of every system. Debian has libraries in subdirectories of these, one for each architecture.
const LIBRARY_DIRECTORIES: [&str; 2] = ["/usr/lib64", "/usr/lib"];

/// A part of the names of Debian's library directories.
const MULTIARCH_INFIX: &str = "-linux-";

/// The number of entries of a dynamic section that are read; the largest programs of a distribution have about two hundred.
const DYNAMIC_ENTRIES_MAX: usize = 1024;

/// The number of directories of a program's run path that are searched.
const RUNPATHS_MAX: usize = 16;

/// The longest name in a dynamic section that is used, in bytes (`PATH_MAX`).
const NAME_BYTES_MAX: usize = 4096;

/// The text that stands for the program's own directory in a run path.
const ORIGIN_VARIABLE: &str = "$ORIGIN";

/// The number of symbolic links that a path may lead through, as in Linux.
const SYMLINKS_MAX: usize = 40;

/// Returns the paths in the image of `programs` and of all files that they load, with symbolic links resolved. Programs that
/// the image does not have are left out. The libraries of a file are known only if its content is in the repository: a caller
/// that fetches files calls this function again until it returns no new path.
pub(crate) fn with_libraries(
    image: &Image,
    store: &Store,
    programs: &[&str],
) -> Result<BTreeSet<ImagePath>, FileError> {
    let directories = library_directories(image)?;
    let mut found = BTreeSet::new();
    let mut open: Vec<String> = programs.iter().map(|path| (*path).to_owned()).collect();
    while let Some(path) = open.pop() {
        let Some(path) = resolve_file(image, path.as_bytes())? else { continue };
        if !found.insert(path.clone()) {
            continue;
        }
        let content = match commit_files::read_file(image, store, &path.to_string()) {
            // No known program of that size is dynamically linked.
            Err(FileError::TooLarge(_)) => continue,
            content => content?,
        };
        if let FileContent::Bytes(content) = content {
            let names = ElfDependencies::parse(&content, &directory_of(&path)).unwrap_or_default();
            open.extend(names.interpreter);
            for name in names.libraries {
                // A name with a slash is a path. Any other name is searched in all directories: a file too many does no harm.
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

/// Returns the library directories of the system.
fn library_directories(image: &Image) -> Result<Vec<String>, FileError> {
    let mut found = Vec::new();
    for base in LIBRARY_DIRECTORIES {
        found.push(base.to_owned());
        let names = commit_files::list_files(image, base)?.into_iter().map(|(name, _)| name);
        found.extend(names.filter(|name| name.contains(MULTIARCH_INFIX)).map(|name| format!("{base}/{name}")));
    }
    Ok(found)
}

/// The files that an ELF file says it loads.
#[derive(Debug, Default, PartialEq, Eq)]
struct ElfDependencies {
    interpreter: Option<String>,
    libraries: Vec<String>,
    directories: Vec<String>,
}

impl ElfDependencies {
    /// Parses a file that is in the directory `origin`. Returns `None` if it is not an ELF file or is damaged.
    fn parse(content: &[u8], origin: &str) -> Option<Self> {
        let file = ElfBytes::<AnyEndian>::minimal_parse(content).ok()?;
        let mut names = Self::default();
        if let Some(segment) = file.segments()?.iter().find(|segment| segment.p_type == PT_INTERP) {
            let path = file.segment_data(&segment).ok()?;
            names.interpreter = Some(String::from_utf8(path.strip_suffix(b"\0")?.to_vec()).ok()?);
        }
        // A statically linked program has neither.
        let (Some(dynamic), Some((_, strings))) = (file.dynamic().ok()?, file.dynamic_symbol_table().ok()?) else {
            return Some(names);
        };
        for entry in dynamic.iter().take(DYNAMIC_ENTRIES_MAX) {
            let text =
                || strings.get(usize::try_from(entry.d_val()).ok()?).ok().filter(|text| text.len() <= NAME_BYTES_MAX);
            match entry.d_tag {
                DT_NEEDED => names.libraries.extend(text().map(str::to_owned)),
                DT_RUNPATH | DT_RPATH => {
                    names.directories.extend(text()?.split(':').map(|place| place.replace(ORIGIN_VARIABLE, origin)));
                }
                _ => {}
            }
        }
        names.directories.truncate(RUNPATHS_MAX);
        Some(names)
    }
}

fn directory_of(path: &ImagePath) -> String {
    let mut path = path.clone();
    path.pop();
    path.to_string()
}

/// Returns the path of the regular file that an absolute path leads to; `None` if it leads to none.
fn resolve_file(image: &Image, path: &[u8]) -> Result<Option<ImagePath>, ImageError> {
    let mut at = ImagePath::root();
    let mut rest = reversed_parts(path);
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
        if links > SYMLINKS_MAX {
            return Ok(None);
        }
        let target = image.symlink(ino)?;
        if target.starts_with(b"/") {
            at = ImagePath::root();
        }
        rest.extend(reversed_parts(target));
    }
    let is_file = image.resolve(&at)?.map(|ino| image.kind(ino)).transpose()? == Some(FileKind::Regular);
    Ok(is_file.then_some(at))
}

/// Returns the components of a path in reverse order, without empty ones and `.`.
fn reversed_parts(path: &[u8]) -> Vec<Vec<u8>> {
    let parts = path.split(|byte| *byte == b'/').rev();
    parts.filter(|part| !matches!(*part, b"" | b".")).map(<[u8]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the program of this test, which is dynamically linked.
    fn program() -> Vec<u8> {
        std::fs::read("/proc/self/exe").expect("a program runs")
    }

    #[test]
    fn parse_finds_interpreter_and_libraries() {
        let names = ElfDependencies::parse(&program(), "/usr/bin").expect("an ELF file");
        assert!(names.interpreter.is_some_and(|path| path.contains("/ld-linux")));
        assert!(names.libraries.iter().any(|name| name == "libc.so.6"), "{:?}", names.libraries);
    }

    #[test]
    fn parse_does_not_panic_on_damaged_programs() {
        assert_eq!(ElfDependencies::parse(b"#!/bin/sh\n", "/"), None);
        let program = program();
        let head = &program[..program.len().min(1 << 16)];
        for length in 0..2048 {
            drop(ElfDependencies::parse(&head[..length], "/"));
        }
        for at in 0..2048 {
            for value in [0, 1, 0x7f, 0xff] {
                let mut damaged = head.to_vec();
                damaged[at] = value;
                drop(ElfDependencies::parse(&damaged, "/"));
            }
        }
    }
}
