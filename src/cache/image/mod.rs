//! A lazy image: a mapped file of full length, whose blocks are fetched when they are needed.
//!
//! The file is its own record of which blocks are present: when it is opened every block is compared with its digest, which
//! for a complete image takes less time than a request. The head of the published form is fetched first; it says where all
//! frames are. Then one request brings all that `stat` answers (the metadata frame), and further requests bring digests.
//!
//! *Not here*: what the blocks mean (`crate::image`), requests and their priorities (`fetch`).
//!
//! *Invariant*: a block is marked as present only after it was verified.
//!
//! *Used by* `tree`, `objects`, `readahead` and `resolve`.

pub(super) mod head;

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use rustix::fs::{FallocateFlags, MemfdFlags};

use crate::cache::fetch::error::{LazyFetchError, UnpackError};
use crate::cache::fetch::in_flight::{InFlight, Leader, Waiter};
use crate::cache::fetch::pool::{FetchPool, Priority};
use crate::cache::fetch::remote::RemoteLink;
use crate::cache::image::head::ImageHead;
use crate::disk::TemporaryFile;
use crate::error::chain;
use crate::image::{Image, ImageError, Presence};
use crate::model::{CommitId, ImageId};
use crate::remote::format::ImageRef;
use crate::remote::format::wire::{FrameIndex, FrameKind, WireFrame};
use crate::remote::layout;
use crate::remote::transport::{Rejection, Transport, TransportError};
use crate::store::{ReadError, Store};
use crate::sys::Mapping;

/// The longest accepted prefix of a published image, in bytes. The prefix of the largest image has 2 MiB.
const PREFIX_MAX: u64 = 4 << 20;

/// A background request for digests ends with the frame that reaches this size, in bytes.
const DIGEST_REQUEST_SIZE: u64 = 1 << 20;

/// An image of which blocks may be missing.
pub(in crate::cache) struct LazyImage {
    image: Image,
    remote: Arc<RemoteLink>,
    pool: Arc<FetchPool>,
    partial: Option<PartialImage>,
}

/// The state of an image that is not stored completely.
struct PartialImage {
    id: ImageId,
    file: File,
    presence: Arc<Presence>,
    frame_index: Option<FrameIndex>,
    in_flight: InFlight<usize>,
    store: Store,
}

/// Why a lazy image cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum LazyImageError {
    /// The image in the repository cannot be read.
    #[error(transparent)]
    Local(#[from] ReadError),
    /// The head of the image could not be fetched.
    #[error("cannot fetch the beginning of image {id}")]
    Fetch {
        id: ImageId,
        /// Why the fetch failed.
        source: LazyFetchError,
    },
    /// Neither the disk nor memory has room for the image.
    #[error("there is no room for image {id}")]
    NoSpace {
        id: ImageId,
        /// The error of the system.
        source: io::Error,
    },
    /// The fetched data is not a valid image.
    #[error("image {id} cannot be used")]
    Image {
        id: ImageId,
        /// What is wrong with it.
        source: ImageError,
    },
}

impl LazyImage {
    /// Opens the image `id`: the complete one if the store has it, else the partial one. Fetches the head if it is not stored.
    pub(crate) fn open(
        store: &Store,
        id: ImageId,
        remote: &Arc<RemoteLink>,
        pool: &Arc<FetchPool>,
        head: Option<ImageHead>,
    ) -> Result<Arc<Self>, LazyImageError> {
        let layout = store.layout().partial_of(remote.commit());
        let (remote, pool) = (Arc::clone(remote), Arc::clone(pool));
        match store.image(id) {
            Ok(image) => return Ok(Arc::new(Self { image, remote, pool, partial: None })),
            Err(ReadError::MissingImage { .. }) => {}
            Err(other) => return Err(other.into()),
        }
        let failed = |source| LazyImageError::Fetch { id, source };
        let head = head.filter(|head| head.id() == id);
        let (frame_index, prefix) = match read_head(&layout.image_head(id), id) {
            Some((frame_index, prefix)) => (frame_index, prefix),
            None => {
                let (frame_index, prefix) = fetch_head(&remote, id, head.as_ref()).map_err(failed)?;
                // Stored at once: the process that will serve the mount is about to open the same image.
                if let Err(error) = save_head(store, &layout.image_head(id), &prefix) {
                    tracing::debug!(%error, "the head of the image is not stored");
                }
                (frame_index, prefix)
            }
        };
        let length = frame_index.outline().file_length();
        let no_space = |source| LazyImageError::NoSpace { id, source };
        let file = create_file(&layout.image(id), length).map_err(no_space)?;
        file.write_all_at(frame_index.header(), 0).map_err(no_space)?;
        let damaged = |source| LazyImageError::Image { id, source };
        let mapping = Mapping::of_file(&file).map_err(no_space)?;
        let presence = Arc::new(Presence::empty_for(&mapping).map_err(damaged)?);
        let image = Image::open_partial(mapping, Arc::clone(&presence)).map_err(damaged)?;
        (0..presence.blocks())
            .filter(|block| image.verify_block(*block).is_ok())
            .for_each(|block| presence.mark(block));
        let partial = PartialImage {
            id,
            file,
            presence,
            frame_index: Some(frame_index),
            in_flight: InFlight::default(),
            store: store.clone(),
        };
        partial.store_prefix(&prefix).map_err(failed)?;
        let opened = Arc::new(Self { image, remote, pool, partial: Some(partial) });
        if let Some(head) = head {
            opened.receive_metadata(head);
        }
        Ok(opened)
    }

