//! Marks by a file that the repository may have garbage, so that a collection need not search for it when there is no mark.
//!
//! *Not here*: finding garbage (`gc`).
//!
//! *Invariants*: the file exists before anything gets a name to which no ref leads yet, and before a ref moves away from a
//! commit that may become garbage. The writer that made the file removes it once a ref names everything that it added;
//! otherwise a collection removes it. A writer that is killed leaves it.
//!
//! *Used by* `store::write`, `store::refs` and `store::gc`.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::PathBuf;

use parking_lot::Mutex;

/// The mark, as one writer uses it.
#[derive(Debug)]
pub(super) struct GarbageMark {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// This writer has not made the file.
    Unneeded,
    /// This writer has made the file, and no ref names what it added.
    Added,
    /// This writer has made the file, and a ref names what it added.
    Named,
    /// The file existed before, or there may be garbage; this writer does not remove it.
    Permanent,
}

impl GarbageMark {
    pub(super) const fn new(path: PathBuf) -> Self {
        Self { path, state: Mutex::new(State::Unneeded) }
    }

    /// Makes the mark, before something gets its name.
    pub(super) fn note_addition(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        *state = match *state {
            State::Unneeded => self.make()?,
            State::Added | State::Named => State::Added,
            State::Permanent => State::Permanent,
        };
        Ok(())
    }

    /// Notes that a ref names what was added.
    pub(super) fn note_named(&self) {
        let mut state = self.state.lock();
        if *state == State::Added {
            *state = State::Named;
        }
    }

    /// Makes the mark and keeps it until the next collection, before something may become garbage.
    pub(super) fn make_permanent(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        if *state == State::Unneeded {
            self.make()?;
        }
        *state = State::Permanent;
        Ok(())
    }

    /// Removes the mark, after a collection that left no garbage.
    pub(super) fn clear(&self) {
        *self.state.lock() = State::Unneeded;
        self.remove();
    }

    fn make(&self) -> io::Result<State> {
        match OpenOptions::new().write(true).create_new(true).open(&self.path) {
            Ok(_) => Ok(State::Added),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(State::Permanent),
            Err(error) => Err(error),
        }
    }

    fn remove(&self) {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::debug!(%error, "cannot remove the garbage mark; the next collection reads everything");
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
