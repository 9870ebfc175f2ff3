//! How a stateroot and a deployment are called.

use std::fmt;
use std::str::FromStr;

use crate::model::{CommitId, RefName};

/// Hex digits of the commit in a deployment's name.
const COMMIT_DIGITS: usize = 12;

/// Longest name of a stateroot in bytes: it is part of kernel arguments and of titles.
const STATEROOT_MAX: usize = 64;

/// Why a text names no stateroot or deployment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeploymentIdError {
    /// Not a name for a stateroot.
    #[error("'{0}' cannot name a stateroot: up to {STATEROOT_MAX} letters, digits, '.', '_' and '-'")]
    Stateroot(String),
    /// Not of the form of a deployment's name.
    #[error("'{0}' is no deployment: expected STATEROOT/COMMIT.N, such as main/0123456789ab.0")]
    Deployment(String),
}

/// A named operating system on this machine: its deployments and its one `/var`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StaterootName(String);

impl StaterootName {
    /// The name as text; safe as the name of a directory.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for StaterootName {
    type Err = DeploymentIdError;

    fn from_str(text: &str) -> Result<Self, DeploymentIdError> {
        let is_one_part = !text.contains('/') && text.parse::<RefName>().is_ok();
        if is_one_part && text.len() <= STATEROOT_MAX {
            Ok(Self(text.to_owned()))
        } else {
            Err(DeploymentIdError::Stateroot(text.to_owned()))
        }
    }
}

impl fmt::Display for StaterootName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One deployment: a commit made bootable in a stateroot, told from others of the same commit by a number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeploymentId {
    stateroot: StaterootName,
    commit: String,
    serial: u32,
}

impl DeploymentId {
    /// The deployment number `serial` of `commit`.
    #[must_use]
    pub fn new(stateroot: StaterootName, commit: CommitId, serial: u32) -> Self {
        Self { stateroot, commit: commit.to_string()[..COMMIT_DIGITS].to_owned(), serial }
    }

    /// The stateroot it belongs to.
    #[must_use]
    pub const fn stateroot(&self) -> &StaterootName {
        &self.stateroot
    }

    /// The first digits of its commit.
    #[must_use]
    pub fn commit_digits(&self) -> &str {
        &self.commit
    }

    /// Its number among the deployments of the commit.
    #[must_use]
    pub const fn serial(&self) -> u32 {
        self.serial
    }

    /// The name of its directory in that of the stateroot.
    #[must_use]
    pub fn directory(&self) -> String {
        format!("{}.{}", self.commit, self.serial)
    }

    /// The deployment that a directory of a stateroot holds; `None` for other directories.
    #[must_use]
    pub fn from_directory(stateroot: &StaterootName, name: &str) -> Option<Self> {
        let (commit, serial) = name.split_once('.')?;
        let is_digits = commit.len() == COMMIT_DIGITS && commit.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let number: u32 = serial.parse().ok()?;
        let is_canonical = number.to_string() == serial;
        (is_digits && is_canonical).then(|| Self {
            stateroot: stateroot.clone(),
            commit: commit.to_owned(),
            serial: number,
        })
    }

    /// The local ref that keeps the commit from being collected.
    #[must_use]
    pub fn root_ref(&self) -> RefName {
        format!("{}/{self}", Self::ROOT_REFS).parse().expect("legal parts joined by '/' are a ref's name")
    }

    /// All refs of deployments begin with this part.
    pub const ROOT_REFS: &'static str = "deployments";
}

impl FromStr for DeploymentId {
    type Err = DeploymentIdError;

    fn from_str(text: &str) -> Result<Self, DeploymentIdError> {
        let parsed = text.split_once('/').and_then(|(stateroot, directory)| {
            let stateroot = stateroot.parse().ok()?;
            Self::from_directory(&stateroot, directory)
        });
        parsed.ok_or_else(|| DeploymentIdError::Deployment(text.to_owned()))
    }
}

impl fmt::Display for DeploymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}.{}", self.stateroot, self.commit, self.serial)
    }
}

macro_rules! serde_as_text {
    ($type:ty) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

serde_as_text!(StaterootName);
serde_as_text!(DeploymentId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment_survives_its_text_and_its_directory() {
        let stateroot: StaterootName = "main".parse().expect("legal");
        let id = DeploymentId::new(stateroot.clone(), CommitId::of(b"x"), 3);
        assert_eq!(id.to_string(), "main/2d711642b726.3");
        assert_eq!(id.to_string().parse(), Ok(id.clone()));
        assert_eq!(DeploymentId::from_directory(&stateroot, &id.directory()), Some(id.clone()));
        assert_eq!(id.root_ref().as_str(), "deployments/main/2d711642b726.3");
    }

    #[test]
    fn other_texts_are_no_deployments() {
        for bad in
            ["", "main", "main/2d711642b726", "main/2d711642b726.03", "main/2d711642b72G.0", "a/b/2d711642b726.0"]
        {
            assert!(bad.parse::<DeploymentId>().is_err(), "{bad}");
        }
        for bad in ["", ".", "a/b", "-a", &"x".repeat(65)] {
            assert!(bad.parse::<StaterootName>().is_err(), "{bad}");
        }
    }
}
