//! The packs of a repository, as they were when they were looked at last, and whether there may be others by now.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{Mode, OFlags};

use super::layout::Layout;
use super::pack::{Pack, Slot, is_removed};
use crate::model::ObjectId;

/// Filesystems note times by a clock that stands still for some milliseconds, some by one of whole seconds. A directory that
/// changed less long ago may change once more without showing it.
const TICK: i128 = 2_000_000_000;

/// In such a case it is listed again, but not for each object that is looked for.
const AGAIN: Duration = Duration::from_millis(50);

/// All packs of a repository.
pub(super) struct PackSet {
    packs: Vec<Arc<Pack>>,
    listed: Listed,
}

/// What the directory showed when it was listed.
#[derive(Debug, Clone, Copy)]
struct Listed {
    /// When it had changed last, in nanoseconds since 1970.
    changed: i128,
    /// That was a moment ago, so that it does not tell this listing from later ones.
    may_come_again: bool,
    at: Instant,
}

impl PackSet {
    /// Opens every pack below the repository `directory`. One that cannot be read is left out with a warning: its
    /// objects then count as missing, and everything else still works.
    pub(super) fn load(directory: &OwnedFd) -> io::Result<Self> {
        let listed = Listed::now(changed(directory)?);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut stream = rustix::fs::Dir::new(rustix::fs::openat(directory, Layout::PACKS, flags, Mode::empty())?)?;
        let mut packs = Vec::new();
        while let Some(entry) = stream.read() {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if !name.ends_with(Layout::PACK_SUFFIX) {
                continue;
            }
            match Pack::open(directory, name) {
                Ok(pack) => packs.push(Arc::new(pack)),
                // Removed by a garbage collection between listing and opening.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(pack = name, %error, "a pack cannot be used; run 'sapwood fsck'"),
            }
        }
        packs.sort_by(|a, b| b.size().cmp(&a.size()).then_with(|| a.name.cmp(&b.name)));
        Ok(Self { packs, listed })
    }

    /// Whether no pack can have been added or removed since.
    pub(super) fn is_current(&self, directory: &OwnedFd) -> bool {
        changed(directory).is_ok_and(|changed| self.listed.is_current(changed))
    }

    /// The packs, largest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Pack>> {
        self.packs.iter()
    }

    /// Where `id` is, if it is in any pack.
    pub(super) fn find(&self, id: &ObjectId) -> Option<(&Arc<Pack>, Slot)> {
        self.packs.iter().find_map(|pack| pack.find(id).map(|slot| (pack, slot)))
    }

    /// In which row of which pack `id` is, if it is in any.
    pub(super) fn find_row(&self, id: &ObjectId) -> Option<(&Arc<Pack>, usize)> {
        self.packs.iter().find_map(|pack| pack.find_row(id).map(|row| (pack, row)))
    }

    /// Whether some pack was removed since it was opened.
    pub(super) fn has_removed(&self) -> bool {
        self.packs.iter().any(|pack| is_removed(&pack.file))
    }
}

impl Listed {
    /// Of a directory that changed at `changed`. A time to come is that of a clock that was set back since.
    fn now(changed: i128) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i128);
        Self { changed, may_come_again: (now - TICK..=now).contains(&changed), at: Instant::now() }
    }

    /// Whether the directory, which changed last at `changed`, cannot have changed since.
    fn is_current(self, changed: i128) -> bool {
        self.changed == changed && (!self.may_come_again || self.at.elapsed() < AGAIN)
    }
}

/// When the directory of packs has changed last, in nanoseconds since 1970.
fn changed(directory: &OwnedFd) -> io::Result<i128> {
    let status = rustix::fs::statat(directory, Layout::PACKS, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(i128::from(status.st_mtime) * 1_000_000_000 + i128::from(status.st_mtime_nsec))
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;

    use super::*;
    use crate::disk::Wait;
    use crate::store::{Config, Store};

    #[test]
    fn packs_of_others_are_noticed_and_quiet_directories_are_not_listed_again() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = Store::init(directory.path(), &Config::default()).expect("empty");
        let packs = std::fs::File::open(directory.path().join(Layout::PACKS)).expect("made");
        let long_ago = SystemTime::now() - Duration::from_secs(100);
        packs.set_modified(long_ago).expect("ours");
        assert!(store.look_for_new_packs(), "its time is another");
        assert!(!store.look_for_new_packs());
        let id = ObjectId::of(b"brought");
        assert!(!store.has_object(id));
        let other = Store::open(directory.path()).expect("a repository");
        let writer = other.writer(Wait::No).expect("nobody else");
        writer.put_object(id, b"brought").expect("right");
        writer.settle().expect("durable");
        assert!(store.has_object(id));
        // What changed a moment ago may change once more.
        packs.set_modified(SystemTime::now()).expect("ours");
        assert!(store.look_for_new_packs() && !store.look_for_new_packs());
        sleep(AGAIN);
        assert!(store.look_for_new_packs());
        packs.set_modified(SystemTime::now() + Duration::from_secs(1000)).expect("ours");
        assert!(store.look_for_new_packs() && !store.look_for_new_packs());
        sleep(AGAIN);
        assert!(!store.look_for_new_packs());
    }
}
