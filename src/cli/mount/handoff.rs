//! What the processes of a mount hand on to one another: a description in an anonymous file, and open descriptors under the
//! numbers that it gives.
//!
//! Versioned, since a program may take a running mount over from a newer or an older one: what is unknown is ignored, what is
//! missing has a default, and only something that an older program must not ignore makes another version.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use rustix::fs::MemfdFlags;
use rustix::io::FdFlags;

use super::log::LogKind;
use crate::cache::VisitRecord;
use crate::fuse::MountOptions;
use crate::model::ImagePath;
use crate::remote::RemoteConfig;
use crate::sys;

/// The version that this program writes, and the only one that it reads.
pub const VERSION: u32 = 1;

/// The program itself is copied to memory if it lies on a filesystem of this type: it could be on the mount that it serves.
const FUSE_SUPER_MAGIC: i64 = 0x6573_5546;

/// A mount, for whoever is to serve it.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Handoff {
    /// `VERSION`.
    pub version: u32,
    /// The name in the list of mounts.
    pub name: Option<String>,
    /// Where; raw bytes.
    pub mountpoint: Vec<u8>,
    /// What, as the user named it.
    pub source: String,
    /// The repository, for people.
    pub repository: String,
    /// When it was mounted.
    pub since: String,
    /// The options, as given.
    pub options: String,
    /// The directory that is shown; raw bytes.
    pub subdir: Vec<u8>,
    /// The commit.
    pub visit: VisitRecord,
    /// Whether all of the commit was here when it was mounted.
    pub is_whole: bool,
    /// Where its missing parts are.
    #[serde(default)]
    pub remote: Option<RemotePart>,
    /// Whether everything is to be fetched.
    #[serde(default)]
    pub background_fill: bool,
    /// The text of the file that says what is fetched first.
    #[serde(default)]
    pub profile: Option<Vec<u8>>,
    /// The name of the file into which it is written what is read; its directory is among the descriptors.
    #[serde(default)]
    pub record: Option<OsStringBytes>,
    /// The name of the file into which figures are written; its directory is among the descriptors.
    #[serde(default)]
    pub metrics_file: Option<OsStringBytes>,
    /// What is at the other end of the log.
    pub log: LogKind,
    /// The file below `state/mounts` that protects the commit.
    #[serde(default)]
    pub root: Option<OsStringBytes>,
    /// The numbers of the descriptors.
    pub descriptors: Numbers,
}

/// A remote, with what its own form leaves out.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct RemotePart {
    config: RemoteConfig,
    settings: std::collections::BTreeMap<String, String>,
}

/// A name that need not be UTF-8.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct OsStringBytes(Vec<u8>);

impl From<OsString> for OsStringBytes {
    fn from(name: OsString) -> Self {
        Self(name.into_encoded_bytes())
    }
}

impl OsStringBytes {
    /// The name.
    pub fn get(&self) -> OsString {
        std::os::unix::ffi::OsStringExt::from_vec(self.0.clone())
    }
}

/// Descriptors by number. All processes of a mount have them under the same ones.
#[derive(Debug, Clone, Copy, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Numbers {
    /// The connection to the kernel.
    pub device: i32,
    /// An unused one.
    pub spare: Option<i32>,
    /// Where the kernel counts requests.
    pub connections: Option<i32>,
    /// The shared pages.
    pub board: i32,
    /// The program.
    pub program: i32,
    /// The directory of the repository.
    pub repository: i32,
    /// The log.
    pub log: i32,
    /// Both ends of the pipe on which workers say that they are ready.
    pub ready: (i32, i32),
    /// Both ends of the pipe on which they hear that they may begin.
    pub go: (i32, i32),
    /// What protects the commit.
    pub root: Option<i32>,
    /// The image, if all of the commit was here when it was mounted.
    pub image: Option<i32>,
    /// The directory of the file into which it is written what is read.
    pub record: Option<i32>,
    /// The directory of the file into which figures are written.
    pub metrics_file: Option<i32>,
    /// The socket on which figures are told.
    pub metrics_listen: Option<i32>,
    /// The directory of the list of mounts, the lock, and the sockets.
    pub registry: Option<(i32, i32, i32, i32)>,
}

impl RemotePart {
    /// Of this remote.
    pub fn new(config: RemoteConfig) -> Self {
        Self { settings: config.transport.settings.clone(), config }
    }