    /// Stores the metadata frame out of the early request when it arrives. Readers that need it wait for that request.
    fn receive_metadata(self: &Arc<Self>, head: ImageHead) {
        let Some(partial) = &self.partial else { return };
        let metadata = partial.frames().iter().position(|frame| frame.kind == FrameKind::Metadata);
        let Some(frame) = metadata.filter(|frame| !partial.has_frame(&partial.frames()[*frame])) else { return };
        if let (_, Some(leader)) = partial.in_flight.join(frame) {
            let this = Arc::clone(self);
            self.pool.submit(Priority::Metadata, move || match head.take_all() {
                Ok(bytes) if this.store_frame_from(frame, 0, &bytes).is_ok() => leader.complete(Ok(())),
                // The frame is requested again, this time with a check that can reject the answer.
                _ => this.execute(vec![leader]),
            });
        }
    }

    /// Returns the image, whose methods report the blocks that are missing.
    pub(crate) const fn image(&self) -> &Image {
        &self.image
    }

    /// Returns the number of missing blocks.
    pub(crate) fn missing_blocks(&self) -> u32 {
        self.partial.as_ref().map_or(0, |partial| partial.presence.missing_count())
    }

    /// Calls `question` until all blocks that its answer needs are fetched; waits for each of them, at most until `deadline`.
    pub(crate) fn with_blocks<T>(
        self: &Arc<Self>,
        deadline: Instant,
        question: impl Fn(&Image) -> Result<T, ImageError>,
    ) -> Result<T, LazyFetchError> {
        loop {
            match question(&self.image) {
                Err(ImageError::Absent { block }) => self.fetch_block(block, deadline)?,
                other => return Ok(other?),
            }
        }
    }

    /// Calls `question`, and again for each missing block that another process has stored since.
    pub(crate) fn with_stored_blocks<T>(
        &self,
        question: impl Fn(&Image) -> Result<T, ImageError>,
    ) -> Result<T, ImageError> {
        loop {
            match question(&self.image) {
                Err(ImageError::Absent { block }) if self.adopt_block(block) => {}
                other => return other,
            }
        }
    }

    /// Marks a block as present if another process has stored it since. Returns whether it is present.
    pub(crate) fn adopt_block(&self, block: u32) -> bool {
        let Some(partial) = &self.partial else { return true };
        let is_adopted = partial.presence.has(block) || self.image.verify_block(block).is_ok();
        if is_adopted {
            partial.presence.mark(block);
        }
        is_adopted || partial.copy_from_complete(block)
    }

    /// Fetches the frame that contains a block, and waits for it until `deadline`.
    pub(crate) fn fetch_block(self: &Arc<Self>, block: u32, deadline: Instant) -> Result<(), LazyFetchError> {
        let Some(partial) = &self.partial else { return Ok(()) };
        if partial.presence.has(block) {
            return Ok(());
        }
        let frame = partial.frame_for_block(block).ok_or(LazyFetchError::NoRemote)?;
        self.join_fetch(partial, frame).wait(deadline)
    }

