//! From the patches of a delta to verified objects in the store.
//!
//! A delta is an offer: [`PatchPlan`] takes of it what leads from objects that are here to objects that are wanted, and
//! leaves the rest to packs. Every object is checked as if it had come whole. Each request is worked on as it arrives, by
//! the thread that makes it: patches are few and small beside what they make. Called by `pull`.

use std::collections::HashSet;
use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Buf as _, BytesMut};

use super::error::FetchError;
use super::plan::{FetchPlan, Piece};
use super::ranges::{self, Request};
use super::work::Desk;
use super::{FetchOptions, FetchProgress};
use crate::image::{Image, ObjectUse};
use crate::model::{BLOCK_SIZE, DeltaId, LARGE_OBJECT, ObjectId};
use crate::remote::delta::{DeltaHead, apply_piece, base_range, piece_count, piece_range};
use crate::remote::format::{Frame, is_in_proportion};
use crate::remote::layout;
use crate::remote::transport::Transport;
use crate::store::{ObjectSource as _, StoreWriter};

/// The patches to fetch from one delta.
#[derive(Debug, Default)]
pub struct PatchPlan {
    delta: Option<DeltaId>,
    objects: Vec<ObjectUse>,
    patches: Vec<Patch>,
    frames: Vec<Frame>,
    requests: Vec<Request>,
}

/// One patch: a piece of one object of the plan.
#[derive(Debug)]
struct Patch {
    object: u32,
    piece: u64,
    base: ObjectId,
    base_range: Range<u64>,
}

impl PatchPlan {
    /// Takes out of `missing` what the delta can make of objects that are here. `old` are the objects of the older image.
    #[must_use]
    pub fn new(
        delta: DeltaId,
        head: &DeltaHead,
        old: &[ObjectUse],
        missing: &mut Vec<ObjectUse>,
        is_here: &dyn Fn(ObjectId) -> bool,
    ) -> Self {
        let mut plan = Self { delta: Some(delta), ..Self::default() };
        let mut taken = HashSet::new();
        for pieces in head.pieces().chunk_by(|a, b| a.new == b.new) {
            // Both ascend by number, since `missing` is in the order of the image.
            let Ok(place) = missing.binary_search_by_key(&pieces[0].new, |object| object.index) else { continue };
            let object = missing[place];
            let Some(base) = old.get(pieces[0].old as usize).filter(|base| is_here(base.id)) else { continue };
            let is_whole = pieces.len() as u64 == piece_count(object.size)
                && pieces.iter().all(|piece| piece.old == pieces[0].old)
                && plan.frames_of(pieces, object.size).is_some();
            if !is_whole || !taken.insert(object.index) {
                continue;
            }
            plan.frames.extend(plan.frames_of(pieces, object.size).unwrap_or_default());
            let number = u32::try_from(plan.objects.len()).unwrap_or(u32::MAX);
            plan.objects.push(object);
            plan.patches.extend((0..pieces.len() as u64).map(|piece| Patch {
                object: number,
                piece,
                base: base.id,
                base_range: base_range(piece, base.size),
            }));
        }
        missing.retain(|object| !taken.contains(&object.index));
        plan.requests = ranges::requests(&plan.frames);
        plan
    }

    /// The patches as frames of one file; `None` when one is out of proportion or out of order.
    fn frames_of(&self, pieces: &[crate::remote::delta::Piece], size: u64) -> Option<Vec<Frame>> {
        let mut end = self.frames.last().map_or(0, Frame::end);
        let mut frames = Vec::with_capacity(pieces.len());
        for (number, piece) in (0..).zip(pieces) {
            let range = piece_range(number, size);
            let raw_length = u32::try_from(range.end - range.start).ok()?;
            let frame = Frame { pack: 0, offset: u32::try_from(piece.offset).ok()?, length: piece.length, raw_length };
            if piece.offset < end || !is_in_proportion(frame.length, raw_length) {
                return None;
            }
            end = frame.end();
            frames.push(frame);
        }
        Some(frames)
    }

