//! The hand-over between the processes of a mount: a description as JSON in an anonymous file, and the open descriptors whose
//! numbers it contains.
//!
//! *Invariants*: the description is versioned, since a program may take over a running mount from a newer or an older one. An
//! unknown field is ignored and a missing field has a default; only a change that an older program must not ignore needs a
//! new version. An unknown mount option is refused. Fields keep their serialised names.
//!
//! *Used by* the other files of this folder; the version also by `cli::mounts`.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use rustix::fs::MemfdFlags;

use super::log::LogKind;
use crate::cache::{ResolvedCommit, ResolvedRecord};
use crate::fuse::{MountOptions, OptionError};
use crate::model::{CommitId, ImageId, ImagePath, PathError};
use crate::remote::RemoteConfig;
use crate::sys;

/// The version that this program writes.
pub(crate) const VERSION: u32 = 2;

/// The versions that this program reads. In version 1 the options are the text that the user gave.
pub(crate) const VERSIONS: RangeInclusive<u32> = 1..=VERSION;

/// An error of reading a hand-over.
#[derive(Debug, thiserror::Error)]
pub enum HandoffError {
    /// The argument of the process is no number of a descriptor.
    #[error("the argument is no descriptor number")]
    DescriptorNumber(#[from] std::num::ParseIntError),
    /// The file cannot be read.
    #[error("cannot read the hand-over of the mount")]
    File(#[from] io::Error),
    /// It is no JSON, or lacks a field.
    #[error("cannot understand the hand-over of the mount")]
    Format(#[from] serde_json::Error),
    /// It has another version.
    #[error("the hand-over of the mount has version {0}, and this program knows version {VERSION}")]
    Version(u32),
}

/// The description of a mount for its processes.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Handoff {
    /// The version of the hand-over, [`VERSION`].
    pub(crate) version: u32,
    /// The name in the list of mounts.
    pub(crate) name: Option<String>,
    /// The mountpoint; raw bytes.
    pub(crate) mountpoint: Vec<u8>,
    /// The source as the user gave it.
    pub(crate) source: String,
    /// The path of the repository, for display only.
    pub(crate) repository: String,
    /// The time of mounting.
    pub(crate) since: String,
    pub(crate) options: HandedOptions,
    /// The directory of the commit that is mounted; raw bytes.
    pub(crate) subdir: Vec<u8>,
    /// The resolved commit.
    #[serde(rename = "visit")]
    pub(crate) resolved: ResolvedRecord,
    /// Whether the commit was complete when it was mounted.
    #[serde(rename = "is_whole")]
    pub(crate) is_complete: bool,
    /// The remote that has its missing parts.
    #[serde(default)]
    pub remote: Option<RemotePart>,
    /// Whether everything is to be fetched in the background; in version 2 one of the options.
    #[serde(default)]
    pub(crate) background_fill: bool,
    /// The text of the profile that is fetched first.
    #[serde(default)]
    pub(crate) profile: Option<Vec<u8>>,
    /// The name of the file into which reads are recorded; its directory is among the descriptors.
    #[serde(default)]
    pub(crate) record: Option<OsStringBytes>,
    /// The name of the file into which metrics are written; its directory is among the descriptors.
    #[serde(default)]
    pub(crate) metrics_file: Option<OsStringBytes>,
    /// The kind of the log.
    pub(crate) log: LogKind,
    /// The name of the file below `state/mounts` that protects the commit from garbage collection.
    #[serde(default)]
    pub(crate) root: Option<OsStringBytes>,
    /// The numbers of the descriptors.
    pub(crate) descriptors: FdTable,
}

/// The mount options.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[serde(untagged)]
pub(crate) enum HandedOptions {
    /// The parsed options.
    Value(Box<MountOptions>),
    /// The text that the user gave, in version 1.
    Text(String),
}

/// A remote with the settings that its serialised form leaves out.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct RemotePart {
    config: RemoteConfig,
    settings: std::collections::BTreeMap<String, String>,
}

/// A name that need not be UTF-8.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub(crate) struct OsStringBytes(Vec<u8>);

impl From<OsString> for OsStringBytes {
    fn from(name: OsString) -> Self {
        Self(name.into_encoded_bytes())
    }
}

impl OsStringBytes {
    pub(crate) fn to_os_string(&self) -> OsString {
        std::os::unix::ffi::OsStringExt::from_vec(self.0.clone())
    }
}

/// The numbers of the descriptors, which are the same in all processes of a mount.
#[derive(Debug, Clone, Copy, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub(crate) struct FdTable {
    /// The connection to the kernel.
    pub(crate) device: i32,
    /// An unused connection.
    #[serde(rename = "spare")]
    pub(crate) spare_device: Option<i32>,
    /// The directory with the kernel's counts of requests.
    pub(crate) connections: Option<i32>,
    /// The shared pages.
    #[serde(rename = "board")]
    pub(crate) shared: i32,
    pub(crate) program: i32,
    /// The directory of the repository.
    pub(crate) repository: i32,
    pub(crate) log: i32,
    /// Both ends of the pipe on which workers report that they are ready.
    pub(crate) ready: (i32, i32),
    /// Both ends of the pipe that wakes a worker when it may serve.
    pub(crate) go: (i32, i32),
    /// The file that protects the commit from garbage collection.
    pub(crate) root: Option<i32>,
    /// The file of the image, if the commit was complete when it was mounted.
    pub(crate) image: Option<i32>,
    /// The directory of the file into which reads are recorded.
    pub(crate) record: Option<i32>,
    /// The directory of the file into which metrics are written.
    pub(crate) metrics_file: Option<i32>,
    /// The socket on which metrics are served.
    pub(crate) metrics_listen: Option<i32>,
    /// The directory of the list of mounts, the lock, the control socket and the exchange socket.
    pub(crate) registry: Option<(i32, i32, i32, i32)>,
}