    fn join_fetch(self: &Arc<Self>, partial: &PartialImage, frame: usize) -> Waiter {
        let (waiter, leader) = partial.in_flight.join(frame);
        self.submit_fetch(leader.into_iter().collect());
        waiter
    }

    /// Starts to fetch the first missing block that `question` needs, if there is one, and returns at once.
    pub(crate) fn start_fetch_for<T>(self: &Arc<Self>, question: impl Fn(&Image) -> Result<T, ImageError>) {
        if let (Some(partial), Err(ImageError::Absent { block })) = (&self.partial, question(&self.image))
            && let Some(frame) = partial.frame_for_block(block)
        {
            self.join_fetch(partial, frame);
        }
    }

    /// Starts to fetch, for each of `things`, the first missing block that `question` needs, and returns at once. Adjacent
    /// frames are fetched by one request.
    pub(crate) fn start_fetch_for_all<K, T>(
        self: &Arc<Self>,
        things: impl IntoIterator<Item = K>,
        question: impl Fn(&Image, K) -> Result<T, ImageError>,
    ) {
        let Some(partial) = &self.partial else { return };
        let mut wanted = BTreeSet::new();
        for thing in things {
            if let Err(ImageError::Absent { block }) = question(&self.image, thing) {
                wanted.extend(partial.frame_for_block(block));
            }
        }
        let mut adjacent: Vec<Leader<usize>> = Vec::new();
        for frame in wanted {
            let Some(leader) = partial.in_flight.join(frame).1 else { continue };
            let is_adjacent = adjacent.last().is_none_or(|last| last.key() + 1 == frame);
            if !is_adjacent {
                self.submit_fetch(std::mem::take(&mut adjacent));
            }
            adjacent.push(leader);
        }
        self.submit_fetch(adjacent);
    }

    fn submit_fetch(self: &Arc<Self>, leaders: Vec<Leader<usize>>) {
        if !leaders.is_empty() {
            let this = Arc::clone(self);
            self.pool.submit(Priority::Metadata, move || this.execute(leaders));
        }
    }

    /// Fetches the frame that holds all names and attributes, and waits for it until `deadline`.
    pub(crate) fn fetch_metadata(self: &Arc<Self>, deadline: Instant) -> Result<(), LazyFetchError> {
        let Some(partial) = &self.partial else { return Ok(()) };
        let metadata = partial.frames().iter().find(|frame| frame.kind == FrameKind::Metadata);
        match metadata.and_then(|frame| frame.blocks.iter().find(|block| !partial.presence.has(**block))) {
            Some(block) => self.fetch_block(*block, deadline),
            None => Ok(()),
        }
    }

    /// Fetches some of the missing digests by one request, in this thread; returns whether there was something to fetch.
    pub(crate) fn fetch_digests(&self) -> Result<bool, LazyFetchError> {
        let Some(partial) = &self.partial else { return Ok(false) };
        let (mut leaders, mut end, mut bytes) = (Vec::new(), None, 0);
        for (number, frame) in partial.frames().iter().enumerate() {
            if frame.kind == FrameKind::Head || partial.has_frame(frame) || partial.in_flight.is_in_flight(number) {
                continue;
            }
            if end.is_some_and(|end| end != frame.range.start) || bytes >= DIGEST_REQUEST_SIZE {
                break;
            }
            if let (_, Some(leader)) = partial.in_flight.join(number) {
                (end, bytes) = (Some(frame.range.end), bytes + frame.range.end - frame.range.start);
                leaders.push(leader);
            }
        }
        if leaders.is_empty() {
            return Ok(false);
        }
        let waiters: Vec<_> = leaders.iter().map(|leader| partial.in_flight.join(leader.key()).0).collect();
        self.execute(leaders);
        waiters.iter().try_for_each(|waiter| waiter.wait(Instant::now()))?;
        Ok(true)
    }

    /// Executes one request for adjacent frames, stores them, and wakes their waiters.
    fn execute(&self, leaders: Vec<Leader<usize>>) {
        let Some(partial) = &self.partial else { return };
        let frame = |leader: &Leader<usize>| partial.frames().get(leader.key());
        let (Some(first), Some(last)) = (leaders.first().and_then(frame), leaders.last().and_then(frame)) else {
            return;
        };
        let range = first.range.start..last.range.end;
        let (start, path) = (range.start, layout::image(partial.id));
        let locate = |leader: Leader<usize>| Some((partial.frames().get(leader.key())?.range.start, leader));
        let pieces = leaders.into_iter().filter_map(locate).collect();
        let unpack = |frame: usize, bytes: &Bytes| self.store_frame_from(frame, start, bytes);
        let (_, failure) = self.remote.fetch_pieces(&path, range, pieces, &unpack);
        // An image is never moved: if it is missing, the publisher does not keep the commit any more.
        if let Some(error) = failure.filter(LazyFetchError::may_have_moved) {
            self.remote.log_failure_once(&error);
        }
    }

