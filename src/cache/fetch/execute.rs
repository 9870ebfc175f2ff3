//! Executes one range request for frames: fetches it, decompresses it, verifies each object or block against the image,
//! stores it, and wakes the waiters.
//!
//! *Not here*: which frames one request fetches (`coalesce`), the response of a bulk fetch (`bulk`).
//!
//! *Invariant*: only data that matches the image is stored. If the id or digest of a piece is missing, it is fetched first.
//!
//! *Used by* `objects` and `bulk`.

use std::time::Instant;

use bytes::Bytes;

use crate::cache::counters::LazyCounters;
use crate::cache::fetch::catalogue::{Catalogue, FramePiece};
use crate::cache::fetch::coalesce::FrameRequest;
use crate::cache::fetch::error::{LazyFetchError, UnpackError};
use crate::cache::fetch::in_flight::Leader;
use crate::cache::objects::object_cache::{METADATA_TIMEOUT, ObjectCache};
use crate::image::ObjectRef;
use crate::model::ObjectId;
use crate::remote::format::decode_frame;
use crate::remote::layout;
use crate::store::DamagedPart;

impl ObjectCache {
    /// Executes one request in this thread, and completes the fetches of its leaders.
    pub(crate) fn execute(&self, catalogue: &Catalogue, request: &FrameRequest, leaders: Vec<Leader<u32>>) {
        let Some(pack) = catalogue.locator().packs().get(request.pack as usize) else { return };
        let path = layout::pack(pack.id);
        let place = |leader: Leader<u32>| Some((u64::from(catalogue.frame(leader.key())?.offset), leader));
        let pieces = leaders.into_iter().filter_map(place).collect();
        let start = request.range.start;
        let unpack = |number: u32, bytes: &Bytes| self.unpack(catalogue, number, bytes, start);
        let (failures, _) = self.remote.fetch_pieces(&path, request.range.clone(), pieces, &unpack);
        LazyCounters::add(&self.counters.failures, failures);
    }

    /// Decompresses a frame that is contained in `bytes`, and stores its pieces. `bytes` begin at offset `start` of the pack.
    pub(crate) fn unpack(
        &self,
        catalogue: &Catalogue,
        number: u32,
        bytes: &Bytes,
        start: u64,
    ) -> Result<(), UnpackError> {
        let invalid = || UnpackError::Invalid(format!("frame {number} holds something else than it should").into());
        let frame = catalogue.frame(number).ok_or_else(invalid)?;
        let at = usize::try_from(u64::from(frame.offset).saturating_sub(start)).map_err(|_| invalid())?;
        let packed = bytes.get(at..at.saturating_add(frame.length as usize)).ok_or_else(invalid)?;
        let raw = decode_frame(packed, frame.raw_length);
        let raw = Bytes::from(raw.map_err(|why| UnpackError::Invalid(format!("frame {number}: {why}").into()))?);
        let mut are_valid = true;
        for piece in catalogue.pieces(number) {
            are_valid &= self.store_piece(catalogue, &piece, &raw)?;
        }
        if are_valid { Ok(()) } else { Err(invalid()) }
    }

    /// Stores a piece if it matches the image; returns whether it does.
    fn store_piece(&self, catalogue: &Catalogue, piece: &FramePiece, raw: &Bytes) -> Result<bool, LazyFetchError> {
        let deadline = Instant::now() + METADATA_TIMEOUT;
        let (FramePiece::Object { index, .. } | FramePiece::Block { index, .. }) = *piece;
        let id = self.image.with_blocks(deadline, |image| image.object_by_index(index))?;
        let block = if let FramePiece::Block { block, .. } = *piece { Some(block) } else { None };
        if self.store.is_known_bad(DamagedPart { object: id, block }) {
            LazyCounters::add(&self.counters.repaired, 1);
        }
        let is_valid = match piece {
            FramePiece::Object { range, .. } => {
                let Some(part) = raw.get(range.clone()).filter(|part| ObjectId::of(part) == id) else {
                    return Ok(false);
                };
                // Copied, so that a small object does not keep its whole frame in memory.
                let whole = part.len() == raw.len();
                self.write_back.put(id, &if whole { raw.clone() } else { Bytes::copy_from_slice(part) });
                true
            }
            FramePiece::Block { block, .. } => {
                self.image.with_blocks(deadline, |image| image.block_of_object(index, *block))?;
                let size = catalogue.sizes().get(index as usize).copied().unwrap_or(0);
                self.large.put(&ObjectRef { id, index, size }, *block, raw)?
            }
        };
        Ok(is_valid)
    }
}
