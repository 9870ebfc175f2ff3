//! The names of stateroots and deployments: parsing, printing, and the directory and ref that belong to a name.
//!
//! *Not here*: the paths of the directories (`layout`). Which number a new deployment gets is decided in `plan`.
//!
//! *Used by* all modules of `deploy`, by `boot` and `cli`.

use std::fmt;
use std::str::FromStr;

use crate::model::{CommitId, RefName};
use crate::store::StoreLayout;

/// Number of hexadecimal digits of the commit in a deployment's name.
const COMMIT_DIGITS: usize = 12;

/// The longest name of a stateroot in bytes: the name is part of kernel arguments and of menu titles.
const STATEROOT_BYTES_MAX: usize = 64;

/// Why a text names no stateroot or deployment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeploymentIdError {
    /// The text cannot name a stateroot.
    #[error("'{0}' cannot name a stateroot: up to {STATEROOT_BYTES_MAX} letters, digits, '.', '_' and '-'")]
    Stateroot(String),
    /// The text does not have the form of a deployment's name.
    #[error("'{0}' is no deployment: expected STATEROOT/COMMIT.N, such as main/0123456789ab.0")]
    Deployment(String),
}

/// The name of a stateroot: an operating system on this machine, with its deployments and its one `/var`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StaterootName(String);

impl StaterootName {
    /// Returns the name as text. It is safe to use as the name of a directory.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for StaterootName {
    type Err = DeploymentIdError;

    fn from_str(text: &str) -> Result<Self, DeploymentIdError> {
        let is_one_part = !text.contains('/') && text.parse::<RefName>().is_ok();
        if is_one_part && text.len() <= STATEROOT_BYTES_MAX {
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

/// The name of a deployment: its stateroot, its commit, and a number among the deployments of the same commit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeploymentId {
    stateroot: StaterootName,
    commit: String,
    serial: u32,
}

impl DeploymentId {
    /// Returns the name of the deployment number `serial` of `commit`.
    pub(crate) fn new(stateroot: StaterootName, commit: CommitId, serial: u32) -> Self {
        Self { stateroot, commit: commit.to_string()[..COMMIT_DIGITS].to_owned(), serial }
    }

    /// Returns the stateroot that the deployment belongs to.
    pub(crate) const fn stateroot(&self) -> &StaterootName {
        &self.stateroot
    }

    /// Returns the first [`COMMIT_DIGITS`] digits of the commit.
    pub(crate) fn commit_digits(&self) -> &str {
        &self.commit
    }

    /// Returns the number among the deployments of the commit.
    pub(crate) const fn serial(&self) -> u32 {
        self.serial
    }

    /// Returns the name of the deployment's directory below that of the stateroot.
    pub(crate) fn directory(&self) -> String {
        format!("{}.{}", self.commit, self.serial)
    }

    /// Returns the deployment that the directory `name` of a stateroot holds; `None` for other directories.
    pub(crate) fn from_directory(stateroot: &StaterootName, name: &str) -> Option<Self> {
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

    /// Returns the local ref that keeps the commit from being collected.
    pub(crate) fn root_ref(&self) -> RefName {
        format!("{}/{self}", Self::ROOT_REFS).parse().expect("legal parts joined by '/' are a ref's name")
    }

    /// The first part of the names of all refs that deployments have.
    pub(crate) const ROOT_REFS: &'static str = StoreLayout::DEPLOYMENT_REFS;
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
    fn deployment_round_trips_through_text_and_directory() {
        let stateroot: StaterootName = "main".parse().expect("legal");
        let id = DeploymentId::new(stateroot.clone(), CommitId::of(b"x"), 3);
        assert_eq!(id.to_string(), "main/2d711642b726.3");
        assert_eq!(id.to_string().parse(), Ok(id.clone()));
        assert_eq!(DeploymentId::from_directory(&stateroot, &id.directory()), Some(id.clone()));
        assert_eq!(id.root_ref().as_str(), "deployments/main/2d711642b726.3");
    }

    #[test]
    fn malformed_names_are_refused() {
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
