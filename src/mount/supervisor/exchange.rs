//! The exchange socket of a supervisor, by which the program of a running mount is exchanged.
//!
//! A client sends a descriptor of the new program. A worker of it is started beside the current one. If it becomes ready, it
//! replaces the current worker, and the supervisor executes the new program too; else nothing changes. The same socket
//! returns a descriptor of the mounted image, for a process that commits the mount.
//!
//! *Invariants*: one request at a time; requests of workers are refused; the supervisor's side allocates nothing.
//!
//! *Used by* the supervisor, and `cli` as client.

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

use super::{Supervisor, SupervisorFds, log_line, peer};
use crate::fuse::now_ms;
use crate::sys;

/// The request for an exchange, of this version. A descriptor of the program comes with it.
const EXCHANGE_REQUEST: &[u8] = b"exchange 1";
/// The request for the image; the response is `done` with a descriptor of it.
const IMAGE_REQUEST: &[u8] = b"image 1";

const DONE: &[u8] = b"done";
const FAILED: &[u8] = b"failed";

/// How long a client that has connected may take to send its request, in milliseconds.
const RECEIVE_TIMEOUT_MS: u64 = 5_000;

/// How long a client waits for the image, in milliseconds.
const IMAGE_TIMEOUT_MS: u64 = 2_000;

/// How long a worker of the new program may take to become ready, in milliseconds.
const START_TIMEOUT_MS: u64 = 60_000;

/// An error of exchanging the program of a mount.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The supervisor cannot be reached.
    #[error("cannot talk to the process that holds the mount")]
    Io(#[from] io::Error),
    /// No worker of the new program became ready.
    #[error("the new program did not come to serve (see its log); the old one goes on")]
    Failed,
}

/// Sends a program to a supervisor and waits until it has replaced the old one.
///
/// # Errors
/// [`ExchangeError`]; the old program then continues to serve the mount.
pub fn exchange_program(socket: &Path, program: impl AsFd) -> Result<(), ExchangeError> {
    let connection =
        socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).map_err(io::Error::from)?;
    let timeout = Duration::from_millis(RECEIVE_TIMEOUT_MS + START_TIMEOUT_MS);
    let send = || -> rustix::io::Result<usize> {
        set_socket_timeout(&connection, Timeout::Recv, Some(timeout))?;
        connect(&connection, &SocketAddrUnix::new(socket)?)?;
        let descriptors = [program.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        sendmsg(&connection, &[IoSlice::new(EXCHANGE_REQUEST)], &mut control, SendFlags::NOSIGNAL)
    };
    send().map_err(io::Error::from)?;
    let mut response = [0; 16];
    let (length, _) = rustix::net::recv(&connection, &mut response, RecvFlags::empty()).map_err(io::Error::from)?;
    if response.get(..length) == Some(DONE) { Ok(()) } else { Err(ExchangeError::Failed) }
}

/// Requests the mounted image from a supervisor of this user. Returns `None` for a lazy mount.
///
/// # Errors
/// Those of the socket, also when the supervisor belongs to another user or does not respond in time.
pub(crate) fn request_image(socket: &Path) -> io::Result<Option<OwnedFd>> {
    let connection = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&connection, Timeout::Recv, Some(Duration::from_millis(IMAGE_TIMEOUT_MS)))?;
    connect(&connection, &SocketAddrUnix::new(socket)?)?;
    if socket_peercred(&connection)?.uid != rustix::process::geteuid() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    send(&connection, IMAGE_REQUEST, SendFlags::NOSIGNAL)?;
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

/// Whether one worker serves and none is starting or ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WorkerState {
    Stable,
    Changing,
}

/// The program from which a worker is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WorkerProgram {
    /// The supervisor's current program.
    Current,
    /// The program that a client sent.
    Replacement,
    /// The current program, as a probe that logs nothing if it cannot serve.
    Probe,
}

/// The request that is being received or carried out.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    connection: Option<OwnedFd>,
    program: Option<OwnedFd>,
    deadline: u64,
    /// Whether the worker was exchanged and the supervisor still has to be.
    is_takeover_due: bool,
}

impl Exchange {
    /// Returns the descriptor from which the next input is expected, if any. Clients wait while workers are changing.
    pub(crate) fn readable_fd<'a>(&'a self, fds: &'a SupervisorFds, workers: WorkerState) -> Option<BorrowedFd<'a>> {
        match (&self.connection, &self.program) {
            (None, _) => fds.exchange_socket.as_ref().filter(|_| workers == WorkerState::Stable).map(AsFd::as_fd),
            (Some(connection), None) => Some(connection.as_fd()),
            (Some(_), Some(_)) => None,
        }
    }

