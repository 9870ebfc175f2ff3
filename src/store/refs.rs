//! Reads and changes refs: small files that name commits.
//!
//! *Invariants*: a ref is read without a lock, since it is replaced as a whole. Only a [`super::StoreWriter`] changes a ref,
//! and only if it still names what the caller expects.
//!
//! *Used by* every layer that reads or moves refs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::open::Store;
use super::write::StoreWriter;
use crate::disk;
use crate::model::{CommitId, NEW_REF_PART_MAX, RefName};

/// Most commits that a ref may move forward in one change without the next collection reading everything.
const ANCESTORS_SEARCHED_MAX: usize = 1000;

/// The state of a ref that is required for a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    /// The ref may name any commit, or be absent.
    Any,
    /// The ref must not exist.
    Absent,
    /// The ref must name this commit.
    Is(CommitId),
}

/// A change of one ref.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RefEdit {
    pub(crate) name: RefName,
    /// The required state before the change.
    pub(crate) expect: Expect,
    /// The commit to name after the change; `None` deletes the ref.
    pub(crate) to: Option<CommitId>,
}

impl RefEdit {
    /// Fails if the ref, which now names `found`, may not be changed in this way.
    pub(super) fn check(&self, found: Option<CommitId>) -> Result<(), RefError> {
        let allowed = match self.expect {
            Expect::Any => true,
            Expect::Absent => found.is_none(),
            Expect::Is(id) => found == Some(id),
        };
        if !allowed {
            return Err(RefError::Changed { name: self.name.clone(), found });
        }
        if self.to.is_some() && found.is_none() { check_new(&self.name) } else { Ok(()) }
    }
}

/// Why refs could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum RefError {
    /// The file of the ref holds no commit id.
    #[error("ref {name} is damaged: it holds no commit id")]
    Damaged {
        /// The ref.
        name: RefName,
    },
    /// Another process changed the ref meanwhile.
    #[error("ref {name} has changed meanwhile: it is {} now", describe(*.found))]
    Changed {
        /// The ref.
        name: RefName,
        /// The commit that it names now.
        found: Option<CommitId>,
    },
    /// The name is too long for directories of published refs.
    #[error(
        "ref '{name}' has a part of {length} bytes; those of a new ref have at most {NEW_REF_PART_MAX}. Choose a shorter name"
    )]
    TooLong {
        /// The name of the ref.
        name: RefName,
        /// The number of bytes of the part.
        length: usize,
    },
    /// A ref `a` and a ref `a/b` cannot both exist.
    #[error("ref {name} collides with {other}: a ref cannot be a directory of refs too")]
    Collision {
        /// The ref to be written.
        name: RefName,
        /// The existing ref with which it collides.
        other: String,
    },
    /// The system refused.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn describe(found: Option<CommitId>) -> String {
    found.map_or_else(|| "absent".to_owned(), |id| id.short())
}

impl Store {
    /// Checks that a ref of this name exists or can be made. Called before a tree is read, so that the error comes early.
    ///
    /// # Errors
    /// [`RefError::TooLong`], and those of reading the ref.
    pub(crate) fn check_ref(&self, name: &RefName) -> Result<(), RefError> {
        if self.read_ref(name)?.is_some() { Ok(()) } else { check_new(name) }
    }

    /// Reads the commit that a ref names; `None` when there is no such ref.
    ///
    /// # Errors
    /// [`RefError::Damaged`] or [`RefError::Io`].
    pub fn read_ref(&self, name: &RefName) -> Result<Option<CommitId>, RefError> {
        let path = self.layout().reference(name);
        match fs::read_to_string(&path) {
            Ok(text) => match text.trim_end_matches('\n').parse() {
                Ok(id) => Ok(Some(id)),
                Err(_) => Err(RefError::Damaged { name: name.clone() }),
            },
            Err(error) if is_absence(&error) => Ok(None),
            Err(source) => Err(RefError::Io { action: "read", path, source }),
        }
    }

    /// Returns whether `old` is `new` or one of its nearest [`ANCESTORS_SEARCHED_MAX`] ancestors.
    fn is_ancestor(&self, old: CommitId, new: CommitId) -> bool {
        let parent = |id: &CommitId| self.commit(*id).ok()?.parent;
        std::iter::successors(Some(new), parent).take(ANCESTORS_SEARCHED_MAX).any(|id| id == old)
    }

