//! Carrying out a request for frames: fetch, unpack, check each piece against the image, keep it, tell everybody.
//!
//! Nothing is kept that is not what the image says. A piece whose name is not here yet is not thrown away: the name is
//! fetched first.

use std::time::Instant;

use bytes::Bytes;

use super::catalogue::{Catalogue, Piece};
use super::counters::LazyCounters;
use super::error::FetchError;
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
        match self.origin.range(&path, run.range.clone()) {
            Err(error) => {
                LazyCounters::add(&self.counters.failures, 1);
                pilots.into_iter().for_each(|pilot| pilot.land(Err(error.clone())));
            }
            Ok(bytes) => {
                // Who waits for a frame hears what is wrong with it.
                pilots.into_iter().for_each(|pilot| _ = self.land(catalogue, pilot, &bytes, run.range.start, &path))
            }
        }
    }

    /// Keeps what is in the frame of `pilot`, which is somewhere in `bytes`; these begin at `start` of the pack. Tells how that
    /// went to all who wait for it, and to the caller.
    pub fn land(
        &self,
        catalogue: &Catalogue,
        pilot: Pilot<u32>,
        bytes: &Bytes,
        start: u64,
        path: &str,
    ) -> Result<(), FetchError> {
        let arrived = self.unpack(catalogue, pilot.key(), bytes, start, path);
        if let Err(error) = &arrived {
            LazyCounters::add(&self.counters.failures, 1);
            self.origin.complain(error);
        }
        pilot.land(arrived.clone());
        arrived
    }

    fn unpack(
        &self,
        catalogue: &Catalogue,
        number: u32,
        bytes: &Bytes,
        start: u64,
        path: &str,
    ) -> Result<(), FetchError> {
        let corrupt = || FetchError::Corrupt { path: path.to_owned() };
        let frame = catalogue.frame(number).ok_or_else(corrupt)?;
        let at = usize::try_from(u64::from(frame.offset).saturating_sub(start)).map_err(|_| corrupt())?;
        let packed = bytes.get(at..at.saturating_add(frame.length as usize)).ok_or_else(corrupt)?;
        let raw = Bytes::from(decode_frame(packed, frame.raw_length).map_err(|_| corrupt())?);
        let mut sound = true;
        for piece in catalogue.pieces(number) {
            sound &= self.keep(catalogue, &piece, &raw)?;
        }
        if sound { Ok(()) } else { Err(corrupt()) }
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
