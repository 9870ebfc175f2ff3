//! Where objects are: in which frames of which packs. Pure.

use std::collections::{HashMap, HashSet};

use crate::model::{BLOCK_SIZE, LARGE_OBJECT, ObjectId, PackId};
use crate::remote::format::{Frame, Locator, LocatorBuilder, PackRef, Spot};

/// Objects and where they are.
#[derive(Debug, Default)]
pub(in crate::remote) struct Places {
    pub packs: Vec<PackRef>,
    /// With the number of the pack here. Those of a large object follow each other.
    pub frames: Vec<Frame>,
    /// First frame and the offset in it of each object.
    pub objects: HashMap<ObjectId, (u32, u32)>,
}

/// Where one object is.
pub(in crate::remote) struct Place<'a> {
    packs: &'a [PackRef],
    frames: &'a [Frame],
    offset: u32,
}

impl Place<'_> {
    /// Its frames, each with its pack.
    pub(in crate::remote) fn frames(&self) -> impl Iterator<Item = (PackRef, Frame)> {
        self.frames.iter().map(|frame| (self.packs[frame.pack as usize], *frame))
    }

    /// Where it begins in the first of them.
    pub(in crate::remote) const fn offset(&self) -> u32 {
        self.offset
    }
}

impl Places {
    pub(super) fn has(&self, id: &ObjectId) -> bool {
        self.objects.contains_key(id)
    }

    /// Where an object of `size` bytes is, if it is here.
    pub(in crate::remote) fn find(&self, id: &ObjectId, size: u64) -> Option<Place<'_>> {
        let (first, offset) = *self.objects.get(id)?;
        let first = first as usize;
        let frames = self.frames.get(first..first.checked_add(frame_count(size))?)?;
        Some(Place { packs: &self.packs, frames, offset })
    }

    /// Takes from a locator, which is for an image of these `objects`, where those are that are `wanted`, and takes them
    /// out of there.
    pub(in crate::remote) fn learn(
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
            let Some(spot) = locator.object(index) else { continue };
            let first = spot.frame as usize;
            let Some(frames) = locator.frames().get(first..first.saturating_add(frame_count(size))) else { continue };
            wanted.remove(&id);
            let known = if frames.len() == 1 { shared.get(&spot.frame).copied() } else { None };
            let number = known.unwrap_or_else(|| self.copy_frames(locator, frames, &mut packs));
            shared.insert(spot.frame, number);
            self.objects.insert(id, (number, spot.offset));
        }
    }

    /// Adds what `others` know; what both know is where they say.
    pub(in crate::remote) fn extend(&mut self, others: Self) {
        let (packs, frames) = (number(self.packs.len()), number(self.frames.len()));
        self.packs.extend(others.packs);
        self.frames.extend(others.frames.into_iter().map(|frame| Frame { pack: packs + frame.pack, ..frame }));
        let moved = others.objects.into_iter().map(|(id, (frame, offset))| (id, (frames + frame, offset)));
        self.objects.extend(moved);
    }

    /// Adds frames of a locator and returns the number of the first.
    fn copy_frames(&mut self, locator: &Locator, frames: &[Frame], packs: &mut HashMap<u32, u32>) -> u32 {
        let first = number(self.frames.len());
        for frame in frames {
            let pack = *packs.entry(frame.pack).or_insert_with(|| {
                self.packs.push(locator.packs()[frame.pack as usize]);
                number(self.packs.len() - 1)
            });
            self.frames.push(Frame { pack, ..*frame });
        }
        first
    }
}

/// Frames that an object of `size` bytes takes: one, or one for each block of a large one.
fn frame_count(size: u64) -> usize {
    let blocks = if size > LARGE_OBJECT { size.div_ceil(BLOCK_SIZE) } else { 1 };
    usize::try_from(blocks).unwrap_or(usize::MAX)
}

fn number(count: usize) -> u32 {
    u32::try_from(count).expect("an image has fewer than 2^32 entries, so no more objects, frames or packs")
}

/// The locator of an image, filled object by object.
#[derive(Default)]
pub(in crate::remote) struct NewLocator {
    builder: LocatorBuilder,
    packs: HashMap<PackId, u32>,
    frames: HashMap<(u32, u32), u32>,
}

impl NewLocator {
    /// Adds the image's next object.
    pub(in crate::remote) fn add(&mut self, place: &Place<'_>) {
        let mut first = None;
        for frame in place.frames {
            let PackRef { id, length } = place.packs[frame.pack as usize];
            let builder = &mut self.builder;
            let pack = *self.packs.entry(id).or_insert_with(|| builder.pack(id, length));
            let here = Frame { pack, ..*frame };
            // Frames of a large object follow each other and belong to nobody else; shared ones are added once.
            let number = *self.frames.entry((pack, frame.offset)).or_insert_with(|| builder.frame(here));
            first.get_or_insert(number);
        }
        self.builder.object(Spot { frame: first.unwrap_or_default(), offset: place.offset });
    }

    /// The packs that it leads to.
    pub(super) fn packs(&self) -> impl Iterator<Item = PackId> {
        self.packs.keys().copied()
    }

    /// Its bytes.
    pub(in crate::remote) fn finish(&self) -> std::io::Result<Vec<u8>> {
        self.builder.finish()
    }
}
