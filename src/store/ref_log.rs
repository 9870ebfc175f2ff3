//! The log of each ref: which commit it named before, when it was moved, and by what.
//!
//! A log is text, with one line for each change, oldest first: the commit before, the commit after (`-` where the ref was or
//! became absent), the time in seconds since 1970, the highest sequence number that the ref has had, and the command.
//!
//! *Not here*: moving refs (`refs`), and refs that follow a remote or a deployment: those have no log.
//!
//! *Invariants*: a line is durable before its ref is moved, so a line whose change did not happen is possible, and a logged
//! change without a line is not. A log does not keep commits from being collected. The sequence never decreases.
//!
//! *Used by* `refs`, `compose::commit` and `cli/refs.rs`.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::open::Store;
use super::refs::{RefEdit, RefError};
use super::write::StoreWriter;
use crate::disk;
use crate::model::{CommitId, RefName};

/// The size at which the older half of a log is removed: some 400 lines.
const LOG_BYTES_MAX: usize = 64 << 10;

/// The number of bytes at the end of a log that have its last whole line.
const TAIL_BYTES: usize = 1 << 10;

/// One change of a ref.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct RefChange {
    /// The commit before; `None` if the ref was made.
    pub(crate) from: Option<CommitId>,
    /// The commit after; `None` if the ref was deleted.
    pub(crate) to: Option<CommitId>,
    /// Seconds since 1970.
    pub(crate) time: i64,
    /// The highest sequence number of the commits that the ref has named so far.
    pub(crate) sequence: u64,
    /// The command that moved the ref.
    pub(crate) by: String,
}

impl RefChange {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.splitn(5, ' ');
        let mut next = || fields.next();
        let commit = |text: &str| if text == "-" { Some(None) } else { text.parse().ok().map(Some) };
        Some(Self {
            from: commit(next()?)?,
            to: commit(next()?)?,
            time: next()?.parse().ok()?,
            sequence: next()?.parse().ok()?,
            by: next()?.to_owned(),
        })
    }

    fn to_line(&self) -> String {
        let commit = |id: Option<CommitId>| id.map_or_else(|| "-".to_owned(), |id| id.to_string());
        format!("{} {} {} {} {}\n", commit(self.from), commit(self.to), self.time, self.sequence, self.by)
    }
}

impl Store {
    /// Returns the logged changes of a ref, oldest first. Lines that cannot be read are left out: a log is a help, and the
    /// ref is what counts.
    ///
    /// # Errors
    /// [`RefError::Io`] when the log exists and cannot be read.
    pub(crate) fn ref_log(&self, name: &RefName) -> Result<Vec<RefChange>, RefError> {
        let path = self.layout().ref_log(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).lines().filter_map(RefChange::parse).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(source) => Err(RefError::Io { action: "read", path, source }),
        }
    }

    /// Returns the highest sequence number that a ref has had according to its log, also before it was moved back.
    ///
    /// # Errors
    /// Those of [`Store::ref_log`].
    pub(crate) fn highest_sequence(&self, name: &RefName) -> Result<Option<u64>, RefError> {
        let path = self.layout().ref_log(name);
        let io_error = |source| RefError::Io { action: "read", path: path.clone(), source };
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(io_error)?,
        };
        let length = file.metadata().map_err(io_error)?.len();
        let mut tail = vec![0; TAIL_BYTES];
        let read = disk::read_from(&file, length.saturating_sub(TAIL_BYTES as u64), &mut tail).map_err(io_error)?;
        let text = String::from_utf8_lossy(&tail[..read]);
        Ok(text.lines().rev().find_map(RefChange::parse).map(|change| change.sequence))
    }

    fn sequence_of(&self, id: Option<CommitId>) -> u64 {
        id.and_then(|id| self.commit(id).ok()).map_or(0, |commit| commit.sequence)
    }
}

impl StoreWriter {
    /// Changes one ref as [`StoreWriter::edit_ref`] does, and notes the change in the ref's log as done by the command `by`.
    ///
    /// # Errors
    /// [`RefError`]; the ref is then unchanged.
    pub(crate) fn edit_ref_logged(&self, edit: &RefEdit, by: &str) -> Result<(), RefError> {
        let store = self.store();
        let from = store.read_ref(&edit.name)?;
        edit.check(from)?;
        if from != edit.to {
            let last = store.highest_sequence(&edit.name)?.unwrap_or(0);
            let sequence = last.max(store.sequence_of(from)).max(store.sequence_of(edit.to));
            let change = RefChange { from, to: edit.to, time: now(), sequence, by: by.to_owned() };
            let path = store.layout().ref_log(&edit.name);
            append(&path, &change).map_err(|source| RefError::Io { action: "write", path, source })?;
        }
        self.edit_ref(edit)
    }
}

fn now() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX)
}

/// Adds a line to a log, durably. Of a log that is too long the newer half is kept.
fn append(path: &Path, change: &RefChange) -> io::Result<()> {
    let line = change.to_line();
    match fs::metadata(path) {
        Ok(found) if found.len() < LOG_BYTES_MAX as u64 => disk::append(path, line.as_bytes()),
        Ok(_) => {
            let old = fs::read(path)?;
            let half = old.len() / 2;
            let start = old[half..].iter().position(|byte| *byte == b'\n').map_or(old.len(), |at| half + at + 1);
            disk::replace(path, &[&old[start..], line.as_bytes()].concat())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            path.parent().map_or(Ok(()), disk::make_directories)?;
            disk::replace(path, line.as_bytes())
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_lines_are_parsed_as_they_were_written() {
        let change = RefChange {
            from: None,
            to: Some(CommitId::of(b"new")),
            time: -5,
            sequence: 7,
            by: "refs --move".to_owned(),
        };
        assert_eq!(RefChange::parse(change.to_line().trim_end()), Some(change));
        for line in ["", "- -", "- - 1 2", "x - 1 2 commit", "- - x 2 commit"] {
            assert_eq!(RefChange::parse(line), None, "{line}");
        }
    }

    #[test]
    fn long_log_keeps_its_newer_half_and_the_last_line() {
        let directory = tempfile::tempdir().expect("writable");
        let path = directory.path().join("a/b/.log");
        let change = |time| RefChange { from: None, to: None, time, sequence: 1, by: "x".repeat(200) };
        for time in 0..600 {
            append(&path, &change(time)).expect("writable");
        }
        let text = fs::read_to_string(&path).expect("readable");
        let times: Vec<i64> = text.lines().map(|line| RefChange::parse(line).expect("whole lines").time).collect();
        assert!(text.len() < LOG_BYTES_MAX + 300 && times.len() > 100, "{}", times.len());
        assert!(times.windows(2).all(|pair| pair[0] + 1 == pair[1]) && times.last() == Some(&599));
    }
}
