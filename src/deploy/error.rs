//! The error of opening, reading and locking a sysroot.
//!
//! *Used by* all modules of `deploy`, and by `cli` for its hints.

use std::io;
use std::path::PathBuf;

use super::boot::BootError;
use super::config::SysrootConfigError;
use super::origin::OriginError;
use crate::disk::LockError;
use crate::store::OpenError;

/// Why a sysroot cannot be created, opened or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SysrootError {
    /// The directory is not a sysroot.
    #[error("{} is no sysroot", .0.display())]
    NotASysroot(PathBuf),
    /// The directory is a sysroot already.
    #[error("{} is a sysroot already", .0.display())]
    Exists(PathBuf),
    /// The settings cannot be used.
    #[error("cannot use {}", .path.display())]
    Config { path: PathBuf, source: Box<SysrootConfigError> },
    /// The origin of a deployment cannot be used.
    #[error("cannot use {}", .path.display())]
    Origin { path: PathBuf, source: Box<OriginError> },
    /// A record cannot be understood.
    #[error("cannot understand {}", .path.display())]
    Record { path: PathBuf, source: Box<toml::de::Error> },
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The boot menu cannot be read.
    #[error(transparent)]
    Boot(#[from] BootError),
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The boot menu is empty, although there are deployments.
    #[error(
        "the boot menu has no entry of this sysroot, although something was deployed: is the right boot partition mounted?"
    )]
    LostMenu,
    /// No deployment has this name.
    #[error("there is no deployment '{0}'")]
    NoDeployment(String),
    #[error("cannot {action} {}", .path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}
