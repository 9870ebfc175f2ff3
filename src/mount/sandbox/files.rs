//! Restricts the files that a worker can open, by Landlock (Linux 5.13), and the ports that it can connect to (Linux 6.7). Open
//! descriptors are not affected. Landlock knows no addresses.
//!
//! A kernel before 5.19 forbids renames between directories as soon as anything is restricted. The repository needs such
//! renames, so files are not restricted there.
//!
//! *Used by* the other files of this folder, and `confine`.

use std::os::fd::OwnedFd;
use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, NetPort, PathBeneath, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
};
use rustix::fs::{Mode, OFlags};

/// The newest Landlock version whose rights are used. An older kernel enforces those that it knows.
const NEWEST_ABI: ABI = ABI::V6;

/// The oldest Landlock version that supports renames between directories.
const OLDEST_ABI: ABI = ABI::V2;

/// A file or directory that may be opened, with the rights to it.
#[derive(Debug)]
pub(crate) struct FileAccess {
    descriptor: OwnedFd,
    rights: BitFlags<AccessFs>,
}

/// An error of restricting files.
#[derive(Debug, thiserror::Error)]
pub(super) enum FilesError {
    #[error(transparent)]
    Ruleset(#[from] RulesetError),
    #[error("this kernel does not support it")]
    Unknown,
}

impl FileAccess {
    /// Allows reading the file, or all files below the directory, at `path`. Returns `None` if it does not exist or cannot be
    /// opened.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        Self::open(path).map(Self::read_descriptor)
    }

    /// Allows reading an open file, or all files below an open directory.
    pub(crate) fn read_descriptor(descriptor: OwnedFd) -> Self {
        Self { descriptor, rights: AccessFs::ReadFile | AccessFs::ReadDir }
    }

    /// Allows reading, and opening for execution as backing files: the kernel opens a backing file with this worker's rights,
    /// so without this one no program could be executed in passthrough mode. The worker itself can execute none (`calls`).
    pub(crate) fn read_and_execute_descriptor(descriptor: OwnedFd) -> Self {
        Self { descriptor, rights: AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::Execute }
    }

    /// Allows everything in a directory except executing programs and making device nodes.
    pub(crate) fn write_descriptor(descriptor: OwnedFd) -> Self {
        let made = AccessFs::MakeReg | AccessFs::MakeDir | AccessFs::RemoveFile | AccessFs::RemoveDir;
        let rights = AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::WriteFile | AccessFs::Truncate;
        Self { descriptor, rights: rights | made | AccessFs::Refer }
    }

    fn open(path: &Path) -> Option<OwnedFd> {
        rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()
    }
}

/// Forbids this thread, and those it will start, to open anything but `allowed`, to bind TCP ports, to connect to TCP ports but
/// `ports` or to abstract local sockets, and to send signals to other processes.
pub(super) fn restrict(allowed: &[FileAccess], ports: &[u16]) -> Result<(), FilesError> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(OLDEST_ABI))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST_ABI))?
        .handle_access(AccessNet::BindTcp | AccessNet::ConnectTcp)?
        .scope(Scope::Signal | Scope::AbstractUnixSocket)?
        .create()?;
    for access in allowed {
        let is_directory = rustix::fs::fstat(&access.descriptor)
            .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory);
        // A rule for a file must not contain rights that exist only for directories.
        let rights = if is_directory { access.rights } else { access.rights & AccessFs::from_file(NEWEST_ABI) };
        ruleset = ruleset.add_rule(PathBeneath::new(&access.descriptor, rights))?;
    }
    for port in ports {
        ruleset = ruleset.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
    }
    match ruleset.restrict_self()?.ruleset {
        RulesetStatus::NotEnforced => Err(FilesError::Unknown),
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn only_named_ports_can_be_connected_to() {
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("loopback"));
        let [allowed, other] = listeners.each_ref().map(|listener| listener.local_addr().expect("bound"));
        let confined = std::thread::spawn(move || {
            rustix::thread::set_no_new_privs(true).expect("every thread may give up privileges");
            restrict(&[], &[allowed.port()]).expect("this kernel has Landlock");
            let bound = TcpListener::bind("127.0.0.1:0").map(drop);
            [TcpStream::connect(allowed).map(drop), TcpStream::connect(other).map(drop), bound]
        });
        let [to_allowed, to_other, bound] = confined.join().expect("no panic");
        assert!(to_allowed.is_ok(), "{to_allowed:?}");
        for refused in [to_other, bound] {
            assert_eq!(refused.expect_err("not allowed").kind(), ErrorKind::PermissionDenied);
        }
    }
}
