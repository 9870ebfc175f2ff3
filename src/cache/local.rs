//! How much of a commit is here. Looking takes some tens of milliseconds for a whole system, so that what was found is kept
//! for a moment. No longer: other processes bring things and take them away.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::frames::Frames;
use super::shelf::Key;
use crate::model::{LARGE_OBJECT, ObjectId};

/// What was found is not looked for again before.
const FRESH: Duration = Duration::from_secs(1);

/// What is here of the contents of one commit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Local {
    /// Objects that are here as a whole.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of large objects that are here in part.
    pub partial: u64,
}

/// What was found last.
#[derive(Debug, Default)]
pub(super) struct LastLook(Mutex<Option<(Instant, Local)>>);

impl LastLook {
    /// What is here of all objects of `frames`; `None` while not all of their names are.
    pub fn at(&self, frames: &Frames) -> Option<Local> {
        let mut last = self.0.lock();
        if let Some((when, local)) = *last
            && when.elapsed() < FRESH
        {
            return Some(local);
        }
        let local = look(frames)?;
        *last = Some((Instant::now(), local));
        Some(local)
    }
}

fn look(frames: &Frames) -> Option<Local> {
    let image = frames.image.image();
    let sizes = image.object_sizes().ok()?;
    frames.store.look_for_new_packs();
    let (whole, partial) = (frames.store.objects_with_files(), frames.store.partial_sizes());
    let mut local = Local::default();
    for (index, size) in (0_u32..).zip(sizes) {
        let id = image.object_by_index(index).ok()?;
        if is_here(frames, id, &whole) {
            local.objects += 1;
            local.bytes += size;
        } else if size > LARGE_OBJECT {
            local.partial += partial.get(&id).copied().unwrap_or(0).min(size);
        }
    }
    Some(local)
}

fn is_here(frames: &Frames, id: ObjectId, whole: &HashSet<ObjectId>) -> bool {
    whole.contains(&id) || frames.store.is_packed(id) || frames.shelf.get(Key::Object(id)).is_some()
}
