//! The positions of objects: in which frames of which packs they are. Pure.
//!
//! *Used by* `publish`, and by `prune::regroup`.

use std::collections::{HashMap, HashSet};

use crate::model::{BLOCK_SIZE, LARGE_OBJECT, ObjectId, PackId};
use crate::remote::format::{Locator, LocatorBuilder, ObjectPosition, PackFrame, PackRef};

/// The positions of a set of objects.
#[derive(Debug, Default)]
pub(in crate::remote) struct ObjectLocations {
    pub(crate) packs: Vec<PackRef>,
    /// The frames, with the number of their pack in `packs`. Those of a large object are consecutive.
    pub(crate) frames: Vec<PackFrame>,
    /// Number of the first frame and the offset in it, for each object.
    pub(crate) objects: HashMap<ObjectId, (u32, u32)>,
}

/// The position of one object.
pub(in crate::remote) struct ObjectLocation<'a> {
    packs: &'a [PackRef],
    frames: &'a [PackFrame],
    offset: u32,
}

impl ObjectLocation<'_> {
    /// Returns the object's frames, each with its pack.
    pub(in crate::remote) fn frames(&self) -> impl Iterator<Item = (PackRef, PackFrame)> {
        self.frames.iter().map(|frame| (self.packs[frame.pack as usize], *frame))
    }

    /// Returns the object's offset in the first frame.
    pub(in crate::remote) const fn offset(&self) -> u32 {
        self.offset
    }
}

impl ObjectLocations {
    pub(super) fn has_object(&self, id: &ObjectId) -> bool {
        self.objects.contains_key(id)
    }

    /// Returns the position of an object of `size` bytes, if it is known.
    pub(in crate::remote) fn find(&self, id: &ObjectId, size: u64) -> Option<ObjectLocation<'_>> {
        let (first, offset) = *self.objects.get(id)?;
        let first = first as usize;
        let frames = self.frames.get(first..first.checked_add(frame_count(size))?)?;
        Some(ObjectLocation { packs: &self.packs, frames, offset })
    }

    /// Adds the positions of `wanted` objects from the locator of an image with these `objects`, and removes them from
    /// `wanted`.
    pub(in crate::remote) fn take_from_locator(
        &mut self,
        locator: &Locator,
        objects: impl Iterator<Item = (ObjectId, u64)>,
        wanted: &mut HashSet<ObjectId>,
    ) {
        let mut packs: HashMap<u32, u32> = HashMap::new();
        let mut shared: HashMap<u32, u32> = HashMap::new();
        for (index, (id, size)) in (0..).zip(objects) {
            if !wanted.contains(&id) {
                continue;
            }
            let Some(position) = locator.object(index) else { continue };
            let first = position.frame as usize;
            let Some(frames) = locator.frames().get(first..first.saturating_add(frame_count(size))) else { continue };
            wanted.remove(&id);
            let known = if frames.len() == 1 { shared.get(&position.frame).copied() } else { None };
            let number = known.unwrap_or_else(|| self.copy_frames(locator, frames, &mut packs));
            shared.insert(position.frame, number);
            self.objects.insert(id, (number, position.offset));
        }
    }

    /// Adds the positions of `others`, which replace known ones.
    pub(in crate::remote) fn extend(&mut self, others: Self) {
        let (packs, frames) = (number(self.packs.len()), number(self.frames.len()));
        self.packs.extend(others.packs);
        self.frames.extend(others.frames.into_iter().map(|frame| PackFrame { pack: packs + frame.pack, ..frame }));
        let moved = others.objects.into_iter().map(|(id, (frame, offset))| (id, (frames + frame, offset)));
        self.objects.extend(moved);
    }

    /// Adds frames of a locator and returns the number of the first.
    fn copy_frames(&mut self, locator: &Locator, frames: &[PackFrame], packs: &mut HashMap<u32, u32>) -> u32 {
        let first = number(self.frames.len());
        for frame in frames {
            let pack = *packs.entry(frame.pack).or_insert_with(|| {
                self.packs.push(locator.packs()[frame.pack as usize]);
                number(self.packs.len() - 1)
            });
            self.frames.push(PackFrame { pack, ..*frame });
        }
        first
    }
}

/// Returns how many frames an object of `size` bytes takes: one, or one for each block of a large object.
fn frame_count(size: u64) -> usize {
    let blocks = if size > LARGE_OBJECT { size.div_ceil(BLOCK_SIZE) } else { 1 };
    usize::try_from(blocks).unwrap_or(usize::MAX)
}

fn number(count: usize) -> u32 {
    u32::try_from(count).expect("an image has fewer than 2^32 entries, so no more objects, frames or packs")
}

/// A locator of an image that is filled object by object.
#[derive(Default)]
pub(in crate::remote) struct NewLocator {
    builder: LocatorBuilder,
    packs: HashMap<PackId, u32>,
    frames: HashMap<(u32, u32), u32>,
}

impl NewLocator {
    /// Adds the image's next object.
    pub(in crate::remote) fn add(&mut self, location: &ObjectLocation<'_>) {
        let mut first = None;
        for frame in location.frames {
            let PackRef { id, length } = location.packs[frame.pack as usize];
            let builder = &mut self.builder;
            let pack = *self.packs.entry(id).or_insert_with(|| builder.add_pack(id, length));
            let here = PackFrame { pack, ..*frame };
            // Frames of a large object are consecutive and belong to no other object; shared frames are added once.
            let number = *self.frames.entry((pack, frame.offset)).or_insert_with(|| builder.add_frame(here));
            first.get_or_insert(number);
        }
        self.builder.add_object(ObjectPosition { frame: first.unwrap_or_default(), offset: location.offset });
    }

    /// Returns the packs that the locator leads to.
    pub(super) fn packs(&self) -> impl Iterator<Item = PackId> {
        self.packs.keys().copied()
    }

    /// Returns the locator's bytes.
    pub(in crate::remote) fn finish(&self) -> std::io::Result<Vec<u8>> {
        self.builder.finish()
    }
}
