//! Records when objects were last used, for the eviction of the least recently used ones.
//!
//! ```text
//! state/used/<pack>     for each object of the pack, in the order of its index, seconds since 1970 in a u32; 0 for "not
//!                       since the pack was made"
//! ```
//!
//! For objects with files of their own, and for partial objects, the modification time of the file is used. Uses are collected
//! in memory and written from time to time, only in repositories with a limit.
//!
//! *Not here*: eviction (`evict`).
//!
//! *Invariants*: the times are hints: losing them, or a race of two processes that write them, does no harm.
//!
//! *Used by* `cache`, `store::evict`, `store::merge` and `store::write`.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use super::open::Store;
use super::pack::Pack;
use super::partial;
use super::write::create_directory;
use crate::model::{CommitId, ObjectId};

/// Seconds since 1970; enough until 2106.
pub(super) type Seconds = u32;

/// When objects were last used, in seconds since 1970.
pub(crate) type UseTimes = HashMap<ObjectId, Seconds>;

/// Number of uses that are collected before they should be written.
const BUFFERED_USES_MAX: usize = 1 << 15;

/// A buffer of the times at which objects were used.
#[derive(Debug, Default)]
pub(crate) struct Recency {
    buffered: Mutex<UseTimes>,
}

impl Recency {
    /// Records that an object was used at `when`. Returns whether the uses should be written now.
    pub(crate) fn record(&self, id: ObjectId, when: SystemTime) -> bool {
        let mut buffered = self.buffered.lock();
        buffered.insert(id, seconds(when));
        buffered.len() >= BUFFERED_USES_MAX
    }

    /// Takes the recorded uses, to be written by [`Store::write_use_times`].
    pub(crate) fn take(&self) -> UseTimes {
        std::mem::take(&mut *self.buffered.lock())
    }
}

impl Store {
    /// Writes the times of last use of objects. Errors are only logged.
    /// Those of objects that are being fetched in parts for `commit` are written, too.
    pub(crate) fn write_use_times(&self, uses: &UseTimes, commit: Option<CommitId>) {
        let mut packed: HashMap<Arc<str>, (usize, Vec<(usize, Seconds)>)> = HashMap::new();
        for (id, &when) in uses {
            match self.packs().find_row(&self.inner.files, id) {
                Ok(Some((pack, row))) => {
                    packed.entry(Arc::clone(&pack.name)).or_insert((pack.len(), Vec::new())).1.push((row, when));
                }
                Ok(None) => self.set_file_time(*id, commit, when),
                Err(error) => tracing::debug!(object = %id, %error, "cannot record the use of the object"),
            }
        }
        for (name, (rows, uses)) in packed {
            if let Err(error) = self.write_pack_use_times(&name, rows, &uses) {
                tracing::debug!(pack = &*name, %error, "cannot record the uses of objects of the pack");
            }
        }
    }

    fn set_file_time(&self, id: ObjectId, commit: Option<CommitId>, when: Seconds) {
        let time = UNIX_EPOCH + Duration::from_secs(u64::from(when));
        let partial = commit.map(|commit| self.layout().partial_of(commit).object(id));
        // A large object is at one of the two paths, unless it was removed meanwhile.
        for path in [self.layout().object(id)].into_iter().chain(partial) {
            let set = partial::open(&path).and_then(|file| file.set_modified(time));
            if set.is_ok() {
                return;
            }
        }
    }

    fn write_pack_use_times(&self, name: &str, rows: usize, uses: &[(usize, Seconds)]) -> io::Result<()> {
        create_directory(&self.layout().use_times())?;
        let path = self.layout().use_times_of_pack(name);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let mut times = read_times(&file, rows)?;
        for &(row, when) in uses {
            times[row] = times[row].max(when);
        }
        let bytes: Vec<u8> = times.iter().flat_map(|time| time.to_le_bytes()).collect();
        file.write_all_at(&bytes, 0)
    }

    /// Returns when each object of a pack was last used, in the order of its index.
    pub(super) fn use_times_of(&self, pack: &Pack) -> Vec<Seconds> {
        let file = self.inner.files.pack(&pack.name);
        let made = file.and_then(|file| file.metadata()?.modified()).map_or(0, seconds);
        let recorded =
            File::open(self.layout().use_times_of_pack(&pack.name)).and_then(|file| read_times(&file, pack.len()));
        match recorded {
            Ok(times) => times.into_iter().map(|time| if time == 0 { made } else { time }).collect(),
            Err(_) => vec![made; pack.len()],
        }
    }

    /// Returns whether the repository keeps times of last use, which only one with a limit does.
    pub(super) fn keeps_use_times(&self) -> bool {
        self.config().cache_size.is_some() || self.layout().use_times().exists()
    }

    /// Removes the times of last use of a pack that was removed.
    pub(super) fn remove_use_times(&self, name: &str) {
        remove(&self.layout().use_times_of_pack(name));
    }
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => tracing::debug!("{}: {error}", path.display()),
        _ => {}
    }
}

fn read_times(file: &File, rows: usize) -> io::Result<Vec<Seconds>> {
    let mut bytes = vec![0; rows.saturating_mul(4)];
    // The file may be truncated; the times of the missing rows are then 0.
    crate::disk::read_from(file, 0, &mut bytes)?;
    let time = |row: &[u8]| u32::from_le_bytes([row[0], row[1], row[2], row[3]]);
    Ok(bytes.chunks_exact(4).map(time).collect())
}

pub(super) fn seconds(when: SystemTime) -> Seconds {
    let since = when.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Seconds::try_from(since).unwrap_or(Seconds::MAX)
}
