//! An image that is here in part: a file of its full length, mapped, whose blocks come as they are needed.
//!
//! The file is its own record of what is here: when it is opened every block is compared with its digest, which for a
//! whole image takes less time than a request. What is asked for first is the beginning of the published form, which tells
//! where everything is; then all that `stat` tells comes by one request, and digests block by block.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use rustix::fs::{FallocateFlags, MemfdFlags};

use super::beginning::Beginning;
use super::crew::{Crew, Lane};
use super::error::{FetchError, Unkept};
use super::flight::{Flights, Pilot, Seat};
use super::origin::Origin;
use super::shelf::chain;
use crate::disk::TemporaryFile;
use crate::image::{Image, ImageError, Presence};
use crate::model::ImageId;
use crate::remote::format::ImageRef;
use crate::remote::format::wire::{FrameKind, Prelude, WireFrame};
use crate::remote::layout;
use crate::remote::transport::{Refusal, Transport, TransportError};
use crate::store::{ReadError, Store};
use crate::sys::Mapping;

/// The beginning of a published image that is believed at most, in bytes: one of the largest image has 2 MiB.
const PREFIX_MAX: u64 = 4 << 20;

/// Bytes of digests fetched by one request when nobody waits for them.
const DIGESTS_AT_ONCE: u64 = 1 << 20;

/// An image and where its missing blocks are.
pub(super) struct LazyImage {
    image: Image,
    origin: Arc<Origin>,
    crew: Arc<Crew>,
    parts: Option<Parts>,
}

/// Of an image that is not here as a whole.
struct Parts {
    id: ImageId,
    file: File,
    presence: Arc<Presence>,
    prelude: Option<Prelude>,
    flights: Flights<usize>,
}

/// Why an image that is to be fetched as it is read cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum LazyImageError {
    /// The local one.
    #[error(transparent)]
    Local(#[from] ReadError),
    /// It did not come.
    #[error("cannot fetch the beginning of image {id}")]
    Fetch {
        /// The image.
        id: ImageId,
        /// Why.
        source: FetchError,
    },
    /// Neither disk nor memory has room for it.
    #[error("there is no room for image {id}")]
    Room {
        /// The image.
        id: ImageId,
        /// What the system said.
        source: io::Error,
    },
    /// What came is no image.
    #[error("image {id} cannot be used")]
    Image {
        /// The image.
        id: ImageId,
        /// Why.
        source: ImageError,
    },
}

impl LazyImage {
    /// The image `id`, from the store if it is there whole, else as far as it is here or on its way.
    pub fn open(
        store: &Store,
        id: ImageId,
        origin: &Arc<Origin>,
        crew: &Arc<Crew>,
        beginning: Option<Beginning>,
    ) -> Result<Arc<Self>, LazyImageError> {
        let (origin, crew) = (Arc::clone(origin), Arc::clone(crew));
        match store.image(id) {
            Ok(image) => return Ok(Arc::new(Self { image, origin, crew, parts: None })),
            Err(ReadError::MissingImage { .. }) => {}
            Err(other) => return Err(other.into()),
        }
        let failed = |source| LazyImageError::Fetch { id, source };
        let layout = store.layout();
        let beginning = beginning.filter(|beginning| beginning.id() == id);
        let (prelude, prefix) = match read_head(&layout.image_head(id), id) {
            Some((prelude, prefix)) => (prelude, prefix),
            None => {
                let (prelude, prefix) = fetch_head(&origin, id, beginning.as_ref()).map_err(failed)?;
                // At once: the process that will serve the mount is about to look for it.
                if let Err(error) = keep_head(store, id, &prefix) {
                    tracing::debug!(%error, "the beginning of the image is not kept");
                }
                (prelude, prefix)
            }
        };
        let length = prelude.outline().file_length();
        let no_room = |source| LazyImageError::Room { id, source };
        let file = make_file(&layout.partial_image(id), length).map_err(no_room)?;
        file.write_all_at(prelude.header(), 0).map_err(no_room)?;
        let damaged = |source| LazyImageError::Image { id, source };
        let mapping = Mapping::of_file(&file).map_err(no_room)?;
        let presence = Arc::new(Presence::none_of(&mapping).map_err(damaged)?);
        let image = Image::open_partial(mapping, Arc::clone(&presence)).map_err(damaged)?;
        (0..presence.blocks())
            .filter(|block| image.verify_block(*block).is_ok())
            .for_each(|block| presence.mark(block));
        let parts = Parts { id, file, presence, prelude: Some(prelude), flights: Flights::default() };
        parts.keep_prefix(&prefix).map_err(failed)?;
        let opened = Arc::new(Self { image, origin, crew, parts: Some(parts) });
        if let Some(beginning) = beginning {
            opened.expect_hot(beginning);
        }
        Ok(opened)
    }

