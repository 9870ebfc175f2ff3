//! Copying what lives of packs to new ones, frame by frame as they are, and the locators that lead there.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::atomic::Ordering;

use super::error::PruneError;
use super::inventory::{Inventory, Known, PackUse};
use super::{PruneOptions, PruneProgress};
use crate::disk::TemporaryFile;
use crate::model::{LocatorId, PackId};
use crate::remote::format::{FileRef, Frame, Locator, LocatorBuilder, PackRef, PackWriter, decode_frame};
use crate::remote::layout;
use crate::remote::published;
use crate::remote::transport::{Put, Transport};

/// Dead bytes between frames that are read over: fewer than a request costs.
const GAP: u64 = 64 << 10;

/// Bytes that are read at once.
const READ: u64 = 8 << 20;

/// Where frames are that were copied.
#[derive(Debug, Default)]
pub(super) struct Moved {
    packs: Vec<PackRef>,
    /// From the old pack and offset to the number of the new pack and the offset there.
    frames: HashMap<(PackId, u32), (usize, u32)>,
}

impl Moved {
    /// Number of new packs.
    pub(super) const fn packs(&self) -> usize {
        self.packs.len()
    }

    /// Bytes of new packs.
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

/// Copies what lives of `chosen`, and uploads the new packs.
pub(super) fn copy(
    transport: &Transport,
    chosen: &[(PackId, PackUse)],
    options: &PruneOptions,
    progress: &PruneProgress,
) -> Result<Moved, PruneError> {
    let total = chosen.iter().flat_map(|(_, used)| used.frames.values()).map(|(length, _)| u64::from(*length)).sum();
    progress.total.store(total, Ordering::Relaxed);
    let mut copying = Copying { transport, options, moved: Moved::default(), current: None };
    for (pack, used) in chosen {
        let frames: Vec<Frame> = used
            .frames
            .iter()
            .map(|(&offset, &(length, raw_length))| Frame { pack: 0, offset, length, raw_length })
            .collect();
        for run in runs(&frames) {
            let (first, last) = (run[0], run[run.len() - 1]);
            let start = u64::from(first.offset);
            let bytes = transport.get_range(&layout::pack(*pack), start..last.end())?;
            for frame in run {
                let from = (frame.offset - first.offset) as usize;
                let packed = &bytes[from..][..frame.length as usize];
                let damaged = |source| PruneError::Frame { pack: *pack, offset: frame.offset, source };
                // What was damaged on the way here must not take the place of what is sound there.
                decode_frame(packed, frame.raw_length).map_err(damaged)?;
                copying.add((*pack, frame.offset), packed)?;
                progress.copied.fetch_add(u64::from(frame.length), Ordering::Relaxed);
            }
        }
    }
    copying.close_if(|_| true)?;
    Ok(copying.moved)
}

/// Frames that are read at once: they ascend, overlap nowhere, and little lies between them.
pub(super) fn runs(frames: &[Frame]) -> Vec<&[Frame]> {
    let mut runs = Vec::new();
    let mut start = 0;
    for end in 1..=frames.len() {
        let ends = frames.get(end).is_none_or(|next| {
            let last = frames[end - 1];
            let is_apart = u64::from(next.offset) > last.end() + GAP;
            is_apart || next.end() - u64::from(frames[start].offset) > READ
        });
        if ends {
            runs.push(&frames[start..end]);
            start = end;
        }
    }
    runs
}

/// The pack that is being filled.
struct Copying<'a> {
    transport: &'a Transport,
    options: &'a PruneOptions,
    moved: Moved,
    current: Option<PackWriter<File>>,
}

impl Copying<'_> {
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

    /// Uploads the pack if it is one that `ends`.
    fn close_if(&mut self, ends: impl Fn(&PackWriter<File>) -> bool) -> Result<(), PruneError> {
        let Some(pack) = self.current.take_if(|pack| ends(pack)) else { return Ok(()) };
        let (file, id, length) = pack.finish();
        self.moved.packs.push(PackRef { id, length });
        let path = layout::pack(id);
        if self.transport.length(&path)? != Some(length) {
            // The file has no name any more; this is its name while it is open.
            let name = format!("/proc/self/fd/{}", file.as_raw_fd());
            self.transport.put_file(&path, Path::new(&name), &|_| {})?;
        }
        Ok(())
    }
}

/// Uploads new locators for those that lead to moved frames: by the old one's name. Those of `pending` are uploaded as they are
/// if they do not.
pub(super) fn rewrite_locators(
    transport: &Transport,
    inventory: &Inventory,
    known: &mut Known,
    chosen: &[(PackId, PackUse)],
    moved: &Moved,
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
            let bytes = relocated(&locator, moved)?;
            let file = FileRef { id: LocatorId::of(&bytes), length: bytes.len() as u64 };
            upload(transport, file, bytes)?;
            let packs =
                locator.frames().iter().map(|frame| moved.find(locator.packs()[frame.pack as usize], frame.offset).0);
            let packs: HashMap<PackId, PackRef> = packs.map(|pack| (pack.id, pack)).collect();
            known.packs_of.insert(file.id, packs.into_values().collect());
            rewritten.insert(id, file);
        }
    }
    for (id, (_, bytes)) in pending {
        upload(transport, FileRef { id, length: bytes.len() as u64 }, bytes)?;
    }
    Ok(rewritten)
}

fn upload(transport: &Transport, file: FileRef<LocatorId>, bytes: Vec<u8>) -> Result<(), PruneError> {
    let path = layout::locator(file.id);
    if transport.length(&path)? != Some(file.length) {
        transport.put(&path, bytes.into(), &Put::Overwrite)?;
    }
    Ok(())
}

/// The same locator, leading to where frames are now.
fn relocated(locator: &Locator, moved: &Moved) -> Result<Vec<u8>, PruneError> {
    let mut builder = LocatorBuilder::new();
    let mut packs = HashMap::new();
    for frame in locator.frames() {
        let (pack, offset) = moved.find(locator.packs()[frame.pack as usize], frame.offset);
        let pack = *packs.entry(pack.id).or_insert_with(|| builder.pack(pack.id, pack.length));
        builder.frame(Frame { pack, offset, ..*frame });
    }
    // Frames keep their numbers, so objects keep their spots.
    (0..locator.objects()).filter_map(|index| locator.object(index)).for_each(|spot| builder.object(spot));
    Ok(builder.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_together_over_small_gaps() {
        let frame = |offset: u64, length| Frame {
            pack: 0,
            offset: u32::try_from(offset).expect("small"),
            length,
            raw_length: 1,
        };
        let frames = [frame(16, 100), frame(116, 100), frame(216 + GAP, 50), frame(267 + 2 * GAP, 50)];
        let lengths = |frames: &[Frame]| runs(frames).iter().map(|run| run.len()).collect::<Vec<_>>();
        assert_eq!(lengths(&frames), [3, 1]);
        assert!(runs(&[]).is_empty());
        let large: Vec<Frame> = (0..20).map(|number| frame(number << 20, 1 << 20)).collect();
        assert_eq!(lengths(&large), [8, 8, 4]);
    }
}
