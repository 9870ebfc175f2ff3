//! The connection to the kernel below `fuser`: a proxy for the INIT message, and the request to resend lost messages.
//!
//! `fuser` insists on receiving INIT and on replying to it, but the kernel sends INIT only to the first worker of a mount.
//! So `fuser` starts on one end of a socket, into which this module writes INIT: read from the kernel by the first worker,
//! taken from the shared pages by later ones. Only the first worker's reply goes on to the kernel. Afterwards the socket's
//! descriptor number is made to refer to the device.
//!
//! *Used by* `session` and the supervisor.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, socketpair};

use super::options::Resend;
use super::shared::SharedState;

/// Smallest buffer into which the kernel writes a message.
const MESSAGE_BUFFER_MIN: usize = 8192;

/// Length of the header of a message to the kernel: length, error or kind, number, in this machine's byte order.
const OUT_HEADER_LENGTH: usize = 16;

/// `FUSE_NOTIFY_RESEND`.
const NOTIFY_RESEND: i32 = 7;

/// The socket between `fuser` and the kernel during INIT.
pub(super) struct InitProxy {
    proxy_end: OwnedFd,
    /// The INIT message, if the kernel waits for the reply to it.
    unanswered: Option<Vec<u8>>,
}

impl InitProxy {
    /// Writes INIT into the returned socket: the recorded message, or on a new connection the one that it waits for from the
    /// kernel.
    pub(super) fn start(device: &OwnedFd, shared: &SharedState) -> io::Result<(Self, OwnedFd)> {
        let (proxy_end, fuser_end) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let unanswered = match shared.init_message() {
            Some(message) => {
                rustix::net::send(&proxy_end, &message, SendFlags::empty())?;
                None
            }
            None => {
                let message = read_message(device)?;
                rustix::net::send(&proxy_end, &message, SendFlags::empty())?;
                Some(message)
            }
        };
        Ok((Self { proxy_end, unanswered }, fuser_end))
    }

    /// Sends `fuser`'s reply to the kernel if it waits for one, and records INIT for later workers.
    pub(super) fn finish(self, device: &OwnedFd, shared: &SharedState, resend: Resend) -> io::Result<()> {
        let mut reply = [0; MESSAGE_BUFFER_MIN];
        let length = rustix::io::read(&self.proxy_end, &mut reply)?;
        if let Some(message) = self.unanswered {
            rustix::io::write(device, &reply[..length])?;
            shared.set_init_message(&message);
            if resend == Resend::Never {
                shared.disable_resend();
            }
        }
        Ok(())
    }
}

fn read_message(device: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; MESSAGE_BUFFER_MIN];
    let length = loop {
        match rustix::io::read(device, &mut buffer[..]) {
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN | rustix::io::Errno::NOENT) => {}
            other => break other?,
        }
    };
    buffer.truncate(length);
    Ok(buffer)
}

/// Asks the kernel to send all messages again that were read and have no reply. Allocates nothing.
///
/// # Errors
/// Those of the device; a kernel before 6.9 does not know this request.
pub(crate) fn resend(device: impl AsFd) -> io::Result<()> {
    const LENGTH: i32 = OUT_HEADER_LENGTH as i32;
    let mut message = [0; OUT_HEADER_LENGTH];
    message[..4].copy_from_slice(&LENGTH.to_ne_bytes());
    message[4..8].copy_from_slice(&NOTIFY_RESEND.to_ne_bytes());
    rustix::io::write(device, &message)?;
    Ok(())
}