    /// The remote again.
    pub fn get(&self) -> RemoteConfig {
        let mut config = self.config.clone();
        config.transport.settings.clone_from(&self.settings);
        config
    }
}

impl Handoff {
    /// Writes it into an anonymous file.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn write(&self) -> Result<OwnedFd> {
        let file = rustix::fs::memfd_create("sapwood-handoff", MemfdFlags::empty()).map_err(io::Error::from)?;
        let mut file = File::from(file);
        file.write_all(&self.encode()?)?;
        Ok(file.into())
    }

    /// Reads it from the file of this number, which stays open.
    ///
    /// # Errors
    /// When it is none that this program understands.
    pub fn read(number: &str) -> Result<(Self, OwnedFd)> {
        let descriptor = sys::inherited(number.parse().context("no number of a descriptor")?)?;
        let file = File::from(descriptor);
        let mut text = vec![0; usize::try_from(file.metadata()?.len())?];
        // Not from the position in the file, which all processes share.
        file.read_exact_at(&mut text, 0)?;
        Ok((Self::parse(&text)?, file.into()))
    }

    /// Reads a description.
    ///
    /// # Errors
    /// When it is none that this program understands.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let handoff: Self = serde_json::from_slice(text).context("cannot understand what was handed on")?;
        if handoff.version != VERSION {
            bail!("a mount of version {} was handed on, and this program knows version {VERSION}", handoff.version);
        }
        Ok(handoff)
    }

    /// Returns the text that [`Self::parse`] reads.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn encode(&self) -> Result<Vec<u8>> {
        Ok(serde_json::to_vec(self)?)
    }

    /// Where it is mounted.
    pub fn mountpoint(&self) -> PathBuf {
        PathBuf::from(<OsString as std::os::unix::ffi::OsStringExt>::from_vec(self.mountpoint.clone()))
    }

    /// The options.
    ///
    /// # Errors
    /// When this program does not know one of them.
    pub fn options(&self) -> Result<MountOptions> {
        Ok(MountOptions::parse(&self.options)?)
    }

    /// The directory that is shown.
    ///
    /// # Errors
    /// When it is no path.
    pub fn subdir(&self) -> Result<ImagePath> {
        Ok(ImagePath::parse(&self.subdir)?)
    }
}

/// Makes descriptors that are to be handed on: inherited by whatever is started from now on, and kept until the end.
pub fn hand_on(descriptor: impl AsFd) -> Result<i32> {
    rustix::io::fcntl_setfd(&descriptor, FdFlags::empty()).map_err(io::Error::from)?;
    Ok(descriptor.as_fd().as_raw_fd())
}

/// The descriptor of this number, which nothing that this process starts is to have.
///
/// # Errors
/// When there is none.
pub fn take(number: i32) -> Result<OwnedFd> {
    let descriptor = sys::inherited(number)?;
    rustix::io::fcntl_setfd(&descriptor, FdFlags::CLOEXEC).map_err(io::Error::from)?;
    Ok(descriptor)
}

/// Another descriptor for what this number means, which stays what it is.
///
/// # Errors
/// When there is none, or there are too many.
pub fn copy(number: i32) -> Result<OwnedFd> {
    let original = sys::inherited(number)?;
    let copy = original.try_clone();
    let _: i32 = std::os::fd::IntoRawFd::into_raw_fd(original);
    Ok(copy?)
}

/// This program, to be started again when there may be no path to it.
///
/// # Errors
/// When it cannot be opened.
pub fn own_program() -> Result<OwnedFd> {
    let file = File::open("/proc/self/exe").context("cannot open this program")?;
    let kind = rustix::fs::fstatfs(&file).map_err(io::Error::from)?.f_type;
    if kind as i64 == FUSE_SUPER_MAGIC { copy_to_memory(file.as_fd()) } else { Ok(file.into()) }
}

fn copy_to_memory(file: BorrowedFd<'_>) -> Result<OwnedFd> {
    let mut copy = File::from(rustix::fs::memfd_create("sapwood", MemfdFlags::CLOEXEC).map_err(io::Error::from)?);
    io::copy(&mut File::from(file.try_clone_to_owned()?), &mut copy).context("cannot copy this program to memory")?;
    Ok(copy.into())
}
