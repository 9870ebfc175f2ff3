//! Why a sysroot cannot be used.

use std::io;
use std::path::PathBuf;

use super::boot::BootError;
use super::config::SysrootConfigError;
use super::origin::OriginError;
use crate::disk::LockError;
use crate::store::OpenError;

/// Why a sysroot cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum SysrootError {
    /// There is none.
    #[error("{} is no sysroot", .0.display())]
    NotASysroot(PathBuf),
    /// There is one already.
    #[error("{} is a sysroot already", .0.display())]
    Exists(PathBuf),
    /// The settings cannot be used.
    #[error("cannot use {}", .path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<SysrootConfigError>,
    },
    /// The origin of a deployment cannot be used.
    #[error("cannot use {}", .path.display())]
    Origin {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<OriginError>,
    },
    /// A record cannot be understood.
    #[error("cannot understand {}", .path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<toml::de::Error>,
    },
    /// The repository.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The boot menu.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The lock.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// No deployment is called so.
    #[error("there is no deployment '{0}'")]
    NoDeployment(String),
    /// The system refused.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}
