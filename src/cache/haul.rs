//! Carrying out a request for frames: fetch, unpack, check each piece against the image, keep it, tell everybody.
//!
//! Nothing is kept that is not what the image says. A piece whose name is not here yet is not thrown away: the name is
//! fetched first.

use std::time::Instant;

use bytes::Bytes;

use super::catalogue::{Catalogue, Piece};
use super::counters::LazyCounters;
use super::error::{FetchError, Unkept};
use super::flight::Pilot;
use super::frames::{Frames, UNHURRIED};
use super::ranges::Run;
use crate::image::ObjectRef;
use crate::model::ObjectId;
use crate::remote::format::decode_frame;
use crate::remote::layout;
use crate::store::DamagedPart;

impl Frames {
    /// Carries out one request, in this thread, and tells everybody how it went.
    pub fn fly(&self, catalogue: &Catalogue, run: &Run, pilots: Vec<Pilot<u32>>) {
        let Some(pack) = catalogue.locator().packs().get(run.pack as usize) else { return };
        let path = layout::pack(pack.id);
        let place = |pilot: Pilot<u32>| Some((u64::from(catalogue.frame(pilot.key())?.offset), pilot));
        let pieces = pilots.into_iter().filter_map(place).collect();
        let start = run.range.start;
        let unpack = |number: u32, bytes: &Bytes| self.unpack(catalogue, number, bytes, start);
        let (failures, _) = self.origin.carry(&path, run.range.clone(), pieces, &unpack);
        LazyCounters::add(&self.counters.failures, failures);
    }

    /// Keeps what is in a frame, which is somewhere in `bytes`; these begin at `start` of the pack.
    pub fn unpack(&self, catalogue: &Catalogue, number: u32, bytes: &Bytes, start: u64) -> Result<(), Unkept> {
        let wrong = || Unkept::Wrong(format!("frame {number} holds something else than it should").into());
        let frame = catalogue.frame(number).ok_or_else(wrong)?;
        let at = usize::try_from(u64::from(frame.offset).saturating_sub(start)).map_err(|_| wrong())?;
        let packed = bytes.get(at..at.saturating_add(frame.length as usize)).ok_or_else(wrong)?;
        let raw = decode_frame(packed, frame.raw_length);
        let raw = Bytes::from(raw.map_err(|why| Unkept::Wrong(format!("frame {number}: {why}").into()))?);
        let mut sound = true;
        for piece in catalogue.pieces(number) {
            sound &= self.keep(catalogue, &piece, &raw)?;
        }
        if sound { Ok(()) } else { Err(wrong()) }
    }

    /// Keeps a piece if it is what the image says; returns whether it is.
    fn keep(&self, catalogue: &Catalogue, piece: &Piece, raw: &Bytes) -> Result<bool, FetchError> {
        let deadline = Instant::now() + UNHURRIED;
        let (Piece::Object { index, .. } | Piece::Block { index, .. }) = *piece;
        let id = self.image.with_blocks(deadline, |image| image.object_by_index(index))?;
        let block = if let Piece::Block { block, .. } = *piece { Some(block) } else { None };
        if self.store.is_condemned(DamagedPart { object: id, block }) {
            LazyCounters::add(&self.counters.mended, 1);
        }
        let kept = match piece {
            Piece::Object { range, .. } => {
                let Some(part) = raw.get(range.clone()).filter(|part| ObjectId::of(part) == id) else {
                    return Ok(false);
                };
                // A copy, or a small object would keep its whole frame in memory.
                let whole = part.len() == raw.len();
                self.shelf.put(id, &if whole { raw.clone() } else { Bytes::copy_from_slice(part) });
                true
            }
            Piece::Block { block, .. } => {
                self.image.with_blocks(deadline, |image| image.block_of_object(index, *block))?;
                let size = catalogue.sizes().get(index as usize).copied().unwrap_or(0);
                self.large.put(&ObjectRef { id, index, size }, *block, raw)?
            }
        };
        Ok(kept)
    }
}