    pub(crate) const fn next_deadline(&self, now: u64) -> Option<u64> {
        match (&self.connection, self.deadline > now) {
            (Some(_), true) => Some(self.deadline),
            (Some(_), false) => Some(now),
            (None, _) => None,
        }
    }

    /// Returns whether a request is being received or carried out.
    pub(crate) const fn is_busy(&self) -> bool {
        self.connection.is_some()
    }

    /// Returns the program that a client sent.
    pub(crate) const fn program(&self) -> Option<&OwnedFd> {
        self.program.as_ref()
    }

    fn finish(&mut self, response: &[u8]) {
        if let Some(connection) = self.connection.take() {
            // A client that does not wait does not need the response.
            let _ = send(&connection, response, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
        }
        self.program = None;
    }

    /// Sends the image and closes the connection.
    fn send_image(&mut self, image: Option<&OwnedFd>) {
        let Some(connection) = self.connection.take() else { return };
        let descriptors = image.map(|image| [image.as_fd()]);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if let Some(descriptors) = &descriptors {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        // A client that has ended does not need it.
        let _ = sendmsg(&connection, &[IoSlice::new(DONE)], &mut control, flags);
    }

    /// Accepts a client. The permissions of the socket's file already decide who can connect; the user is checked again.
    /// Workers have the same user but are refused, since they process data from unknown authors.
    fn accept(&mut self, fds: &SupervisorFds) {
        let Some(listener) = &fds.exchange_socket else { return };
        let Ok(connection) = accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) else { return };
        let own = rustix::process::geteuid();
        let is_allowed = socket_peercred(&connection)
            .is_ok_and(|peer| (peer.uid == own || peer.uid.is_root()) && !peer::is_worker(peer.pid));
        if is_allowed {
            (self.connection, self.deadline) = (Some(connection), now_ms() + RECEIVE_TIMEOUT_MS);
        }
    }

    /// Receives a request. Returns whether it is an exchange that is to be carried out now.
    fn receive(&mut self, image: Option<&OwnedFd>) -> bool {
        let Some(connection) = &self.connection else { return false };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut text = [0; 32];
        let received = recvmsg(connection, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC);
        let program = first_descriptor(&mut control);
        match received {
            Err(rustix::io::Errno::AGAIN) if self.deadline > now_ms() => false,
            Ok(message) if text.get(..message.bytes) == Some(IMAGE_REQUEST) => {
                self.send_image(image);
                false
            }
            Ok(message) if text.get(..message.bytes) == Some(EXCHANGE_REQUEST) && program.is_some() => {
                (self.program, self.deadline) = (program, now_ms() + START_TIMEOUT_MS);
                true
            }
            _ => {
                self.finish(FAILED);
                false
            }
        }
    }
}

impl Supervisor {
    pub(super) fn handle_exchange(&mut self) {
        match (&self.exchange.connection, &self.exchange.program) {
            (None, _) if self.children.worker_state() == WorkerState::Stable => self.exchange.accept(&self.fds),
            (None, _) => {}
            (Some(_), None) => {
                if self.exchange.receive(self.fds.image.as_ref()) {
                    self.start_candidate();
                }
            }
            (Some(_), Some(_)) => self.check_candidate(),
        }
        if self.exchange.is_takeover_due && self.children.worker_state() == WorkerState::Stable {
            self.exchange.is_takeover_due = false;
            let _ = self.arguments.takeover.replace_process(self.fds.program.as_fd());
            log_line("the supervisor cannot execute the new program; it continues with the old one and the new worker");
        }
    }

    fn check_candidate(&mut self) {
        match self.children.candidate_is_ready() {
            Some(true) => {
                let renumbered = self
                    .exchange
                    .program()
                    .map(|program| sys::replace_inheritable_descriptor(&self.fds.program, program));
                if !matches!(renumbered, Some(Ok(()))) {
                    self.kill_candidate();
                    return self.exchange.finish(FAILED);
                }
                self.fds.shared.count_exchange();
                self.promote_candidate();
                self.exchange.finish(DONE);
                self.exchange.is_takeover_due = true;
            }
            Some(false) if self.exchange.deadline > now_ms() => {}
            Some(false) => {
                self.kill_candidate();
                self.exchange.finish(FAILED);
            }
            None => self.exchange.finish(FAILED),
        }
    }
}