    /// Stores a frame out of `bytes`, which begin at `start` of the published image.
    fn store_frame_from(&self, frame: usize, start: u64, bytes: &[u8]) -> Result<(), UnpackError> {
        let partial = self.partial.as_ref().ok_or(LazyFetchError::NoRemote)?;
        let frame = partial.frames().get(frame).ok_or(LazyFetchError::NoRemote)?;
        let place = index(frame.range.start - start)..index(frame.range.end - start);
        // The placement may state a length that is too large.
        let packed = bytes.get(place).ok_or_else(|| UnpackError::Invalid("it ends too early".into()))?;
        partial.store_frame(frame, packed)
    }
}

impl PartialImage {
    fn frames(&self) -> &[WireFrame] {
        self.frame_index.as_ref().map_or(&[], FrameIndex::frames)
    }

    fn has_frame(&self, frame: &WireFrame) -> bool {
        frame.blocks.iter().all(|block| self.presence.has(*block))
    }

    /// Returns the frame to fetch for a block. The head frame is left out, since the metadata frame contains its blocks, too.
    fn frame_for_block(&self, block: u32) -> Option<usize> {
        let frames = self.frames().iter().enumerate();
        let mut matching = frames.filter(|(_, frame)| frame.kind != FrameKind::Head && frame.blocks.contains(&block));
        matching.next().map(|(number, _)| number)
    }

    /// Stores the blocks of a frame; decoding it verifies them.
    fn store_frame(&self, frame: &WireFrame, packed: &[u8]) -> Result<(), UnpackError> {
        let frame_index = self.frame_index.as_ref().ok_or(LazyFetchError::NoRemote)?;
        for (block, bytes) in frame_index.decode(frame, packed).map_err(|error| UnpackError::Invalid(error.into()))? {
            if self.presence.has(block) {
                continue;
            }
            let start = frame_index.outline().block(block).start;
            self.file.write_all_at(&bytes, start).map_err(|error| LazyFetchError::WriteFailed(Arc::new(error)))?;
            self.presence.mark(block);
        }
        Ok(())
    }

    /// Stores a block out of the complete image, if another process has stored that. Returns whether the block is present.
    fn copy_from_complete(&self, block: u32) -> bool {
        let Some(outline) = self.frame_index.as_ref().map(FrameIndex::outline) else { return false };
        let Ok(complete) = self.store.image_file(self.id) else { return false };
        let place = outline.block(block);
        let mut bytes = vec![0; index(place.end - place.start)];
        let is_copied = complete.read_exact_at(&mut bytes, place.start).is_ok()
            && outline.verify_block(block, &bytes).is_ok()
            && self.file.write_all_at(&bytes, place.start).is_ok();
        if is_copied {
            self.presence.mark(block);
        }
        is_copied
    }

