//! The worker's side of the connection to its broker.
//!
//! *Used by* `processes::worker`.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, sendmsg};

use super::wire::{RESPONSE_MAX, Response, write_request};
use crate::cache::{ChangeError, ChangeOutcome, ContentChange, ContentWriter};
use crate::mount::worker::request_replacement;

/// Sends changes to the broker of this worker.
pub(in crate::mount) struct BrokerClient {
    socket: Mutex<OwnedFd>,
    has_answered: AtomicBool,
}

impl BrokerClient {
    /// Creates a client of the broker at the other end of `socket`.
    pub(in crate::mount) fn new(socket: OwnedFd) -> Self {
        Self { socket: Mutex::new(socket), has_answered: AtomicBool::new(false) }
    }

    fn request(&self, change: ContentChange) -> io::Result<Response> {
        let file = write_request(change)?;
        let socket = self.socket.lock();
        let descriptors = [file.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        sendmsg(&*socket, &[IoSlice::new(b"change")], &mut control, SendFlags::NOSIGNAL)?;
        let mut bytes = [0; RESPONSE_MAX];
        let (length, _) = rustix::io::retry_on_intr(|| recv(&*socket, &mut bytes[..], RecvFlags::empty()))?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_slice(&bytes[..length])?)
    }
}

impl ContentWriter for BrokerClient {
    fn apply(&self, change: ContentChange) -> Result<ChangeOutcome, ChangeError> {
        match self.request(change) {
            Ok(response) => {
                self.has_answered.store(true, Ordering::Relaxed);
                match response {
                    Response::Done(outcome) => Ok(outcome),
                    Response::Locked => Err(ChangeError::Locked),
                    Response::Failed(why) => Err(ChangeError::Elsewhere(why)),
                }
            }
            Err(error) => {
                // The next worker starts a broker. One that ended before it answered would end again.
                if self.has_answered.swap(false, Ordering::Relaxed) {
                    request_replacement();
                }
                Err(ChangeError::Elsewhere(format!("the process that writes to the repository has ended: {error}")))
            }
        }
    }
}
