//! Stores which objects each commit added to its parent, so that sums over a history read each image only once.
//!
//! ```text
//! offset size
//!      0   16  magic "SAPWHST\0" · u32 version = 1 · zero
//!     16       records, each after that of its parent
//!
//! record:  commit (32) · parent (32, zeros for none) · u32 rows · u32 zero
//!          rows: object (32) · u64 size, of the objects that the parent's image does not have
//!          SHA-256 of the record so far (32)
//! ```
//!
//! *Not here*: the sums (`usage`).
//!
//! *Invariants*: the file is a cache of what images say, which never changes, so it is only appended to. A damaged or truncated
//! file is made again, and `gc` removes it when it removes a commit. It has no lazy commits.
//!
//! *Used by* `store::usage`.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt as _;

use super::open::Store;
use super::source::ReadError;
use crate::image::ImageError;
use crate::model::{CommitId, ImageId, ObjectId};
use crate::sys::Mapping;

const MAGIC: [u8; 16] = *b"SAPWHST\0\x01\0\0\0\0\0\0\0";
const RECORD_HEAD: usize = 72;
const ROW: usize = 40;
const DIGEST: usize = 32;

/// The records of some commits and of all their ancestors.
pub(super) struct History {
    /// The bytes of the file; empty if the file must be made again.
    old: Mapping,
    /// The records that are not in the file yet.
    new: Vec<u8>,
    commits: HashMap<CommitId, HistoryRecord>,
}

/// The record of one commit.
struct HistoryRecord {
    parent: Option<CommitId>,
    rows: RowRange,
}

/// The position of the rows of a record: in the file, or in the new records.
enum RowRange {
    Old(Range<usize>),
    New(Range<usize>),
}

impl History {
    /// Reads the file; without a valid file there are no records.
    pub(super) fn load(store: &Store) -> Self {
        let map = File::open(store.layout().history()).and_then(|file| Mapping::of_file(&file));
        let old = map.unwrap_or_else(|_| Mapping::of_bytes(Vec::new()));
        match parse(&old) {
            Some(commits) => Self { old, new: Vec::new(), commits },
            None => Self { old: Mapping::of_bytes(Vec::new()), new: Vec::new(), commits: HashMap::new() },
        }
    }

    /// Adds records of `tip` and its ancestors that have none. The history ends at a commit whose parent is not in the
    /// repository.
    pub(super) fn extend(&mut self, store: &Store, tip: CommitId) -> Result<(), ReadError> {
        let (mut unknown, mut next) = (Vec::new(), Some(tip));
        while let Some(id) = next.filter(|id| !self.commits.contains_key(id)) {
            let commit = match store.commit(id) {
                Err(ReadError::MissingCommit { .. }) if id != tip => break,
                other => other?,
            };
            next = commit.parent;
            unknown.push((id, commit));
        }
        let mut before: Option<(ImageId, HashSet<ObjectId>)> = None;
        while let Some((id, commit)) = unknown.pop() {
            let parent = commit.parent.filter(|parent| self.commits.contains_key(parent));
            let known = match parent {
                None => HashSet::new(),
                Some(parent) => {
                    let image = store.commit(parent)?.image;
                    match before.take().filter(|(last, _)| *last == image) {
                        Some((_, objects)) => objects,
                        None => objects_of(store, image)?.into_iter().map(|(object, _)| object).collect(),
                    }
                }
            };
            let objects = objects_of(store, commit.image)?;
            self.add(id, parent, objects.iter().filter(|(object, _)| !known.contains(object)));
            before = Some((commit.image, objects.into_iter().map(|(object, _)| object).collect()));
        }
        Ok(())
    }