    /// Returns all refs in ascending order of their names.
    ///
    /// # Errors
    /// [`RefError::Io`] when a directory cannot be listed, [`RefError::Damaged`] for the first damaged ref.
    pub(crate) fn refs(&self) -> Result<Vec<(RefName, CommitId)>, RefError> {
        let mut refs = Vec::new();
        for name in self.ref_names()? {
            if let Some(id) = self.read_ref(&name)? {
                refs.push((name, id));
            }
        }
        Ok(refs)
    }

    /// Returns the names of all refs in ascending order, damaged ones included.
    ///
    /// # Errors
    /// [`RefError::Io`] when a directory cannot be listed.
    pub(crate) fn ref_names(&self) -> Result<Vec<RefName>, RefError> {
        let top = self.layout().refs();
        let mut names = Vec::new();
        let mut pending = vec![top.clone()];
        while let Some(directory) = pending.pop() {
            let io_error = |source| RefError::Io { action: "list", path: directory.clone(), source };
            for entry in fs::read_dir(&directory).map_err(io_error)? {
                let entry = entry.map_err(io_error)?;
                if entry.file_type().map_err(io_error)?.is_dir() {
                    pending.push(entry.path());
                } else if let Some(name) = name_of(&top, &entry.path()) {
                    names.push(name);
                }
            }
        }
        names.sort();
        Ok(names)
    }
}

/// Returns the name of the ref in the file `path`; `None` for a file that is not a legal ref, such as the temporary file of a
/// killed process.
fn name_of(top: &Path, path: &Path) -> Option<RefName> {
    path.strip_prefix(top).ok()?.to_str()?.parse().ok()
}

fn is_absence(error: &io::Error) -> bool {
    use io::ErrorKind::{IsADirectory, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory | IsADirectory)
}

impl StoreWriter {
    /// Changes one ref, durably. The commit that it will name must be in the repository and durable already.
    ///
    /// # Errors
    /// [`RefError`]; the ref is then unchanged.
    pub(crate) fn edit_ref(&self, edit: &RefEdit) -> Result<(), RefError> {
        let store = self.store();
        let found = store.read_ref(&edit.name)?;
        edit.check(found)?;
        if let Some(old) = found
            && !edit.to.is_some_and(|new| store.is_ancestor(old, new))
        {
            let path = store.layout().garbage_mark();
            self.garbage.make_permanent().map_err(|source| RefError::Io { action: "write", path, source })?;
        }
        let path = store.layout().reference(&edit.name);
        match edit.to {
            Some(id) => {
                make_parent_directories(store, &edit.name)?;
                let written = disk::replace(&path, format!("{id}\n").as_bytes());
                written.map_err(|source| RefError::Io { action: "write", path, source })?;
                self.garbage.note_named();
                Ok(())
            }
            None => match remove(&path, &store.layout().refs()) {
                Err(error) if is_absence(&error) => Ok(()),
                other => other.map_err(|source| RefError::Io { action: "remove", path, source }),
            },
        }
    }
}

/// Fails if a new ref cannot have this name.
fn check_new(name: &RefName) -> Result<(), RefError> {
    name.too_long_to_make().map_or(Ok(()), |length| Err(RefError::TooLong { name: name.clone(), length }))
}

/// Creates the directories above a ref, or fails with the other ref with which it collides.
fn make_parent_directories(store: &Store, name: &RefName) -> Result<(), RefError> {
    let path = store.layout().reference(name);
    let collision = |other: String| RefError::Collision { name: name.clone(), other };
    if path.is_dir() {
        // The directory was left by deleted refs, or has other refs.
        let io_error = |source| RefError::Io { action: "replace", path: path.clone(), source };
        return match fs::remove_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Err(collision(format!("{name}/…"))),
            other => other.map_err(io_error),
        };
    }
    let Some(parent) = path.parent() else { return Ok(()) };
    match fs::create_dir_all(parent) {
        Ok(()) => Ok(()),
        Err(error) if matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory) => {
            let top = store.layout().refs();
            let other = parent.ancestors().find(|above| above.is_file()).and_then(|file| name_of(&top, file));
            Err(collision(other.map_or_else(|| "a file".to_owned(), String::from)))
        }
        Err(source) => Err(RefError::Io { action: "create", path: parent.to_owned(), source }),
    }
}

/// Removes the file of a ref, and the directories above it that become empty.
fn remove(path: &Path, top: &Path) -> io::Result<()> {
    fs::remove_file(path)?;
    for directory in path.ancestors().skip(1) {
        disk::sync_directory(directory)?;
        if directory == top || fs::remove_dir(directory).is_err() {
            break;
        }
    }
    Ok(())
}
