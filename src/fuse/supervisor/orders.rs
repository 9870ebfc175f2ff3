//! The exchange of the program under a running mount: whoever may, sends a descriptor of the new one.
//!
//! A worker of it is started beside the one that serves. If it comes to be ready, the old one makes room for it, and the
//! supervisor itself becomes the new program too; else all stays as it was. One order at a time.
//!
//! The same socket gives out a descriptor of the image that is shown, for a process that commits the mount.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, connect, recvmsg, send, sendmsg, socket_with,
};

use super::{Held, Supervisor, peer, say};
use crate::fuse::board::now;
use crate::sys;

/// The order, of this version. It goes with a descriptor of the program.
const ORDER: &[u8] = b"exchange 1";
/// The question for the image; the answer is `done` with a descriptor of it.
const IMAGE: &[u8] = b"image 1";

const DONE: &[u8] = b"done";
const FAILED: &[u8] = b"failed";

/// How long somebody who has connected may take to say what is wanted, in milliseconds.
const HEAR: u64 = 5_000;

/// How long a process that asks for the image waits, in milliseconds.
const ASK: u64 = 2_000;

/// How long a new worker may take to get ready.
const TRY: u64 = 60_000;

/// Why the program of a mount was not exchanged.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// The supervisor cannot be talked to.
    #[error("cannot talk to the process that holds the mount")]
    Io(#[from] io::Error),
    /// The new program did not come to serve.
    #[error("the new program did not come to serve (see its log); the old one goes on")]
    Failed,
}

/// Sends the order to a supervisor and waits until it is carried out.
///
/// # Errors
/// [`OrderError`]; the mount is then served as before.
pub fn exchange_program(socket: &Path, program: impl AsFd) -> Result<(), OrderError> {
    let connection =
        socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).map_err(io::Error::from)?;
    let patience = Duration::from_millis(HEAR + TRY);
    let told = || -> rustix::io::Result<usize> {
        set_socket_timeout(&connection, Timeout::Recv, Some(patience))?;
        connect(&connection, &SocketAddrUnix::new(socket)?)?;
        let descriptors = [program.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        sendmsg(&connection, &[IoSlice::new(ORDER)], &mut control, SendFlags::NOSIGNAL)
    };
    told().map_err(io::Error::from)?;
    let mut answer = [0; 16];
    let (length, _) = rustix::net::recv(&connection, &mut answer, RecvFlags::empty()).map_err(io::Error::from)?;
    if answer.get(..length) == Some(DONE) { Ok(()) } else { Err(OrderError::Failed) }
}

/// Asks a supervisor of this user for the image that it shows; none if it shows one of which parts may be missing.
///
/// # Errors
/// Those of the socket, also when the supervisor is another user's or does not answer in time.
pub fn shown_image(socket: &Path) -> io::Result<Option<OwnedFd>> {
    let connection = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&connection, Timeout::Recv, Some(Duration::from_millis(ASK)))?;
    connect(&connection, &SocketAddrUnix::new(socket)?)?;
    if socket_peercred(&connection)?.uid != rustix::process::geteuid() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    send(&connection, IMAGE, SendFlags::NOSIGNAL)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(&connection, &mut [IoSliceMut::new(&mut [0; 16])], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    Ok(first_descriptor(&mut control))
}

fn first_descriptor(control: &mut RecvAncillaryBuffer<'_>) -> Option<OwnedFd> {
    control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    })
}

/// Whether one worker serves and no other comes or goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Workers {
    Settled,
    Changing,
}

/// Which program a worker is started from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Program {
    /// The one that is held.
    Held,
    /// The one that was sent.
    Ordered,
    /// The one that is held, to see whether it comes to serve; it says nothing if it does not.
    Probed,
}

/// The order that is being heard or carried out.
#[derive(Debug, Default)]
pub(super) struct Orders {
    connection: Option<OwnedFd>,
    program: Option<OwnedFd>,
    until: u64,
    /// The worker is exchanged; the supervisor is left.
    is_succession_due: bool,
}

