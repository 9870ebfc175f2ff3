//! When objects were used last, so that a bounded repository can let go of what was not used for longest.
//!
//! ```text
//! state/used/<pack>     for each object of the pack, in the order of its index, seconds since 1970 in a u32; 0 for "not
//!                       since the pack was made"
//! ```
//!
//! Of objects with files of their own, and of those that are here in part, the time of the file tells. Uses are noted in
//! memory and written now and then, by whoever bounds a repository. All of it is a hint: nothing is wrong when it is lost
//! or when two processes write at once.

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
use super::write::create_directory;
use crate::model::ObjectId;

/// Seconds since 1970; good until 2106.
pub(super) type Seconds = u32;

/// Notes of uses that wait to be written; more are written at once.
const NOTES_MAX: usize = 1 << 15;

/// Notes which objects are used.
#[derive(Debug)]
pub struct Recency {
    store: Store,
    noted: Mutex<HashMap<ObjectId, Seconds>>,
}

impl Recency {
    /// Of the objects of `store`.
    #[must_use]
    pub fn of(store: &Store) -> Self {
        Self { store: store.clone(), noted: Mutex::default() }
    }

    /// Notes that an object was used at `when`. Returns whether it is time to [`Self::write`].
    pub fn note(&self, id: ObjectId, when: SystemTime) -> bool {
        let mut noted = self.noted.lock();
        noted.insert(id, seconds(when));
        noted.len() >= NOTES_MAX
    }

    /// Writes what was noted.
    pub fn write(&self) {
        let noted = std::mem::take(&mut *self.noted.lock());
        self.store.note_uses(&noted);
    }
}

impl Store {
    /// Writes down when objects were used. What cannot be written is not remembered.
    pub(super) fn note_uses(&self, uses: &HashMap<ObjectId, Seconds>) {
        let mut packed: HashMap<Arc<str>, (usize, Vec<(usize, Seconds)>)> = HashMap::new();
        for (id, &when) in uses {
            match self.packs().find_row(&self.inner.files, id) {
                Ok(Some((pack, row))) => {
                    packed.entry(Arc::clone(&pack.name)).or_insert((pack.len(), Vec::new())).1.push((row, when));
                }
                Ok(None) => self.note_use_of_file(*id, when),
                Err(error) => tracing::debug!(object = %id, %error, "its use is not remembered"),
            }
        }
        for (name, (rows, uses)) in packed {
            if let Err(error) = self.write_uses(&name, rows, &uses) {
                tracing::debug!(pack = &*name, %error, "uses are not remembered");
            }
        }
    }

    fn note_use_of_file(&self, id: ObjectId, when: Seconds) {
        let time = UNIX_EPOCH + Duration::from_secs(u64::from(when));
        // A large object is in one of the two places; others have come and gone.
        for path in [self.layout().object(id), self.layout().partial_object(id)] {
            let noted = File::open(&path).and_then(|file| file.set_modified(time));
            if noted.is_ok() {
                return;
            }
        }
    }

    fn write_uses(&self, name: &str, rows: usize, uses: &[(usize, Seconds)]) -> io::Result<()> {
        create_directory(&self.layout().uses())?;
        let path = self.layout().uses_of_pack(name);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let mut times = read_times(&file, rows)?;
        for &(row, when) in uses {
            times[row] = times[row].max(when);
        }
        let bytes: Vec<u8> = times.iter().flat_map(|time| time.to_le_bytes()).collect();
        file.write_all_at(&bytes, 0)
    }

    /// When each object of a pack was used last, in the order of its index.
    pub(super) fn uses_of(&self, pack: &Pack) -> Vec<Seconds> {
        let file = self.inner.files.pack(&pack.name);
        let made = file.and_then(|file| file.metadata()?.modified()).map_or(0, seconds);
        let noted = File::open(self.layout().uses_of_pack(&pack.name)).and_then(|file| read_times(&file, pack.len()));
        match noted {
            Ok(times) => times.into_iter().map(|time| if time == 0 { made } else { time }).collect(),
            Err(_) => vec![made; pack.len()],
        }
    }

    /// Whether anybody asks when objects were used: only who bounds a repository does.
    pub(super) fn remembers_uses(&self) -> bool {
        self.config().cache_size.is_some() || self.layout().uses().exists()
    }

    /// Forgets the uses of a pack that is gone.
    pub(super) fn forget_uses(&self, name: &str) {
        remove(&self.layout().uses_of_pack(name));
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
    // A shorter file is one that was cut off: the rest is not known.
    crate::disk::read_from(file, 0, &mut bytes)?;
    let time = |row: &[u8]| u32::from_le_bytes([row[0], row[1], row[2], row[3]]);
    Ok(bytes.chunks_exact(4).map(time).collect())
}

pub(super) fn seconds(when: SystemTime) -> Seconds {
    let since = when.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Seconds::try_from(since).unwrap_or(Seconds::MAX)
}