    /// Keeps what comes behind the prefix in one request. Whoever needs it from now on waits for that.
    fn expect_hot(self: &Arc<Self>, beginning: Beginning) {
        let Some(parts) = &self.parts else { return };
        let hot = parts.frames().iter().position(|frame| frame.kind == FrameKind::Hot);
        let Some(frame) = hot.filter(|frame| !parts.is_here(&parts.frames()[*frame])) else { return };
        if let (_, Some(pilot)) = parts.flights.board(frame) {
            let own = Arc::clone(self);
            self.crew.run(Lane::Names, move || match beginning.all() {
                Ok(bytes) if own.keep(frame, 0, &bytes).is_ok() => pilot.land(Ok(())),
                // It is asked for again, with the check of what comes.
                _ => own.fly(vec![pilot]),
            });
        }
    }

    /// The image: answers what is here, and says what is not.
    pub const fn image(&self) -> &Image {
        &self.image
    }

    /// Blocks that are not here.
    pub fn missing(&self) -> u32 {
        self.parts.as_ref().map_or(0, |parts| parts.presence.missing())
    }

    /// Asks `question`, fetching the blocks that the answer needs.
    pub fn with_blocks<T>(
        self: &Arc<Self>,
        deadline: Instant,
        question: impl Fn(&Image) -> Result<T, ImageError>,
    ) -> Result<T, FetchError> {
        loop {
            match question(&self.image) {
                Err(ImageError::Absent { block }) => self.fetch_block(block, deadline)?,
                other => return Ok(other?),
            }
        }
    }

    /// Fetches a block, and whatever comes with it.
    pub fn fetch_block(self: &Arc<Self>, block: u32, deadline: Instant) -> Result<(), FetchError> {
        let Some(parts) = &self.parts else { return Ok(()) };
        if parts.presence.has(block) {
            return Ok(());
        }
        let frame = parts.frame_with(block).ok_or(FetchError::NoRemote)?;
        self.board(parts, frame).wait(deadline)
    }

    fn board(self: &Arc<Self>, parts: &Parts, frame: usize) -> Seat {
        let (seat, pilot) = parts.flights.board(frame);
        self.launch(pilot.into_iter().collect());
        seat
    }

    /// Has the block that `question` needs fetched, if one is needed, while the caller does something else.
    pub fn ask_ahead<T>(self: &Arc<Self>, question: impl Fn(&Image) -> Result<T, ImageError>) {
        if let (Some(parts), Err(ImageError::Absent { block })) = (&self.parts, question(&self.image))
            && let Some(frame) = parts.frame_with(block)
        {
            self.board(parts, frame);
        }
    }

    /// Has the blocks fetched that are needed to answer `question` of each of `things`, in as few requests as that takes,
    /// while the caller does something else.
    pub fn ask_for_all<K, T>(
        self: &Arc<Self>,
        things: impl IntoIterator<Item = K>,
        question: impl Fn(&Image, K) -> Result<T, ImageError>,
    ) {
        let Some(parts) = &self.parts else { return };
        let mut wanted = BTreeSet::new();
        for thing in things {
            if let Err(ImageError::Absent { block }) = question(&self.image, thing) {
                wanted.extend(parts.frame_with(block));
            }
        }
        let mut together: Vec<Pilot<usize>> = Vec::new();
        for frame in wanted {
            let Some(pilot) = parts.flights.board(frame).1 else { continue };
            let goes_on = together.last().is_none_or(|last| last.key() + 1 == frame);
            if !goes_on {
                self.launch(std::mem::take(&mut together));
            }
            together.push(pilot);
        }
        self.launch(together);
    }

    fn launch(self: &Arc<Self>, pilots: Vec<Pilot<usize>>) {
        if !pilots.is_empty() {
            let own = Arc::clone(self);
            self.crew.run(Lane::Names, move || own.fly(pilots));
        }
    }

    /// Fetches all that names and attributes need.
    pub fn fetch_hot(self: &Arc<Self>, deadline: Instant) -> Result<(), FetchError> {
        let Some(parts) = &self.parts else { return Ok(()) };
        let hot = parts.frames().iter().find(|frame| frame.kind == FrameKind::Hot);
        match hot.and_then(|frame| frame.blocks.iter().find(|block| !parts.presence.has(**block))) {
            Some(block) => self.fetch_block(*block, deadline),
            None => Ok(()),
        }
    }

