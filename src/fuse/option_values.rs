//! The types of mount options that are more than a number or a path.
//!
//! *Not here*: the options themselves and their parser (`options`). *Used by* `options`, which hands these names on.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The way in which the kernel reads the content of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum MountMode {
    /// The kernel asks once and caches pages, names and attributes; opening a file costs no message.
    #[default]
    Cached,
    /// The kernel reads object files itself; opening a file costs two messages.
    Passthrough,
}

impl MountMode {
    /// Returns the name of the mode.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Cached => "cached",
            Self::Passthrough => "passthrough",
        }
    }
}

/// Whether setuid bits and file capabilities have an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SetUid {
    /// `nosuid`.
    #[default]
    Ignored,
    /// `suid`.
    Honoured,
}

/// Whether device nodes open devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum DeviceNodes {
    /// `nodev`.
    #[default]
    Ignored,
    /// `dev`.
    Honoured,
}

/// Whether programs can be executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Programs {
    /// `exec`.
    #[default]
    Run,
    /// `noexec`.
    Refused,
}

/// The action that the options request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Action {
    /// Make a new mount.
    #[default]
    Mount,
    /// `remount`: change the flags of an existing mount.
    Remount,
}

/// The profile, a list of contents that are fetched before they are read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ProfileOption {
    /// The publisher's profile, fetched as soon as some file is read.
    #[default]
    WhenReading,
    /// `auto`: the publisher's profile, fetched at once.
    Auto,
    /// `none`: no profile.
    None,
    /// The profile in a file, fetched at once.
    File(PathBuf),
}

impl ProfileOption {
    /// Returns what the value of `profile=` means.
    pub(super) fn parse(value: &str) -> Self {
        match value {
            "auto" => Self::Auto,
            "none" => Self::None,
            file => Self::File(file.into()),
        }
    }
}

/// Whether the kernel is asked to resend the messages that a dead worker had read and not replied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Resend {
    /// If the kernel can (Linux 6.9).
    #[default]
    IfPossible,
    /// `noresend`: never, to test the behaviour on kernels that cannot.
    Never,
}

/// Whether a worker is confined to a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Confinement {
    /// As far as the kernel supports it.
    #[default]
    Sandboxed,
    /// `nosandbox`: no sandbox.
    Unconfined,
}

/// The users who may access the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum AllowedUsers {
    /// Only the user who made the mount.
    #[default]
    MountingUser,
    /// `allow_other`: all users, subject to the permissions of the files.
    All,
}

/// How an optional path is serialized: as its bytes, since a path need not be UTF-8.
pub(super) mod path_bytes {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
    use std::path::PathBuf;

    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    #[expect(clippy::ref_option, reason = "serde passes the field")]
    pub(in crate::fuse) fn serialize<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
        path.as_ref().map(|path| path.as_os_str().as_bytes()).serialize(serializer)
    }

    pub(in crate::fuse) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<PathBuf>, D::Error> {
        let bytes = Option::<Vec<u8>>::deserialize(deserializer)?;
        Ok(bytes.map(|bytes| OsString::from_vec(bytes).into()))
    }
}