impl FdTable {
    /// Returns the numbers of all descriptors.
    pub(crate) fn numbers(self) -> impl Iterator<Item = i32> {
        let always = [self.device, self.shared, self.program, self.repository, self.log];
        let pipes = [self.ready.0, self.ready.1, self.go.0, self.go.1];
        let optional = [
            self.spare_device,
            self.connections,
            self.root,
            self.image,
            self.record,
            self.metrics_file,
            self.metrics_listen,
        ];
        let registry = self.registry.map(|(directory, lock, control, exchange)| [directory, lock, control, exchange]);
        always.into_iter().chain(pipes).chain(optional.into_iter().flatten()).chain(registry.into_iter().flatten())
    }
}

impl RemotePart {
    /// Creates the serialisable form of a remote.
    pub(crate) fn new(config: RemoteConfig) -> Self {
        Self { settings: config.transport.settings.clone(), config }
    }

    /// Returns the remote.
    pub fn config(&self) -> RemoteConfig {
        let mut config = self.config.clone();
        config.transport.settings.clone_from(&self.settings);
        config
    }
}

impl Handoff {
    /// Writes the description into an anonymous file.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub(crate) fn write(&self) -> io::Result<OwnedFd> {
        let file = rustix::fs::memfd_create("sapwood-handoff", MemfdFlags::empty())?;
        let mut file = File::from(file);
        file.write_all(&self.encode()?)?;
        Ok(file.into())
    }

    /// Reads the description from the file with this descriptor number, and returns the open file too.
    ///
    /// # Errors
    /// When the file contains no description that this program understands.
    pub(crate) fn read(number: &str) -> Result<(Self, OwnedFd), HandoffError> {
        let file = File::from(sys::inherited_descriptor(number.parse()?)?);
        let mut text = vec![0; usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX)];
        // Not from the file position, which all processes share.
        file.read_exact_at(&mut text, 0)?;
        Ok((Self::parse(&text)?, file.into()))
    }

    /// Parses a description.
    ///
    /// # Errors
    /// When the text is no description that this program understands.
    pub fn parse(text: &[u8]) -> Result<Self, HandoffError> {
        let handoff: Self = serde_json::from_slice(text)?;
        if VERSIONS.contains(&handoff.version) { Ok(handoff) } else { Err(HandoffError::Version(handoff.version)) }
    }

    /// Returns the text that [`Self::parse`] reads.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn encode(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(self)
    }

    /// Returns the mountpoint.
    pub fn mountpoint(&self) -> PathBuf {
        PathBuf::from(<OsString as std::os::unix::ffi::OsStringExt>::from_vec(self.mountpoint.clone()))
    }

    /// Returns the options.
    ///
    /// # Errors
    /// When they are a text with an option that this program does not know.
    pub fn options(&self) -> Result<MountOptions, OptionError> {
        match &self.options {
            HandedOptions::Value(options) => Ok(MountOptions::clone(options)),
            HandedOptions::Text(text) => MountOptions::parse(text),
        }
    }

    /// Returns the commit that is mounted, and its image, without opening the repository.
    ///
    /// # Errors
    /// When this program does not understand the description.
    pub(crate) fn commit_and_image(&self) -> io::Result<(CommitId, ImageId)> {
        let resolved = ResolvedCommit::from_record(&self.resolved, None)?;
        Ok((resolved.id(), resolved.commit().image))
    }

    /// Parses the directory of the commit that is mounted.
    ///
    /// # Errors
    /// When it is no path in an image.
    pub fn subdir(&self) -> Result<ImagePath, PathError> {
        ImagePath::parse(&self.subdir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a program of version 1 handed on.
    const VERSION_1: &[u8] = include_bytes!("../../tests/golden/handoff-1.json");

    #[test]
    fn hand_over_of_version_1_is_read() {
        let handoff = Handoff::parse(VERSION_1).expect("known");
        assert_eq!((handoff.version, handoff.mountpoint()), (1, PathBuf::from("/tmp/gh/m")));
        let expected = MountOptions::parse("allow_other,suid,fetch-timeout=5,profile=none,subdir=/").expect("legal");
        assert_eq!(handoff.options().expect("known"), expected);
        assert!(!handoff.is_complete && handoff.remote.is_some());
    }

    #[test]
    fn options_travel_as_a_value_and_unknown_ones_are_refused() {
        let mut handoff = Handoff::parse(VERSION_1).expect("known");
        let options = MountOptions::parse("passthrough,watchdog=7,metrics-file=/run/m").expect("legal");
        (handoff.version, handoff.options) = (VERSION, HandedOptions::Value(Box::new(options.clone())));
        let text = String::from_utf8(handoff.encode().expect("enough memory")).expect("JSON");
        assert_eq!(Handoff::parse(text.as_bytes()).expect("known").options().expect("known"), options);
        let newer = text.replace("\"options\":{", "\"options\":{\"unknown\":1,");
        assert!(matches!(Handoff::parse(newer.as_bytes()), Err(HandoffError::Format(_))));
        let newer = text.replace("\"version\":2", "\"version\":3");
        let error = Handoff::parse(newer.as_bytes()).expect_err("unknown").to_string();
        assert_eq!(error, "the hand-over of the mount has version 3, and this program knows version 2");
    }
}
