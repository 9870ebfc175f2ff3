//! The connection to the kernel below `fuser`: its first message, which `fuser` wants to see and a second worker does not
//! get, and the word that has it send again what a dead worker left unanswered.
//!
//! `fuser` insists on a first message and on answering it. So it gets one end of a socket with that message in it, freshly
//! read from the kernel or remembered from then, and its answer goes on to the kernel or nowhere; then the socket's number
//! is made to mean the device.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, socketpair};

use super::board::Board;
use super::options::Resend;

/// The kernel does not write a message into less.
const MESSAGE_MIN: usize = 8192;

/// Length, error or kind, number: how everything begins that goes to the kernel, in the order of bytes of this machine.
const OUT_HEADER: usize = 16;

/// `FUSE_NOTIFY_RESEND`.
const NOTIFY_RESEND: i32 = 7;

/// The two ends of the socket through which `fuser` meets the kernel.
pub(super) struct Introduction {
    ours: OwnedFd,
    /// The kernel's first message, if it waits for an answer to it.
    unanswered: Option<Vec<u8>>,
}

impl Introduction {
    /// Puts the kernel's first message into the returned socket: the remembered one, or for a new connection the one that
    /// the kernel has for us, which is waited for.
    pub(super) fn begin(device: &OwnedFd, board: &Board) -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let unanswered = match board.init() {
            Some(message) => {
                rustix::net::send(&ours, &message, SendFlags::empty())?;
                None
            }
            None => {
                let message = read_message(device)?;
                rustix::net::send(&ours, &message, SendFlags::empty())?;
                Some(message)
            }
        };
        Ok((Self { ours, unanswered }, theirs))
    }

    /// Gives the kernel the answer, if it still waits for one.
    pub(super) fn finish(self, device: &OwnedFd, board: &Board, resend: Resend) -> io::Result<()> {
        let mut answer = [0; MESSAGE_MIN];
        let length = rustix::io::read(&self.ours, &mut answer)?;
        if let Some(message) = self.unanswered {
            rustix::io::write(device, &answer[..length])?;
            board.set_init(&message);
            if resend == Resend::Never {
                board.forbid_resending();
            }
        }
        Ok(())
    }
}

fn read_message(device: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; MESSAGE_MIN];
    let length = loop {
        match rustix::io::read(device, &mut buffer[..]) {
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN | rustix::io::Errno::NOENT) => {}
            other => break other?,
        }
    };
    buffer.truncate(length);
    Ok(buffer)
}

/// Has the kernel send everything again that was read and not answered. Allocates nothing.
///
/// # Errors
/// Those of the device; a kernel before 6.9 does not know the word.
pub(super) fn resend(device: impl AsFd) -> io::Result<()> {
    const LENGTH: i32 = OUT_HEADER as i32;
    let mut message = [0; OUT_HEADER];
    message[..4].copy_from_slice(&LENGTH.to_ne_bytes());
    message[4..8].copy_from_slice(&NOTIFY_RESEND.to_ne_bytes());
    rustix::io::write(device, &message)?;
    Ok(())
}
