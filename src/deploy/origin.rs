//! The origin of a deployment: reads and writes `origin.toml`, which says what commit it is, where the commit came from, and
//! what kernel and arguments it boots with.
//!
//! *Not here*: where the file is (`layout`).
//!
//! *Used by* most modules of `deploy`, and by `boot`: the initramfs reads the file, too.

use serde::{Deserialize, Serialize};

use super::boot::{KernelRecord, title_of};
use super::id::DeploymentId;
use super::kargs::Kargs;
use crate::model::{CommitId, RefName};
use crate::remote::RemoteName;
use crate::trust::PublicKey;

/// Format version written by this program.
const VERSION: u32 = 1;

/// The key that signed a commit, or the reason why a commit without a signature was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SignedBy {
    /// This trusted key signed the commit.
    #[serde(rename = "signed")]
    Key(PublicKey),
    /// The commit came from a remote that was added as one without signatures.
    InsecureRemote,
    /// The commit was made on this machine, and the user accepted it without a signature.
    Local,
}

/// A ref of a remote, from which upgrades come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Upstream {
    /// The remote, as the repository names it.
    pub(crate) remote: RemoteName,
    /// The ref at the remote.
    pub(crate) name: RefName,
}

impl std::fmt::Display for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.remote, self.name)
    }
}

impl std::str::FromStr for Upstream {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text
            .split_once(':')
            .and_then(|(remote, name)| Some(Self { remote: remote.parse().ok()?, name: name.parse().ok()? }));
        parsed.ok_or_else(|| format!("'{text}' is no REMOTE:REF"))
    }
}

impl Serialize for Upstream {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Upstream {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The content of `origin.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct DeploymentOrigin {
    /// Format version.
    pub(crate) version: u32,
    /// The commit.
    pub(crate) commit: CommitId,
    /// The remote ref from which upgrades come; `None` for a commit of this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) upstream: Option<Upstream>,
    /// The ref the commit was made for.
    #[serde(rename = "ref")]
    pub(crate) ref_name: RefName,
    /// The name that the operating system gives itself.
    pub(crate) title: String,
    /// The version that the commit states.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) os_version: Option<String>,
    /// When the commit was made, in seconds since 1970.
    pub(crate) commit_time: i64,
    /// When the deployment was made, in seconds since 1970.
    pub(crate) deployed: i64,
    /// Whether the deployment is kept until it is unpinned.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) pinned: bool,
    /// The deployment whose `/etc` was merged into this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) merged_from: Option<DeploymentId>,
    /// Non-empty directories at the top of the image, other than `usr`, which are mounted from the image too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) mounts: Vec<String>,
    /// The kernel arguments that the deployment boots with.
    pub(crate) kargs: Kargs,
    /// The kernel arguments that its commit suggests.
    pub(crate) suggested_kargs: Kargs,
    /// Why the commit was trusted when it was deployed.
    #[serde(rename = "voucher")]
    pub(crate) signed_by: SignedBy,
    /// The kernel of its commit.
    pub(crate) kernel: KernelRecord,
}

/// Why an origin cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// The text is not TOML or has other keys.
    #[error(transparent)]
    Syntax(#[from] toml::de::Error),
    /// The file was written by a newer program.
    #[error("format version {0} is newer than this program's {VERSION}; upgrade sapwood")]
    Version(u32),
}

impl DeploymentOrigin {
    /// The version to write.
    pub(crate) const VERSION: u32 = VERSION;

    /// Parses an origin.
    ///
    /// # Errors
    /// [`OriginError`].
    pub fn parse(text: &str) -> Result<Self, OriginError> {
        let origin: Self = toml::from_str(text)?;
        if origin.version == VERSION { Ok(origin) } else { Err(OriginError::Version(origin.version)) }
    }

    /// Returns the text that [`Self::parse`] reads.
    #[must_use]
    pub fn render(&self) -> String {
        toml::to_string(self).expect("plain fields have a TOML form")
    }

    /// Returns the title that the boot menu shows.
    pub(crate) fn menu_title(&self, deployment: &DeploymentId) -> String {
        let version = self.os_version.as_deref().filter(|version| !self.title.contains(version));
        let version = version.map(|version| format!(" ({version})")).unwrap_or_default();
        title_of(&format!("{}{version} [{deployment}]", self.title))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn example() -> DeploymentOrigin {
        let key = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";
        DeploymentOrigin {
            version: VERSION,
            commit: CommitId::of(b"x"),
            upstream: Some("os:debian/12".parse().expect("legal")),
            ref_name: "debian/12".parse().expect("legal"),
            title: "Debian GNU/Linux 12".into(),
            os_version: Some("12.8".into()),
            commit_time: 1,
            deployed: 2,
            pinned: true,
            merged_from: Some("main/0123456789ab.0".parse().expect("legal")),
            mounts: vec!["opt".into()],
            kargs: Kargs::parse("root=x quiet a=\"b c\""),
            suggested_kargs: Kargs::parse("quiet"),
            signed_by: SignedBy::Key(key.parse().expect("a key")),
            kernel: KernelRecord { version: "6.1".into(), digest: "00".into(), devicetree: None },
        }
    }

    #[test]
    fn origin_round_trips_through_its_file() {
        let mut origin = example();
        assert_eq!(DeploymentOrigin::parse(&origin.render()).expect("own output"), origin);
        origin.signed_by = SignedBy::Local;
        (origin.upstream, origin.os_version, origin.merged_from) = (None, None, None);
        assert_eq!(DeploymentOrigin::parse(&origin.render()).expect("own output"), origin);
        assert!(DeploymentOrigin::parse(&origin.render().replace("version = 1", "version = 2")).is_err());
    }

    #[test]
    fn menu_title_has_the_version_once() {
        let (mut origin, id) = (example(), "main/0123456789ab.0".parse().expect("legal"));
        assert_eq!(origin.menu_title(&id), "Debian GNU/Linux 12 (12.8) [main/0123456789ab.0]");
        origin.os_version = Some("12".into());
        assert_eq!(origin.menu_title(&id), "Debian GNU/Linux 12 [main/0123456789ab.0]");
        (origin.title, origin.os_version) = (" a\tb\n".into(), Some("1\n    LINUX /other".into()));
        assert_eq!(origin.menu_title(&id), "a b (1 LINUX /other) [main/0123456789ab.0]");
    }
}