    /// Fetches, in this thread, some of the digests that are not here; returns whether any were missing.
    pub fn fetch_more(&self) -> Result<bool, FetchError> {
        let Some(parts) = &self.parts else { return Ok(false) };
        let (mut pilots, mut end, mut bytes) = (Vec::new(), None, 0);
        for (number, frame) in parts.frames().iter().enumerate() {
            if frame.kind == FrameKind::Head || parts.is_here(frame) || parts.flights.is_under_way(number) {
                continue;
            }
            if end.is_some_and(|end| end != frame.range.start) || bytes >= DIGESTS_AT_ONCE {
                break;
            }
            if let (_, Some(pilot)) = parts.flights.board(number) {
                (end, bytes) = (Some(frame.range.end), bytes + frame.range.end - frame.range.start);
                pilots.push(pilot);
            }
        }
        if pilots.is_empty() {
            return Ok(false);
        }
        let seats: Vec<_> = pilots.iter().map(|pilot| parts.flights.board(pilot.key()).0).collect();
        self.fly(pilots);
        seats.iter().try_for_each(|seat| seat.wait(Instant::now()))?;
        Ok(true)
    }

    /// Carries out one request for frames that follow each other, and tells everybody.
    fn fly(&self, pilots: Vec<Pilot<usize>>) {
        let Some(parts) = &self.parts else { return };
        let frame = |pilot: &Pilot<usize>| parts.frames().get(pilot.key());
        let (Some(first), Some(last)) = (pilots.first().and_then(frame), pilots.last().and_then(frame)) else { return };
        let range = first.range.start..last.range.end;
        let (start, path) = (range.start, layout::image(parts.id));
        let place = |pilot: Pilot<usize>| Some((parts.frames().get(pilot.key())?.range.start, pilot));
        let pieces = pilots.into_iter().filter_map(place).collect();
        let unpack = |frame: usize, bytes: &Bytes| self.keep(frame, start, bytes);
        let (_, failure) = self.origin.carry(&path, range, pieces, &unpack);
        // An image is never put elsewhere: one that is not there is of a commit that is not kept any more.
        if let Some(error) = failure.filter(FetchError::may_have_moved) {
            self.origin.complain(&error);
        }
    }

    /// Keeps a frame out of `bytes`, which begin at `start` of the published image.
    fn keep(&self, frame: usize, start: u64, bytes: &[u8]) -> Result<(), Unkept> {
        let parts = self.parts.as_ref().ok_or(FetchError::NoRemote)?;
        let frame = parts.frames().get(frame).ok_or(FetchError::NoRemote)?;
        let place = index(frame.range.start - start)..index(frame.range.end - start);
        // The placement may have promised more than came.
        let packed = bytes.get(place).ok_or_else(|| Unkept::Wrong("it ends too early".into()))?;
        parts.keep(frame, packed)
    }
}

impl Parts {
    fn frames(&self) -> &[WireFrame] {
        self.prelude.as_ref().map_or(&[], Prelude::frames)
    }

    fn is_here(&self, frame: &WireFrame) -> bool {
        frame.blocks.iter().all(|block| self.presence.has(*block))
    }

    /// The frame that brings a block and the most with it; what the head frame brings, the hot one brings too.
    fn frame_with(&self, block: u32) -> Option<usize> {
        let frames = self.frames().iter().enumerate();
        let mut with = frames.filter(|(_, frame)| frame.kind != FrameKind::Head && frame.blocks.contains(&block));
        with.next().map(|(number, _)| number)
    }

    /// Keeps the blocks of a frame, which were checked when it was unpacked.
    fn keep(&self, frame: &WireFrame, packed: &[u8]) -> Result<(), Unkept> {
        let prelude = self.prelude.as_ref().ok_or(FetchError::NoRemote)?;
        for (block, bytes) in prelude.decode(frame, packed).map_err(|error| Unkept::Wrong(error.into()))? {
            if self.presence.has(block) {
                continue;
            }
            let start = prelude.outline().block(block).start;
            self.file.write_all_at(&bytes, start).map_err(|error| FetchError::NoRoom(Arc::new(error)))?;
            self.presence.mark(block);
        }
        Ok(())
    }