impl Orders {
    /// Where the next word comes in, if any is expected. While workers come and go, whoever has an order waits.
    pub fn wants_to_read<'a>(&'a self, held: &'a Held, workers: Workers) -> Option<BorrowedFd<'a>> {
        match (&self.connection, &self.program) {
            (None, _) => held.orders.as_ref().filter(|_| workers == Workers::Settled).map(AsFd::as_fd),
            (Some(connection), None) => Some(connection.as_fd()),
            (Some(_), Some(_)) => None,
        }
    }

    pub const fn next(&self, now: u64) -> Option<u64> {
        match (&self.connection, self.until > now) {
            (Some(_), true) => Some(self.until),
            (Some(_), false) => Some(now),
            (None, _) => None,
        }
    }

    /// Whether an order is being heard or carried out.
    pub const fn is_busy(&self) -> bool {
        self.connection.is_some()
    }

    /// The program that was sent.
    pub const fn program(&self) -> Option<&OwnedFd> {
        self.program.as_ref()
    }

    fn end(&mut self, answer: &[u8]) {
        if let Some(connection) = self.connection.take() {
            // Who does not wait for the answer does not need it.
            let _ = send(&connection, answer, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
        }
        self.program = None;
    }

    /// Answers with the image, and ends the connection.
    fn give_image(&mut self, image: Option<&OwnedFd>) {
        let Some(connection) = self.connection.take() else { return };
        let descriptors = image.map(|image| [image.as_fd()]);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if let Some(descriptors) = &descriptors {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        // A process that is gone does not need it.
        let _ = sendmsg(&connection, &[IoSlice::new(DONE)], &mut control, flags);
    }

    /// Hears a process that has connected. Permission to connect is that of the socket's file; asked again, since it costs
    /// nothing. Workers have the same user, and give no orders: they read what strangers made.
    fn accept(&mut self, held: &Held) {
        let Some(listener) = &held.orders else { return };
        let Ok(connection) = accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) else { return };
        let own = rustix::process::geteuid();
        let is_allowed = socket_peercred(&connection)
            .is_ok_and(|peer| (peer.uid == own || peer.uid.is_root()) && !peer::is_worker(peer.pid));
        if is_allowed {
            (self.connection, self.until) = (Some(connection), now() + HEAR);
        }
    }

    /// Takes the order; returns whether there is one to be carried out now.
    fn hear(&mut self, image: Option<&OwnedFd>) -> bool {
        let Some(connection) = &self.connection else { return false };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut text = [0; 32];
        let received = recvmsg(connection, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC);
        let program = first_descriptor(&mut control);
        match received {
            Err(rustix::io::Errno::AGAIN) if self.until > now() => false,
            Ok(message) if text.get(..message.bytes) == Some(IMAGE) => {
                self.give_image(image);
                false
            }
            Ok(message) if text.get(..message.bytes) == Some(ORDER) && program.is_some() => {
                (self.program, self.until) = (program, now() + TRY);
                true
            }
            _ => {
                self.end(FAILED);
                false
            }
        }
    }
}

impl Supervisor {
    pub(super) fn take_orders(&mut self) {
        match (&self.orders.connection, &self.orders.program) {
            (None, _) if self.children.state() == Workers::Settled => self.orders.accept(&self.held),
            (None, _) => {}
            (Some(_), None) => {
                if self.orders.hear(self.held.image.as_ref()) {
                    self.start_candidate();
                }
            }
            (Some(_), Some(_)) => self.judge_candidate(),
        }
        if self.orders.is_succession_due && self.children.state() == Workers::Settled {
            self.orders.is_succession_due = false;
            let _ = self.roles.successor.become_it(self.held.program.as_fd());
            say("the supervisor could not be exchanged; it goes on as it is, with the new worker");
        }
    }

    fn judge_candidate(&mut self) {
        match self.children.candidate_is_ready() {
            Some(true) => {
                let taken = self.orders.program().map(|program| sys::renumber(&self.held.program, program));
                if !matches!(taken, Some(Ok(()))) {
                    self.drop_candidate();
                    return self.orders.end(FAILED);
                }
                self.held.board.count_exchange();
                self.promote_candidate();
                self.orders.end(DONE);
                self.orders.is_succession_due = true;
            }
            Some(false) if self.orders.until > now() => {}
            Some(false) => {
                self.drop_candidate();
                self.orders.end(FAILED);
            }
            None => self.orders.end(FAILED),
        }
    }
}