    /// Whether there is nothing to fetch.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Number of requests.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.len() as u64
    }

    /// Bytes that the requests ask for.
    #[must_use]
    pub fn download_bytes(&self) -> u64 {
        self.requests.iter().map(|request| request.range.end - request.range.start).sum()
    }

    /// Number of objects.
    #[must_use]
    pub fn objects(&self) -> u64 {
        self.objects.len() as u64
    }
}

/// Makes the requests of `plan` and keeps every object that comes of it, durably.
///
/// # Errors
/// The first [`FetchError`]. What was made before it is kept.
pub fn fetch_patches(
    plan: &PatchPlan,
    image: &Image,
    transport: &Transport,
    writer: &StoreWriter,
    options: FetchOptions,
    progress: &FetchProgress,
) -> Result<(), FetchError> {
    let Some(delta) = plan.delta else { return Ok(()) };
    let objects = FetchPlan::of_objects(plan.objects.clone());
    let desk = Desk::new(&objects, image, transport.url(), writer, progress);
    let next = AtomicUsize::new(0);
    // Each holds one piece with its base, some 12 MiB: as many as decode otherwise.
    let threads = options.decoders.clamp(1, plan.requests.len().max(1));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(request) = plan.requests.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if desk.has_failed() {
                        return;
                    }
                    if let Err(error) = receive(plan, request, delta, transport, &desk) {
                        desk.fail(error);
                    }
                }
            });
        }
    });
    let settled = writer.settle();
    match desk.into_failure() {
        Some(failure) => Err(failure),
        None => Ok(settled?),
    }
}

/// One request: applies each patch as soon as it is there.
fn receive(
    plan: &PatchPlan,
    request: &Request,
    delta: DeltaId,
    transport: &Transport,
    desk: &Desk<'_>,
) -> Result<(), FetchError> {
    let (mut buffer, mut start) = (BytesMut::new(), request.range.start);
    let mut waiting = request.frames.clone();
    let mut failure = None;
    let streamed = transport.stream_range(&layout::delta(delta), request.range.clone(), &mut |piece| {
        desk.progress.downloaded.fetch_add(piece.len() as u64, Ordering::Relaxed);
        buffer.extend_from_slice(&piece);
        while let Some(frame) = plan.frames[waiting.clone()].first() {
            let gap = u64::from(frame.offset).saturating_sub(start).min(buffer.len() as u64);
            buffer.advance(usize::try_from(gap).unwrap_or(usize::MAX));
            start += gap;
            if frame.end() > start + buffer.len() as u64 {
                break;
            }
            let patch = buffer.split_to(frame.length as usize);
            start = frame.end();
            if let Err(error) = apply(&plan.patches[waiting.start], frame, &patch, delta, desk) {
                failure = Some(error);
                return ControlFlow::Break(());
            }
            waiting.start += 1;
        }
        if desk.has_failed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    match failure {
        Some(error) => Err(error),
        None => streamed.map_err(|source| FetchError::Transport { url: transport.url().into(), source }),
    }
}

fn apply(patch: &Patch, frame: &Frame, bytes: &[u8], delta: DeltaId, desk: &Desk<'_>) -> Result<(), FetchError> {
    let object = desk.object(patch.object);
    let refused = |source| FetchError::Patch { url: desk.url(), delta, object: object.id, source };
    let length = usize::try_from(patch.base_range.end - patch.base_range.start).unwrap_or_default();
    let mut base = vec![0; length];
    // A base that is shorter than it should be makes something else, which is noticed.
    desk.store().read_at(patch.base, patch.base_range.start, &mut base)?;
    let made = apply_piece(&base, bytes, u64::from(frame.raw_length)).map_err(refused)?;
    drop(base);
    if object.size <= LARGE_OBJECT {
        return desk.keep_patched(Piece::Whole { object: patch.object, offset: 0 }, &made, delta);
    }
    let first = piece_range(patch.piece, object.size).start / BLOCK_SIZE;
    for (block, bytes) in (first..).zip(made.chunks(usize::try_from(BLOCK_SIZE).unwrap_or(usize::MAX))) {
        let block = u32::try_from(block).unwrap_or(u32::MAX);
        desk.keep_patched(Piece::Block { object: patch.object, block }, bytes, delta)?;
    }
    Ok(())
}
