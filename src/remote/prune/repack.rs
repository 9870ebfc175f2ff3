//! Copies the needed frames of packs unchanged to new packs, and makes locators that lead to them.
//!
//! *Used by* `apply`.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::atomic::Ordering;

use super::error::PruneError;
use super::inventory::{Inventory, PackUse, PruneIndex};
use super::{PruneOptions, PruneProgress};
use crate::disk::TemporaryFile;
use crate::model::{LocatorId, PackId};
use crate::remote::format::{FileRef, Locator, LocatorBuilder, PackFrame, PackRef, PackWriter, decode_frame};
use crate::remote::layout;
use crate::remote::published;
use crate::remote::transport::{Transport, WriteCondition};

/// The most unneeded bytes between frames that are read with them: fewer than a request costs.
const GAP_MAX: u64 = 64 << 10;

/// The most bytes of one read.
const READ_SIZE_MAX: u64 = 8 << 20;

/// The new positions of copied frames.
#[derive(Debug, Default)]
pub(super) struct MovedFrames {
    packs: Vec<PackRef>,
    /// From the old pack and offset to the number of the new pack and the offset there.
    frames: HashMap<(PackId, u32), (usize, u32)>,
}

impl MovedFrames {
    /// Returns the number of new packs.
    pub(super) const fn packs(&self) -> usize {
        self.packs.len()
    }

    /// Returns the bytes of the new packs.
    pub(super) fn bytes(&self) -> u64 {
        self.packs.iter().map(|pack| pack.length).sum()
    }

    fn find(&self, pack: PackRef, offset: u32) -> (PackRef, u32) {
        match self.frames.get(&(pack.id, offset)) {
            Some(&(number, offset)) => (self.packs[number], offset),
            None => (pack, offset),
        }
    }
}

/// Copies the needed frames of the `chosen` packs, and uploads the new packs.
pub(super) fn copy_packs(
    transport: &Transport,
    chosen: &[(PackId, PackUse)],
    options: &PruneOptions,
    progress: &PruneProgress,
) -> Result<MovedFrames, PruneError> {
    let total = chosen.iter().flat_map(|(_, used)| used.frames.values()).map(|(length, _)| u64::from(*length)).sum();
    progress.total.store(total, Ordering::Relaxed);
    let mut copying = PackCopier { transport, options, moved: MovedFrames::default(), current: None };
    for (pack, used) in chosen {
        let frames: Vec<PackFrame> = used
            .frames
            .iter()
            .map(|(&offset, &(length, raw_length))| PackFrame { pack: 0, offset, length, raw_length })
            .collect();
        for run in group_frames(&frames) {
            let (first, last) = (run[0], run[run.len() - 1]);
            let start = u64::from(first.offset);
            let bytes = transport.get_range(&layout::pack(*pack), start..last.end())?;
            for frame in run {
                let from = (frame.offset - first.offset) as usize;
                let packed = &bytes[from..][..frame.length as usize];
                let damaged = |source| PruneError::Frame { pack: *pack, offset: frame.offset, source };
                // A frame that was damaged in transit must not replace the correct one on the server.
                decode_frame(packed, frame.raw_length).map_err(damaged)?;
                copying.add((*pack, frame.offset), packed)?;
                progress.copied.fetch_add(u64::from(frame.length), Ordering::Relaxed);
            }
        }
    }
    copying.close_if(|_| true)?;
    Ok(copying.moved)
}

/// Groups frames that are read by one request: they ascend, do not overlap, and have small gaps.
pub(super) fn group_frames(frames: &[PackFrame]) -> Vec<&[PackFrame]> {
    let mut runs = Vec::new();
    let mut start = 0;
    for end in 1..=frames.len() {
        let ends = frames.get(end).is_none_or(|next| {
            let last = frames[end - 1];
            let is_apart = u64::from(next.offset) > last.end() + GAP_MAX;
            is_apart || next.end() - u64::from(frames[start].offset) > READ_SIZE_MAX
        });
        if ends {
            runs.push(&frames[start..end]);
            start = end;
        }
    }
    runs
}

/// The new pack that is being filled.
struct PackCopier<'a> {
    transport: &'a Transport,
    options: &'a PruneOptions,
    moved: MovedFrames,
    current: Option<PackWriter<File>>,
}