    /// Keeps the frames that came with the prefix. One that cannot be used is left out: its blocks are in another frame, too,
    /// or are asked for again when they are needed. Until 2026-12 the head frames of some images were written wrongly.
    fn keep_prefix(&self, prefix: &[u8]) -> Result<(), FetchError> {
        for frame in self.frames() {
            let Some(packed) = prefix.get(index(frame.range.start)..index(frame.range.end)) else { break };
            match self.keep_missing(frame, packed) {
                Err(Unkept::Own(error)) => return Err(error),
                Err(Unkept::Wrong(why)) => tracing::debug!("a frame of image {} is left out: {why}", self.id),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    fn keep_missing(&self, frame: &WireFrame, packed: &[u8]) -> Result<(), Unkept> {
        if self.is_here(frame) { Ok(()) } else { self.keep(frame, packed) }
    }
}

/// Not durably: it is checked when it is read, and can be fetched again.
fn keep_head(store: &Store, id: ImageId, head: &[u8]) -> io::Result<()> {
    let file = TemporaryFile::create(&store.layout().temporary())?;
    file.file().write_all_at(head, 0)?;
    file.persist(&store.layout().image_head(id))
}

fn read_head(path: &Path, id: ImageId) -> Option<(Prelude, Vec<u8>)> {
    let bytes = std::fs::read(path).ok()?;
    match Prelude::parse(&bytes, id) {
        Ok(prelude) => Some((prelude, bytes)),
        Err(error) => {
            tracing::warn!("{} is fetched again: {}", path.display(), chain(&error));
            None
        }
    }
}

fn fetch_head(origin: &Origin, id: ImageId, beginning: Option<&Beginning>) -> Result<(Prelude, Vec<u8>), FetchError> {
    let place = origin.placement()?.image;
    let name = layout::image(id);
    let length = head_length(&place).ok_or_else(|| FetchError::Corrupt { path: name.clone() })?;
    let check = |bytes: &Bytes| Prelude::parse(bytes, id).map(|prelude| (prelude, bytes.to_vec()));
    // What is on its way comes without a check; if it is wrong, it is asked for again.
    let on_its_way = beginning.and_then(|beginning| beginning.first(length, None).ok());
    if let Some(Ok(head)) = on_its_way.map(|bytes| check(&bytes)) {
        return Ok(head);
    }
    origin.range(&name, 0..length, &mut |bytes| check(bytes).map_err(Refusal::wrong))
}

/// The bytes that a published image begins with and opening it needs, if the placement makes sense.
fn head_length(place: &ImageRef) -> Option<u64> {
    (place.prefix <= PREFIX_MAX && place.prefix <= place.length).then_some(place.prefix)
}

/// Brings what opening the image takes into the repository, if it is not there.
///
/// # Errors
/// [`TransportError`] when it does not come.
pub(super) fn bring_head(
    store: &Store,
    transport: &Transport,
    id: ImageId,
    place: &ImageRef,
    beginning: Option<&Beginning>,
    until: Option<Instant>,
) -> Result<(), TransportError> {
    let (layout, path) = (store.layout(), layout::image(id));
    if layout.image(id).exists() || read_head(&layout.image_head(id), id).is_some() {
        return Ok(());
    }
    let Some(length) = head_length(place) else { return Err(TransportError::TooLarge { path, limit: PREFIX_MAX }) };
    let check = |bytes: &Bytes| Prelude::parse(bytes, id).map(|_| bytes.clone());
    let on_its_way = beginning.and_then(|beginning| beginning.first(length, until).ok());
    let asking = if beginning.is_some() { transport.again() } else { transport.clone() };
    let head = match on_its_way.map(|bytes| check(&bytes)) {
        Some(Ok(head)) => head,
        _ => {
            let asking = until.map_or_else(|| asking.clone(), |until| asking.until(until));
            asking.get_range_checked(&path, 0..length, &mut |bytes| check(bytes).map_err(Refusal::wrong))?
        }
    };
    if let Err(error) = keep_head(store, id, &head) {
        tracing::debug!(%error, "the beginning of the image is not kept");
    }
    Ok(())
}

/// A file of `length` bytes that has room for all of them: on disk, or in memory when the disk refuses.
fn make_file(path: &Path, length: u64) -> io::Result<File> {
    let make = || {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        reserve(&file, length)?;
        Ok::<_, io::Error>(file)
    };
    make().or_else(|error| {
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
        // Some filesystems cannot promise room; then a write may fail later.
        Err(rustix::io::Errno::OPNOTSUPP) => file.set_len(length),
        other => Ok(other?),
    }
}

fn index(position: u64) -> usize {
    usize::try_from(position).unwrap_or(usize::MAX)
}
