//! The beginning of a published image, asked for before the commit that names it has come.
//!
//! One request brings what opening an image needs and, behind it, all names and attributes. Whoever opens the image goes on
//! when the first part is here. Nothing here is believed: the image's id proves what came.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use parking_lot::{Condvar, Mutex};

use super::error::FetchError;
use crate::model::ImageId;
use crate::remote::format::ImageRef;
use crate::remote::layout;
use crate::remote::transport::Transport;

/// More is not asked for on the word of a placement that nobody signed: an image of two million entries has as much.
const LENGTH_MAX: u64 = 16 << 20;

/// So long the commit's request goes ahead: it takes the connection that is open, and its short answer does not queue behind
/// this long one, which on a slow link takes seconds.
const HEAD_START: Duration = Duration::from_millis(5);

/// The beginning of one image, on its way or here.
#[derive(Debug, Clone)]
pub(super) struct Beginning {
    id: ImageId,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    bytes: BytesMut,
    end: Option<Result<(), FetchError>>,
}

impl Beginning {
    /// Asks for it in a thread of its own, if the placement says enough to ask.
    pub fn request(transport: &Transport, place: &ImageRef) -> Option<Self> {
        let (id, hot) = (place.id?, place.hot?);
        if hot > LENGTH_MAX || hot < place.prefix || hot > place.length {
            return None;
        }
        let shared = Arc::<Shared>::default();
        // A reader that waits for it asks by itself if this does not come at once.
        let (transport, own) = (transport.impatient(Duration::ZERO).optional(), Arc::clone(&shared));
        let run = move || {
            thread::sleep(HEAD_START);
            let came = transport.stream_range(&layout::image(id), 0..hot, &mut |piece| own.take(&piece));
            own.state.lock().end = Some(came.map_err(FetchError::from));
            own.changed.notify_all();
        };
        match thread::Builder::new().name("beginning".to_owned()).spawn(run) {
            Ok(_) => Some(Self { id, shared }),
            Err(error) => {
                tracing::debug!(%error, "the image is asked for later");
                None
            }
        }
    }

    /// Which image.
    pub const fn id(&self) -> ImageId {
        self.id
    }

    /// Waits for the first `length` bytes, or for what keeps them from coming, at most until `end`.
    pub fn first(&self, length: u64, end: Option<Instant>) -> Result<Bytes, FetchError> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let mut state = self.shared.state.lock();
        loop {
            if let Some(first) = state.bytes.get(..length) {
                return Ok(Bytes::copy_from_slice(first));
            }
            match (&state.end, end) {
                (None, None) => self.shared.changed.wait(&mut state),
                (None, Some(end)) => {
                    if self.shared.changed.wait_until(&mut state, end).timed_out() {
                        return Err(FetchError::TooLate);
                    }
                }
                (Some(Ok(())), _) => return Err(FetchError::Corrupt { path: layout::image(self.id) }),
                (Some(Err(error)), _) => return Err(error.clone()),
            }
        }
    }

    /// Waits for all of it, and gives it away.
    pub fn all(&self) -> Result<Bytes, FetchError> {
        let mut state = self.shared.state.lock();
        loop {
            match &state.end {
                None => self.shared.changed.wait(&mut state),
                Some(Ok(())) => return Ok(std::mem::take(&mut state.bytes).freeze()),
                Some(Err(error)) => return Err(error.clone()),
            }
        }
    }
}

impl Shared {
    fn take(self: &Arc<Self>, piece: &[u8]) -> ControlFlow<()> {
        self.state.lock().bytes.extend_from_slice(piece);
        self.changed.notify_all();
        // The thread that fetches is the last to know of it: it is another image that is wanted.
        if Arc::strong_count(self) == 1 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}