impl PackCopier<'_> {
    fn add(&mut self, from: (PackId, u32), frame: &[u8]) -> Result<(), PruneError> {
        let most = self.options.pack_size;
        self.close_if(|pack| !pack.has_room(frame.len(), most))?;
        let pack = match &mut self.current {
            Some(pack) => pack,
            None => {
                let file = TemporaryFile::create(&self.options.scratch)?.file().try_clone()?;
                self.current.insert(PackWriter::new(file)?)
            }
        };
        let offset = u32::try_from(pack.add(frame)?).map_err(|_| std::io::Error::other("a pack of 4 GiB"))?;
        self.moved.frames.insert(from, (self.moved.packs.len(), offset));
        Ok(())
    }

    /// Finishes and uploads the current pack if `ends` returns true for it.
    fn close_if(&mut self, ends: impl Fn(&PackWriter<File>) -> bool) -> Result<(), PruneError> {
        let Some(pack) = self.current.take_if(|pack| ends(pack)) else { return Ok(()) };
        let (file, id, length) = pack.finish();
        self.moved.packs.push(PackRef { id, length });
        let path = layout::pack(id);
        if self.transport.length(&path)? != Some(length) {
            // The file has no name in a directory; this path leads to it while it is open.
            let name = format!("/proc/self/fd/{}", file.as_raw_fd());
            self.transport.put_file(&path, Path::new(&name), &|_| {})?;
        }
        Ok(())
    }
}

/// Makes and uploads new locators for those that lead to moved frames, and returns them by the ids of the replaced
/// ones. A locator of `pending` that leads to no moved frame is uploaded unchanged.
pub(super) fn rewrite_locators(
    transport: &Transport,
    inventory: &Inventory,
    known: &mut PruneIndex,
    chosen: &[(PackId, PackUse)],
    moved: &MovedFrames,
    mut pending: HashMap<LocatorId, (Locator, Vec<u8>)>,
) -> Result<HashMap<LocatorId, FileRef<LocatorId>>, PruneError> {
    let mut rewritten = HashMap::new();
    for kept in inventory.commits.values() {
        for placement in kept.placements() {
            let id = placement.locator.id;
            let is_concerned = known
                .packs_of
                .get(&id)
                .into_iter()
                .flatten()
                .any(|pack| chosen.iter().any(|(chosen, _)| *chosen == pack.id));
            if !is_concerned || rewritten.contains_key(&id) {
                continue;
            }
            let locator = match pending.remove(&id) {
                Some((locator, _)) => locator,
                None => published::read_locator(transport, &kept.commit, placement)?,
            };
            let bytes = relocate_locator(&locator, moved)?;
            let file = FileRef { id: LocatorId::of(&bytes), length: bytes.len() as u64 };
            upload_locator(transport, file, bytes)?;
            let packs =
                locator.frames().iter().map(|frame| moved.find(locator.packs()[frame.pack as usize], frame.offset).0);
            let packs: HashMap<PackId, PackRef> = packs.map(|pack| (pack.id, pack)).collect();
            known.packs_of.insert(file.id, packs.into_values().collect());
            rewritten.insert(id, file);
        }
    }
    for (id, (_, bytes)) in pending {
        upload_locator(transport, FileRef { id, length: bytes.len() as u64 }, bytes)?;
    }
    Ok(rewritten)
}

fn upload_locator(transport: &Transport, file: FileRef<LocatorId>, bytes: Vec<u8>) -> Result<(), PruneError> {
    let path = layout::locator(file.id);
    if transport.length(&path)? != Some(file.length) {
        transport.put(&path, bytes.into(), &WriteCondition::Overwrite)?;
    }
    Ok(())
}

/// Returns the locator with the new positions of frames.
fn relocate_locator(locator: &Locator, moved: &MovedFrames) -> Result<Vec<u8>, PruneError> {
    let mut builder = LocatorBuilder::new();
    let mut packs = HashMap::new();
    for frame in locator.frames() {
        let (pack, offset) = moved.find(locator.packs()[frame.pack as usize], frame.offset);
        let pack = *packs.entry(pack.id).or_insert_with(|| builder.add_pack(pack.id, pack.length));
        builder.add_frame(PackFrame { pack, offset, ..*frame });
    }
    // Frames keep their numbers, so objects keep their positions.
    (0..locator.objects()).filter_map(|index| locator.object(index)).for_each(|position| builder.add_object(position));
    Ok(builder.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_with_small_gaps_are_read_together() {
        let frame = |offset: u64, length| PackFrame {
            pack: 0,
            offset: u32::try_from(offset).expect("small"),
            length,
            raw_length: 1,
        };
        let frames = [frame(16, 100), frame(116, 100), frame(216 + GAP_MAX, 50), frame(267 + 2 * GAP_MAX, 50)];
        let lengths = |frames: &[PackFrame]| group_frames(frames).iter().map(|run| run.len()).collect::<Vec<_>>();
        assert_eq!(lengths(&frames), [3, 1]);
        assert!(group_frames(&[]).is_empty());
        let large: Vec<PackFrame> = (0..20).map(|number| frame(number << 20, 1 << 20)).collect();
        assert_eq!(lengths(&large), [8, 8, 4]);
    }
}
