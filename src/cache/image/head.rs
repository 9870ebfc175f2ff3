//! An early request for the head of a published image, sent before the commit that names the image has arrived.
//!
//! One request brings what opening an image needs (its prefix) and, behind it, all names and attributes. The image can be
//! opened when the prefix has arrived.
//!
//! *Invariant*: nothing here is trusted; the caller checks what it gets against the id of the image.
//!
//! *Used by* `resolve`, `tree` and `image`.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use parking_lot::{Condvar, Mutex};

use crate::cache::fetch::error::LazyFetchError;
use crate::model::ImageId;
use crate::remote::format::ImageRef;
use crate::remote::layout;
use crate::remote::transport::Transport;

/// The largest head that is requested, since the length comes from a placement, which is not signed. An image of two million
/// entries has a head of this size.
const HEAD_LENGTH_MAX: u64 = 16 << 20;

/// How long the request for the commit goes ahead of this one: it gets the connection that is open, and its short answer does
/// not queue behind this long one, which takes seconds on a slow link.
const REQUEST_DELAY: Duration = Duration::from_millis(5);

/// A handle to the head of one image, which a thread is fetching or has fetched.
#[derive(Debug, Clone)]
pub(in crate::cache) struct ImageHead {
    id: ImageId,
    download: Arc<HeadDownload>,
}

#[derive(Debug, Default)]
struct HeadDownload {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    bytes: BytesMut,
    result: Option<Result<(), LazyFetchError>>,
}

impl ImageHead {
    /// Starts a thread that requests the head. Returns `None` if the placement lacks the id or the lengths, or is implausible.
    pub(crate) fn request(transport: &Transport, place: &ImageRef) -> Option<Self> {
        let (id, length) = (place.id?, place.metadata_length?);
        if length > HEAD_LENGTH_MAX || length < place.prefix || length > place.length {
            return None;
        }
        let download = Arc::<HeadDownload>::default();
        // Not retried: a reader that waits for the head requests it by itself if this request fails.
        let (transport, shared) = (transport.with_patience(Duration::ZERO).optional(), Arc::clone(&download));
        let run = move || {
            thread::sleep(REQUEST_DELAY);
            let result = transport.stream_range(&layout::image(id), 0..length, &mut |piece| shared.receive(&piece));
            shared.state.lock().result = Some(result.map_err(LazyFetchError::from));
            shared.changed.notify_all();
        };
        match thread::Builder::new().name("image-head".to_owned()).spawn(run) {
            Ok(_) => Some(Self { id, download }),
            Err(error) => {
                tracing::debug!(%error, "the head of the image is not requested early");
                None
            }
        }
    }

    /// Returns the id of the image.
    pub(crate) const fn id(&self) -> ImageId {
        self.id
    }

    /// Waits for the first `length` bytes, at most until `end`. Fails if the request has failed.
    pub(crate) fn wait_for_prefix(&self, length: u64, end: Option<Instant>) -> Result<Bytes, LazyFetchError> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let mut state = self.download.state.lock();
        loop {
            if let Some(first) = state.bytes.get(..length) {
                return Ok(Bytes::copy_from_slice(first));
            }
            match (&state.result, end) {
                (None, None) => self.download.changed.wait(&mut state),
                (None, Some(end)) => {
                    if self.download.changed.wait_until(&mut state, end).timed_out() {
                        return Err(LazyFetchError::TimedOut);
                    }
                }
                (Some(Ok(())), _) => return Err(LazyFetchError::Corrupt { path: layout::image(self.id) }),
                (Some(Err(error)), _) => return Err(error.clone()),
            }
        }
    }

    /// Waits for the whole head and takes it out of this value.
    pub(crate) fn take_all(&self) -> Result<Bytes, LazyFetchError> {
        let mut state = self.download.state.lock();
        loop {
            match &state.result {
                None => self.download.changed.wait(&mut state),
                Some(Ok(())) => return Ok(std::mem::take(&mut state.bytes).freeze()),
                Some(Err(error)) => return Err(error.clone()),
            }
        }
    }
}

impl HeadDownload {
    fn receive(self: &Arc<Self>, piece: &[u8]) -> ControlFlow<()> {
        self.state.lock().bytes.extend_from_slice(piece);
        self.changed.notify_all();
        // No other handle is left, so another image is wanted: the thread stops.
        if Arc::strong_count(self) == 1 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}
