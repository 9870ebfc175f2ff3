//! The start of a broker by its worker.
//!
//! *Not here*: what the broker does then (`processes::broker`).
//!
//! *Used by* `processes::worker`.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::client::BrokerClient;
use crate::cache::ContentWriter;
use crate::fuse::{Confinement, MountOptions, Service};
use crate::mount::descriptors::{make_inheritable, open_own_program};
use crate::mount::error::{OrCannot as _, ProcessError};
use crate::mount::handoff::Handoff;
use crate::mount::runtime::{BROKER_SUBCOMMAND, process_name};
use crate::sys::ProgramArguments;

/// Starts a broker if the worker with this hand-over needs one: that of a lazy mount in a sandbox. Returns what the worker sends
/// its changes by. The process must have one thread, and `number` must be open and inheritable.
pub(in crate::mount) fn start(
    number: &str,
    handoff: &Handoff,
    options: &MountOptions,
    service: Service,
) -> Result<Option<Arc<dyn ContentWriter>>, ProcessError> {
    if handoff.is_complete || options.confinement == Confinement::Unconfined || service == Service::Refusing {
        return Ok(None);
    }
    let (own, others): (OwnedFd, OwnedFd) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .or_cannot("connect to the process that writes to the repository")?;
    let numbers = format!("{number},{}", make_inheritable(&others)?);
    let arguments = [process_name().as_str(), BROKER_SUBCOMMAND, &numbers].map(CString::new);
    let arguments = arguments.into_iter().collect::<Result<_, _>>().map_err(std::io::Error::from)?;
    // This program, and not the supervisor's, which may be of another version.
    let program = open_own_program().or_cannot("open this program")?;
    ProgramArguments::new(arguments).start(&program).or_cannot("start the process that writes to the repository")?;
    Ok(Some(Arc::new(BrokerClient::new(own))))
}