    /// Stores the frames that the prefix contains. One that cannot be used is skipped: its blocks are also in another frame, or
    /// are fetched when they are needed. Until 2026-12 the head frames of some images were written wrongly.
    fn store_prefix(&self, prefix: &[u8]) -> Result<(), LazyFetchError> {
        for frame in self.frames() {
            let Some(packed) = prefix.get(index(frame.range.start)..index(frame.range.end)) else { break };
            match self.store_if_missing(frame, packed) {
                Err(UnpackError::Local(error)) => return Err(error),
                Err(UnpackError::Invalid(why)) => tracing::debug!("a frame of image {} is skipped: {why}", self.id),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    fn store_if_missing(&self, frame: &WireFrame, packed: &[u8]) -> Result<(), UnpackError> {
        if self.has_frame(frame) { Ok(()) } else { self.store_frame(frame, packed) }
    }
}

/// Stores the head without a sync: it is verified when it is read, and can be fetched again.
fn save_head(store: &Store, path: &Path, head: &[u8]) -> io::Result<()> {
    let file = TemporaryFile::create(&store.layout().temporary())?;
    file.file().write_all_at(head, 0)?;
    file.persist(path)
}

fn read_head(path: &Path, id: ImageId) -> Option<(FrameIndex, Vec<u8>)> {
    let bytes = std::fs::read(path).ok()?;
    match FrameIndex::parse(&bytes, id) {
        Ok(frame_index) => Some((frame_index, bytes)),
        Err(error) => {
            tracing::warn!("{} is fetched again: {}", path.display(), chain(&error));
            None
        }
    }
}

fn fetch_head(
    remote: &RemoteLink,
    id: ImageId,
    head: Option<&ImageHead>,
) -> Result<(FrameIndex, Vec<u8>), LazyFetchError> {
    let place = remote.placement()?.image;
    let name = layout::image(id);
    let length = head_length(&place).ok_or_else(|| LazyFetchError::Corrupt { path: name.clone() })?;
    let check = |bytes: &Bytes| FrameIndex::parse(bytes, id).map(|frame_index| (frame_index, bytes.to_vec()));
    // The early request is not checked while it arrives; if its answer is wrong, the head is requested again.
    let early = head.and_then(|head| head.wait_for_prefix(length, None).ok());
    if let Some(Ok(head)) = early.map(|bytes| check(&bytes)) {
        return Ok(head);
    }
    remote.fetch_range(&name, 0..length, &mut |bytes| check(bytes).map_err(Rejection::wrong))
}

/// Returns the length of the prefix that opening the image needs; `None` if the placement is implausible.
fn head_length(place: &ImageRef) -> Option<u64> {
    (place.prefix <= PREFIX_MAX && place.prefix <= place.length).then_some(place.prefix)
}

/// Fetches the prefix of the image into the repository, unless it is stored already.
///
/// # Errors
/// [`TransportError`] when the prefix cannot be fetched.
pub(in crate::cache) fn ensure_head(
    store: &Store,
    transport: &Transport,
    (commit, id): (CommitId, ImageId),
    place: &ImageRef,
    head: Option<&ImageHead>,
    until: Option<Instant>,
) -> Result<(), TransportError> {
    let (head_file, path) = (store.layout().partial_of(commit).image_head(id), layout::image(id));
    if store.layout().image(id).exists() || read_head(&head_file, id).is_some() {
        return Ok(());
    }
    let Some(length) = head_length(place) else { return Err(TransportError::TooLarge { path, limit: PREFIX_MAX }) };
    let check = |bytes: &Bytes| FrameIndex::parse(bytes, id).map(|_| bytes.clone());
    let early = head.and_then(|head| head.wait_for_prefix(length, until).ok());
    let transport = if head.is_some() { transport.after_wrong_answer() } else { transport.clone() };
    let head = match early.map(|bytes| check(&bytes)) {
        Some(Ok(head)) => head,
        _ => {
            let transport = until.map_or_else(|| transport.clone(), |until| transport.with_deadline(until));
            transport.get_range_checked(&path, 0..length, &mut |bytes| check(bytes).map_err(Rejection::wrong))?
        }
    };
    let saved = store.prepare_partial(commit, id).and_then(|_| save_head(store, &head_file, &head));
    if let Err(error) = saved {
        tracing::debug!(%error, "the head of the image is not stored");
    }
    Ok(())
}

/// Creates or opens a file with `length` reserved bytes: on disk, or in memory if the disk fails.
fn create_file(path: &Path, length: u64) -> io::Result<File> {
    let create_on_disk = || {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        reserve(&file, length)?;
        Ok::<_, io::Error>(file)
    };
    create_on_disk().or_else(|error| {
        tracing::warn!("{}: {error}: the image is held in memory", path.display());
        let file = File::from(rustix::fs::memfd_create(c"sapwood-image", MemfdFlags::CLOEXEC)?);
        reserve(&file, length)?;
        Ok(file)
    })
}

fn reserve(file: &File, length: u64) -> io::Result<()> {
    if file.metadata()?.len() > length {
        file.set_len(length)?;
    }
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, length) {
        // Some filesystems cannot reserve space; on them a later write may fail.
        Err(rustix::io::Errno::OPNOTSUPP) => file.set_len(length),
        other => Ok(other?),
    }
}

fn index(position: u64) -> usize {
    usize::try_from(position).unwrap_or(usize::MAX)
}
