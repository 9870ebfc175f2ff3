//! The policy of an initramfs: which commits it boots, whatever the kernel's command line and the disk say.
//!
//! ```toml
//! version = 1
//! verify = "require"            # cannot be switched off by the command line
//! refs = ["debian/12/*"]        # a name, or the beginning of names and `*`; absent: every ref
//! minimum-sequence = 40         # older commits are refused
//! keys = ["3d40…"]              # beside those in /etc/sapwood/keys
//! signatures = 2                # how many keys have to sign; absent: one
//! allow-machine-key = false     # whether a signature by /etc/sapwood/machine.pub is enough
//! ```
//!
//! *Not here*: verifying signatures, see `verify`. *Invariants*: a policy that cannot be read or understood stops the boot;
//! without a policy nothing but the command line counts. *Used by* `cli::prepare_root` and `verify`.

use std::fs;
use std::io;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::command_line::SignatureCheck;
use crate::model::{Commit, RefName, RefPattern};
use crate::trust::PublicKey;

/// The version of the format that this program reads.
const VERSION: u32 = 1;

/// The values of a policy file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct BootPolicy {
    version: u32,
    #[serde(default)]
    verify: Option<VerifyWord>,
    #[serde(default)]
    refs: Option<Vec<RefPattern>>,
    #[serde(default)]
    minimum_sequence: u64,
    /// Trusted keys, beside those in the directory of keys.
    #[serde(default)]
    pub(crate) keys: Vec<PublicKey>,
    /// The number of trusted keys that have to sign; one unless given.
    #[serde(default)]
    pub(crate) signatures: Option<NonZeroU32>,
    /// Whether a signature by the machine's own key is enough.
    #[serde(default)]
    pub(crate) allow_machine_key: bool,
}

/// The value of `verify`. There is no other: what is not required is left to the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum VerifyWord {
    Require,
}

/// Why there is no policy, or why it does not allow a commit.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PolicyError {
    /// The file cannot be read.
    #[error("cannot read the policy {} of the initramfs", .path.display())]
    Read { path: PathBuf, source: io::Error },
    /// The file is not TOML or has other keys.
    #[error("the policy {} of the initramfs is not understood", .path.display())]
    Syntax { path: PathBuf, source: toml::de::Error },
    /// The file has another version.
    #[error("the policy {} of the initramfs has version {found}, and this program reads {VERSION}", .path.display())]
    Version { path: PathBuf, found: u32 },
    /// The commit was made for a ref that is not allowed.
    #[error("its commit was made for the ref {found}, and the policy of the initramfs allows {}", list(.allowed))]
    Ref { found: RefName, allowed: Vec<RefPattern> },
    /// The commit is too old.
    #[error("its commit has the sequence {found}, and the policy of the initramfs allows {minimum} and above")]
    Sequence { found: u64, minimum: u64 },
}

impl BootPolicy {
    /// Reads the policy in `path`. Without the file everything is allowed.
    pub(crate) fn read(path: &Path) -> Result<Self, PolicyError> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            other => other.map_err(|source| PolicyError::Read { path: path.to_owned(), source })?,
        };
        let policy: Self =
            toml::from_str(&text).map_err(|source| PolicyError::Syntax { path: path.to_owned(), source })?;
        if policy.version != VERSION {
            return Err(PolicyError::Version { path: path.to_owned(), found: policy.version });
        }
        Ok(policy)
    }

    /// Returns whether a signature is required, for a command line that says `asked`: each of both may require it.
    pub(crate) fn signature(&self, asked: SignatureCheck) -> SignatureCheck {
        if self.verify.is_some() { SignatureCheck::Required } else { asked }
    }

    /// Checks that the policy allows a verified commit.
    pub(crate) fn check(&self, commit: &Commit) -> Result<(), PolicyError> {
        let (name, sequence) = identity(commit);
        if let Some(allowed) = self.refs.as_ref().filter(|allowed| !allowed.iter().any(|one| one.matches(name))) {
            return Err(PolicyError::Ref { found: name.clone(), allowed: allowed.clone() });
        }
        if sequence < self.minimum_sequence {
            return Err(PolicyError::Sequence { found: sequence, minimum: self.minimum_sequence });
        }
        Ok(())
    }
}

/// Returns the ref and the sequence that a verified commit stands for: those in its own signed record.
fn identity(commit: &Commit) -> (&RefName, u64) {
    (&commit.ref_name, commit.sequence)
}

fn list(patterns: &[RefPattern]) -> String {
    patterns.iter().map(RefPattern::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests make files that need not be durable")]
mod tests {
    use super::*;
    use crate::model::ImageId;

    fn policy(text: &str) -> Result<BootPolicy, PolicyError> {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("policy.toml");
        fs::write(&path, text).expect("writable");
        BootPolicy::read(&path)
    }

    fn commit(ref_name: &str, sequence: u64) -> Commit {
        Commit {
            image: ImageId::of(b"image"),
            parent: None,
            ref_name: ref_name.parse().expect("legal"),
            sequence,
            timestamp: 0,
            subject: String::new(),
            version: None,
            entries: 1,
            content_bytes: 0,
            extra: std::collections::BTreeMap::new(),
        }
    }

    #[test]
    fn commits_of_other_refs_and_older_ones_are_refused() {
        let read = policy("version = 1\nrefs = [\"os/stable\", \"debian/*\"]\nminimum-sequence = 7\n").expect("legal");
        for good in ["os/stable", "debian/12"] {
            read.check(&commit(good, 7)).expect(good);
        }
        for bad in ["os/stable-debug", "os", "debian", "fedora"] {
            let refused = read.check(&commit(bad, 7)).expect_err(bad).to_string();
            assert!(refused.contains(bad) && refused.contains("os/stable, debian/*"), "{refused}");
        }
        let refused = read.check(&commit("os/stable", 6)).expect_err("older");
        assert!(matches!(refused, PolicyError::Sequence { found: 6, minimum: 7 }), "{refused}");
        let none = policy("version = 1\nrefs = []\n").expect("legal");
        assert!(none.check(&commit("os/stable", 1)).is_err(), "an empty list allows nothing");
    }

    #[test]
    fn command_line_cannot_switch_the_policys_check_off() {
        let required = policy("version = 1\nverify = \"require\"\n").expect("legal");
        assert_eq!(required.signature(SignatureCheck::NotRequired), SignatureCheck::Required);
        let silent = policy("version = 1\n").expect("legal");
        assert_eq!(silent.signature(SignatureCheck::NotRequired), SignatureCheck::NotRequired);
        assert_eq!(silent.signature(SignatureCheck::Required), SignatureCheck::Required);
    }

    #[test]
    fn missing_policy_allows_all_and_a_wrong_one_nothing() {
        let missing = BootPolicy::read(Path::new("/nonexistent/policy.toml")).expect("none");
        missing.check(&commit("any", 0)).expect("allowed");
        for wrong in
            ["", "version = 2", "version = 1\nverify = \"no\"", "version = 1\nref = [\"a\"]", "version = 1\nrefs = 3"]
        {
            assert!(policy(wrong).is_err(), "{wrong}");
        }
    }
}
