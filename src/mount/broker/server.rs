//! The broker's side of the connection to its worker.
//!
//! *Invariant*: a request that cannot be read, or that the worker may not make, changes nothing.
//!
//! *Used by* `processes::broker`.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg, send};

use super::wire::{RESPONSE_MAX, Response, read_request};
use crate::cache::{ChangeError, ContentChange, ContentWriter};
use crate::error::chain;

/// Carries out the requests that arrive at `socket`, until its worker has ended. `cache_size` returns the limit of the stored
/// contents; a worker cannot have more evicted than that asks for.
///
/// # Errors
/// Those of the socket.
pub(in crate::mount) fn serve(
    socket: &OwnedFd,
    writer: &dyn ContentWriter,
    cache_size: &dyn Fn() -> Option<u64>,
) -> io::Result<()> {
    while let Some(request) = receive(socket)? {
        let change = request.ok_or_else(|| io::ErrorKind::InvalidData.into()).and_then(|file| read_request(&file));
        let response = match change {
            Err(error) => Response::Failed(format!("the request cannot be read: {error}")),
            Ok(change) => match bound(change, cache_size).and_then(|change| writer.apply(change)) {
                Ok(outcome) => Response::Done(outcome),
                Err(ChangeError::Locked) => Response::Locked,
                Err(error) => Response::Failed(chain(&error).to_string()),
            },
        };
        if !respond(socket, response)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Raises the limit of an eviction to the one that was configured.
fn bound(change: ContentChange, cache_size: &dyn Fn() -> Option<u64>) -> Result<ContentChange, ChangeError> {
    let ContentChange::Evict { limit, target } = change else { return Ok(change) };
    let configured = cache_size().ok_or(ChangeError::Refused("this mount has no limit of stored contents"))?;
    // The evictor begins at 15/16 of the limit and ends at 3/4.
    Ok(ContentChange::Evict { limit: limit.max(configured / 2), target: target.max(configured / 2) })
}

/// Receives a request; returns `None` when the worker has ended, and `Some(None)` for a packet without a file.
fn receive(socket: &OwnedFd) -> io::Result<Option<Option<File>>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut text = [0; 16];
    let (length, file) = {
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let message = rustix::io::retry_on_intr(|| {
            recvmsg(socket, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC)
        });
        let file = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        match message {
            Err(rustix::io::Errno::CONNRESET) => (0, None),
            other => (other?.bytes, file),
        }
    };
    Ok((length > 0).then(|| file.map(File::from)))
}

/// Sends a response; returns `false` when the worker has ended.
fn respond(socket: &OwnedFd, response: Response) -> io::Result<bool> {
    let mut text = serde_json::to_vec(&response)?;
    if text.len() > RESPONSE_MAX {
        text = serde_json::to_vec(&Response::Failed("its reason is too long".to_owned()))?;
    }
    match rustix::io::retry_on_intr(|| send(socket, &text, SendFlags::NOSIGNAL)) {
        Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => Ok(false),
        sent => Ok(sent.map(|_| true)?),
    }
}
