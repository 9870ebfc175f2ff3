//! Purpose: says, by a file, that something may be in the repository that nothing needs, so that a collection without such a
//! file need not look.
//!
//! Not here: finding garbage (`gc`). Invariants: the file is there before anything gets its name that no ref leads to yet, and
//! before a ref leaves what it led to; it is removed by the writer that made it once a ref names all it added, or by a
//! collection. A writer that is killed leaves it. Used by: `write`, `refs`, `gc`.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::PathBuf;

use parking_lot::Mutex;

/// The file, as one writer knows it.
#[derive(Debug)]
pub(super) struct GarbageMark {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// This writer has not needed it.
    Unneeded,
    /// This writer has made it, and nothing names what was added.
    Added,
    /// This writer has made it, and a ref names what was added.
    Named,
    /// It was there before, or there is garbage.
    Stays,
}

impl GarbageMark {
    pub(super) const fn new(path: PathBuf) -> Self {
        Self { path, state: Mutex::new(State::Unneeded) }
    }

    /// Something is about to get its name.
    pub(super) fn add(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        *state = match *state {
            State::Unneeded => self.make()?,
            State::Added | State::Named => State::Added,
            State::Stays => State::Stays,
        };
        Ok(())
    }

    /// A ref names what was added.
    pub(super) fn name(&self) {
        let mut state = self.state.lock();
        if *state == State::Added {
            *state = State::Named;
        }
    }

    /// Something may become garbage.
    pub(super) fn keep(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        if *state == State::Unneeded {
            self.make()?;
        }
        *state = State::Stays;
        Ok(())
    }

    /// There is no garbage.
    pub(super) fn clear(&self) {
        *self.state.lock() = State::Unneeded;
        self.remove();
    }

    fn make(&self) -> io::Result<State> {
        match OpenOptions::new().write(true).create_new(true).open(&self.path) {
            Ok(_) => Ok(State::Added),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(State::Stays),
            Err(error) => Err(error),
        }
    }

    fn remove(&self) {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::debug!(%error, "the mark of garbage stays; the next collection looks at everything");
            }
            _ => {}
        }
    }
}

impl Drop for GarbageMark {
    fn drop(&mut self) {
        if *self.state.lock() == State::Named {
            self.remove();
        }
    }
}
