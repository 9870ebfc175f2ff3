//! `origin.toml` of a deployment: which commit it is, where it came from, and what it boots with. Also what the initramfs reads.

use serde::{Deserialize, Serialize};

use super::boot::{KernelRecord, title_of};
use super::id::DeploymentId;
use super::kargs::Kargs;
use crate::model::{CommitId, RefName};
use crate::remote::RemoteName;
use crate::trust::PublicKey;

/// Format version written by this program.
const VERSION: u32 = 1;

/// Who vouches for the commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Voucher {
    /// This key signed it.
    Signed(PublicKey),
    /// Nobody: its remote is one of which that was said when it was added.
    InsecureRemote,
    /// Nobody: it is a commit of this machine, and the user said so.
    Local,
}

/// Where upgrades come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Which remote of the repository.
    pub remote: RemoteName,
    /// Which ref there.
    pub name: RefName,
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

/// What a deployment is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Origin {
    /// Format version.
    pub version: u32,
    /// The commit.
    pub commit: CommitId,
    /// Where upgrades come from; nowhere for a commit of this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Upstream>,
    /// The ref the commit was made for.
    #[serde(rename = "ref")]
    pub ref_name: RefName,
    /// What the operating system calls itself.
    pub title: String,
    /// The version that the commit states.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// When the commit was made, in seconds since 1970.
    pub commit_time: i64,
    /// When the deployment was made, in seconds since 1970.
    pub deployed: i64,
    /// Whether it stays until it is unpinned.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pinned: bool,
    /// The deployment whose `/etc` it began with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merged_from: Option<DeploymentId>,
    /// Directories at the top of the image, other than `usr`, that hold something: to be mounted from the image too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<String>,
    /// The kernel arguments it boots with.
    pub kargs: Kargs,
    /// Those that its commit suggests.
    pub suggested_kargs: Kargs,
    /// Who vouches for the commit.
    pub voucher: Voucher,
    /// Its kernel.
    pub kernel: KernelRecord,
}

/// Why an origin cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// Not TOML, or not these keys.
    #[error(transparent)]
    Syntax(#[from] toml::de::Error),
    /// Made by a newer program.
    #[error("format version {0} is newer than this program's {VERSION}; upgrade sapwood")]
    Version(u32),
}

impl Origin {
    /// The version to write.
    pub const VERSION: u32 = VERSION;

    /// Reads an origin.
    ///
    /// # Errors
    /// [`OriginError`].
    pub fn parse(text: &str) -> Result<Self, OriginError> {
        let origin: Self = toml::from_str(text)?;
        if origin.version == VERSION { Ok(origin) } else { Err(OriginError::Version(origin.version)) }
    }

    /// The text that [`Self::parse`] reads.
    #[must_use]
    pub fn render(&self) -> String {
        toml::to_string(self).expect("plain fields have a TOML form")
    }

    /// What the boot menu shows.
    #[must_use]
    pub fn menu_title(&self, deployment: &DeploymentId) -> String {
        let version = self.os_version.as_deref().filter(|version| !self.title.contains(version));
        let version = version.map(|version| format!(" ({version})")).unwrap_or_default();
        title_of(&format!("{}{version} [{deployment}]", self.title))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn example() -> Origin {
        let key = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";
        Origin {
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
            voucher: Voucher::Signed(key.parse().expect("a key")),
            kernel: KernelRecord { version: "6.1".into(), digest: "00".into(), devicetree: None },
        }
    }

    #[test]
    fn an_origin_survives_its_file() {
        let mut origin = example();
        assert_eq!(Origin::parse(&origin.render()).expect("own output"), origin);
        origin.voucher = Voucher::Local;
        (origin.upstream, origin.os_version, origin.merged_from) = (None, None, None);
        assert_eq!(Origin::parse(&origin.render()).expect("own output"), origin);
        assert!(Origin::parse(&origin.render().replace("version = 1", "version = 2")).is_err());
    }

    #[test]
    fn titles_say_the_version_once() {
        let (mut origin, id) = (example(), "main/0123456789ab.0".parse().expect("legal"));
        assert_eq!(origin.menu_title(&id), "Debian GNU/Linux 12 (12.8) [main/0123456789ab.0]");
        origin.os_version = Some("12".into());
        assert_eq!(origin.menu_title(&id), "Debian GNU/Linux 12 [main/0123456789ab.0]");
        (origin.title, origin.os_version) = (" a\tb\n".into(), Some("1\n    LINUX /other".into()));
        assert_eq!(origin.menu_title(&id), "a b (1 LINUX /other) [main/0123456789ab.0]");
    }
}
