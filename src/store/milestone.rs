//! Stores the milestone of a check or collection: the start and the commits of its last complete run, so that the next run only
//! reads what has changed since.
//!
//! ```text
//! sapwood milestone 1
//! 1764500000000000000              when the run began, in nanoseconds since 1970
//! 3f2a…                            the commits that it began at, one on a line, ascending
//! 77ab…                            SHA-256 of all before
//! ```
//!
//! *Not here*: what is checked or collected.
//!
//! *Invariants*: a milestone is written only after a run that found no damage or left no garbage, and it covers all its commits
//! and their histories. A file may have changed since if its inode has (ctime, which no program can set), or if that was so
//! shortly before the run that the clock cannot tell. If the milestone is damaged, the next run reads everything.
//!
//! *Used by* `store::recheck`, `store::fsck` and `store::gc`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::Stat;

use super::open::Store;
use super::source::ReadError;
use crate::disk;
use crate::model::{Commit, CommitId, ObjectId};

const MAGIC: &str = "sapwood milestone 1";

/// The granularity of the clocks of filesystems in nanoseconds: two seconds at most.
const CLOCK_GRANULARITY_NS: i128 = 2_000_000_000;

/// The kind of run that a milestone is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MilestoneKind {
    /// A check that found no damage.
    Checked,
    /// A collection, after which there was no garbage.
    Collected,
}

/// A complete run: when it began, and the commits that it began at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Milestone {
    began: i128,
    tips: BTreeSet<CommitId>,
}

/// The part of a history that a milestone does not have.
#[derive(Debug, Default)]
pub(super) struct NewHistory {
    pub(crate) commits: BTreeMap<CommitId, Commit>,
    /// The commits of the milestone at which the new history begins.
    pub(crate) reached: BTreeSet<CommitId>,
}

impl Milestone {
    pub(super) fn new(began: SystemTime, tips: BTreeSet<CommitId>) -> Self {
        let since = began.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { began: i128::try_from(since.as_nanos()).unwrap_or(0), tips }
    }

    /// Returns when the run began, in seconds since 1970.
    pub(super) fn seconds(&self) -> i64 {
        i64::try_from(self.began / 1_000_000_000).unwrap_or(i64::MAX)
    }

    /// Returns the commits that the run began at.
    pub(super) const fn tips(&self) -> &BTreeSet<CommitId> {
        &self.tips
    }

    /// Returns whether a file may have changed since the run began.
    pub(super) fn may_have_changed(&self, file: &Stat) -> bool {
        i128::from(file.st_ctime) * 1_000_000_000 + i128::from(file.st_ctime_nsec) + CLOCK_GRANULARITY_NS >= self.began
    }

    /// Returns whether the file at `path`, relative to the repository, may have changed since the run began. The file must
    /// exist.
    pub(super) fn file_may_have_changed(&self, store: &Store, path: &Path) -> io::Result<bool> {
        let status = rustix::fs::statat(store.directory(), path, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(self.may_have_changed(&status))
    }

    /// Follows `tips` to the commits of the milestone. The history ends at a commit whose parent is not in the repository.
    pub(super) fn new_history(
        &self,
        store: &Store,
        tips: impl IntoIterator<Item = CommitId>,
    ) -> Result<NewHistory, ReadError> {
        let mut found = NewHistory::default();
        for tip in tips {
            let mut next = Some(tip);
            while let Some(id) = next {
                if self.tips.contains(&id) {
                    found.reached.insert(id);
                    break;
                }
                if found.commits.contains_key(&id) {
                    break;
                }
                let commit = match store.commit(id) {
                    Err(ReadError::MissingCommit { .. }) if id != tip => break,
                    other => other?,
                };
                next = commit.parent;
                found.commits.insert(id, commit);
            }
        }
        Ok(found)
    }

    fn encode(&self) -> String {
        let mut text = format!("{MAGIC}\n{}\n", self.began);
        for tip in &self.tips {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{tip}");
        }
        let digest = ObjectId::of(text.as_bytes());
        let _ = writeln!(text, "{digest}");
        text
    }

    fn decode(text: &str) -> Option<Self> {
        let (body, digest) = text.strip_suffix('\n')?.rsplit_once('\n')?;
        let body = text.get(..=body.len())?;
        if ObjectId::of(body.as_bytes()).to_string() != digest {
            return None;
        }
        let mut lines = body.lines();
        if lines.next() != Some(MAGIC) {
            return None;
        }
        let began = lines.next()?.parse().ok()?;
        let tips = lines.map(|line| line.parse().ok()).collect::<Option<_>>()?;
        Some(Self { began, tips })
    }
}

impl Store {
    /// Returns the milestone of the last run; `None` if there is none, or if it is in the future by the clock.
    pub(super) fn milestone(&self, memory: MilestoneKind) -> Option<Milestone> {
        let milestone = Milestone::decode(&fs::read_to_string(self.milestone_path(memory)).ok()?)?;
        let now = Milestone::new(SystemTime::now(), BTreeSet::new());
        (milestone.began <= now.began).then_some(milestone)
    }

    /// Saves the milestone of a run, if the repository can be written.
    pub(super) fn save_milestone(&self, memory: MilestoneKind, milestone: &Milestone) {
        if let Err(error) = disk::replace(&self.milestone_path(memory), milestone.encode().as_bytes()) {
            tracing::debug!(%error, "cannot save the milestone of this run");
        }
    }

    /// Removes the milestone, so that the next run reads everything.
    pub(super) fn remove_milestone(&self, memory: MilestoneKind) {
        let path = self.milestone_path(memory);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("{} cannot be removed: {error}; use '--all' next time", path.display());
            }
            _ => {}
        }
    }

    fn milestone_path(&self, memory: MilestoneKind) -> PathBuf {
        match memory {
            MilestoneKind::Checked => self.layout().last_check(),
            MilestoneKind::Collected => self.layout().last_collection(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milestone_decodes_from_its_encoding_and_refuses_damage() {
        for tips in [BTreeSet::new(), [CommitId::of(b"a"), CommitId::of(b"b")].into()] {
            let milestone = Milestone::new(SystemTime::now(), tips);
            let text = milestone.encode();
            assert_eq!(Milestone::decode(&text), Some(milestone));
            for cut in 0..text.len() {
                assert_eq!(Milestone::decode(&text[..cut]), None);
                let mut damaged = text.clone().into_bytes();
                damaged[cut] ^= 1;
                let decoded = std::str::from_utf8(&damaged).ok().and_then(Milestone::decode);
                assert_eq!(decoded, None, "byte {cut}");
            }
        }
    }
}