    fn add<'a>(&mut self, id: CommitId, parent: Option<CommitId>, rows: impl Iterator<Item = &'a (ObjectId, u64)>) {
        let start = self.new.len();
        self.new.extend_from_slice(id.as_bytes());
        self.new.extend_from_slice(parent.map_or([0; 32], |parent| *parent.as_bytes()).as_slice());
        self.new.extend_from_slice(&[0; 8]);
        let first = self.new.len();
        for (object, size) in rows {
            self.new.extend_from_slice(object.as_bytes());
            self.new.extend_from_slice(&size.to_le_bytes());
        }
        let end = self.new.len();
        let count = u32::try_from((end - first) / ROW).expect("an image has fewer than 2^32 objects");
        self.new[first - 8..first - 4].copy_from_slice(&count.to_le_bytes());
        let digest = ObjectId::of(&self.new[start..end]);
        self.new.extend_from_slice(digest.as_bytes());
        self.commits.insert(id, HistoryRecord { parent, rows: RowRange::New(first..end) });
    }

    /// Calls `visit` for every object of `tip` and its ancestors, for some objects several times. Returns the number of
    /// commits.
    pub(super) fn for_each_object(&self, tip: CommitId, mut visit: impl FnMut(ObjectId, u64)) -> usize {
        let (mut count, mut next) = (0, Some(tip));
        while let Some(known) = next.and_then(|id| self.commits.get(&id)) {
            let rows = match &known.rows {
                RowRange::Old(range) => &self.old[range.clone()],
                RowRange::New(range) => &self.new[range.clone()],
            };
            for row in rows.chunks_exact(ROW) {
                let object = ObjectId::from_slice(&row[..32]).expect("32 bytes were cut out");
                visit(object, u64::from_le_bytes(row[32..].try_into().expect("eight bytes are left")));
            }
            (count, next) = (count + 1, known.parent);
        }
        count
    }

    /// Appends the new records to the file, if the repository can be written.
    pub(super) fn save(&self, store: &Store) {
        if let Err(error) = self.append(store) {
            tracing::debug!(%error, "cannot save which objects commits have added");
        }
    }

    fn append(&self, store: &Store) -> io::Result<()> {
        if self.new.is_empty() {
            return Ok(());
        }
        let path = store.layout().history();
        let mut bytes = Vec::new();
        if self.old.is_empty() {
            store.forget_history()?;
            bytes.extend_from_slice(&MAGIC);
        }
        bytes.extend_from_slice(&self.new);
        // One call appends all records, so that those of another process cannot be written between them.
        OpenOptions::new().append(true).create(true).mode(0o600).open(path)?.write_all(&bytes)
    }
}

impl Store {
    /// Removes the file, before a commit is removed.
    pub(super) fn forget_history(&self) -> io::Result<()> {
        match fs::remove_file(self.layout().history()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

fn objects_of(store: &Store, id: ImageId) -> Result<Vec<(ObjectId, u64)>, ReadError> {
    let damaged = |source: ImageError| ReadError::Image { id, source };
    store.image(id)?.objects_with_sizes().map_err(damaged)?.collect::<Result<_, _>>().map_err(damaged)
}

/// Finds the records; returns `None` if any of them is damaged.
fn parse(bytes: &[u8]) -> Option<HashMap<CommitId, HistoryRecord>> {
    let mut commits = HashMap::new();
    let mut start = MAGIC.len();
    if !bytes.starts_with(&MAGIC) {
        return None;
    }
    while start < bytes.len() {
        let head = bytes.get(start..start.checked_add(RECORD_HEAD)?)?;
        let rows = usize::try_from(u32::from_le_bytes(head[64..68].try_into().ok()?)).ok()?.checked_mul(ROW)?;
        let first = start + RECORD_HEAD;
        let end = first.checked_add(rows)?;
        let digest = bytes.get(end..end.checked_add(DIGEST)?)?;
        if ObjectId::of(&bytes[start..end]).as_bytes() != digest {
            return None;
        }
        let parent = CommitId::from_slice(&head[32..64]).filter(|parent| *parent.as_bytes() != [0; 32]);
        // An unknown parent would end the history too early.
        if parent.is_some_and(|parent| !commits.contains_key(&parent)) {
            return None;
        }
        commits.insert(CommitId::from_slice(&head[..32])?, HistoryRecord { parent, rows: RowRange::Old(first..end) });
        start = end + DIGEST;
    }
    Some(commits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_or_truncated_history_is_not_used() {
        let mut history = History { old: Mapping::of_bytes(Vec::new()), new: Vec::new(), commits: HashMap::new() };
        let (first, second) = (CommitId::of(b"1"), CommitId::of(b"2"));
        history.add(first, None, [(ObjectId::of(b"a"), 1), (ObjectId::of(b"b"), 2)].iter());
        history.add(second, Some(first), [(ObjectId::of(b"c"), 4)].iter());
        let sum = |history: &History, tip| {
            let mut sum = 0;
            let commits = history.for_each_object(tip, |_, size| sum += size);
            (commits, sum)
        };
        assert_eq!((sum(&history, first), sum(&history, second)), ((1, 3), (2, 7)));
        let bytes = [&MAGIC[..], &history.new].concat();
        let read = |bytes: &[u8]| {
            let commits = parse(bytes)?;
            Some(History { old: Mapping::of_bytes(bytes.to_vec()), new: Vec::new(), commits })
        };
        assert_eq!(sum(&read(&bytes).expect("intact"), second), (2, 7));
        let complete = [MAGIC.len(), MAGIC.len() + RECORD_HEAD + 2 * ROW + DIGEST];
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(read(&damaged).is_none(), "byte {at}");
            assert_eq!(read(&bytes[..at]).is_some(), complete.contains(&at), "cut at {at}");
        }
    }
}
