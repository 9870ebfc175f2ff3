//! Resolves the text by which a user names a commit: a ref, an id or the start of one, then `^` and `~N` for ancestors.
//!
//! *Not here*: the full syntax of SOURCE with paths and remotes (`cli`).
//!
//! *Used by* `cli`, `compose` and `deploy`.

use std::borrow::Cow;
use std::fs;
use std::io;

use super::open::Store;
use super::refs::RefError;
use super::source::ReadError;
use crate::model::{CommitId, RefName};

/// Shortest accepted start of a commit id in hex digits.
const PREFIX_MIN: usize = 6;

/// Why a text names no commit.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The text is neither a ref nor a commit.
    #[error("there is no ref or commit '{spec}'")]
    Unknown {
        /// The text.
        spec: String,
        /// Refs with a similar name.
        similar: Vec<RefName>,
    },
    /// More than one commit id starts with these digits.
    #[error("'{prefix}' is the start of {} commits: {}", .ids.len(), list(.ids))]
    Ambiguous {
        /// The given digits.
        prefix: String,
        /// The commits.
        ids: Vec<CommitId>,
    },
    /// The start of a commit id is too short.
    #[error("'{0}' is no ref and too short for a commit id: at least {PREFIX_MIN} digits are needed")]
    TooShort(String),
    /// The text after the ref or commit is not made of `^` and `~N`.
    #[error("cannot understand '{0}': after a ref or commit only '^' and '~N' may follow")]
    Suffix(String),
    /// The history has fewer commits than the text needs.
    #[error("commit {id} has no parent, so '{spec}' does not exist")]
    NoParent {
        /// The first commit.
        id: CommitId,
        /// The text.
        spec: String,
    },
    /// A ref could not be read.
    #[error(transparent)]
    Ref(#[from] RefError),
    /// A commit of the history could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The commits could not be listed.
    #[error("cannot list the commits of the repository")]
    List(#[source] io::Error),
}

fn list(ids: &[CommitId]) -> String {
    ids.iter().map(CommitId::short).collect::<Vec<_>>().join(", ")
}

impl Store {
    /// Returns the commit that `spec` names: a ref, a remote's ref (`REMOTE:REF`) as of the last pull, a full commit id or a
    /// unique start of at least 6 digits, followed by any number of `^` (parent) and `~N` (N-th ancestor). A ref has precedence
    /// over an id with the same spelling.
    ///
    /// # Errors
    /// [`ResolveError`].
    pub fn resolve(&self, spec: &str) -> Result<CommitId, ResolveError> {
        let (base, suffix) = spec.split_at(spec.find(['^', '~']).unwrap_or(spec.len()));
        let mut id = self.resolve_base(base)?;
        for _ in 0..generations(suffix).ok_or_else(|| ResolveError::Suffix(spec.to_owned()))? {
            id = self.commit(id)?.parent.ok_or_else(|| ResolveError::NoParent { id, spec: spec.to_owned() })?;
        }
        Ok(id)
    }

    fn resolve_base(&self, base: &str) -> Result<CommitId, ResolveError> {
        if let Ok(name) = local_name(base).parse::<RefName>()
            && let Some(id) = self.read_ref(&name)?
        {
            return Ok(id);
        }
        if let Ok(id) = base.parse() {
            return Ok(id);
        }
        let is_hex = !base.is_empty() && base.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !is_hex {
            return self.unknown(base);
        }
        if base.len() < PREFIX_MIN {
            return Err(ResolveError::TooShort(base.to_owned()));
        }
        let mut ids = self.commits_starting_with(base).map_err(ResolveError::List)?;
        match (ids.pop(), ids.is_empty()) {
            (None, _) => self.unknown(base),
            (Some(id), true) => Ok(id),
            (Some(id), false) => {
                ids.push(id);
                Err(ResolveError::Ambiguous { prefix: base.to_owned(), ids })
            }
        }
    }

    fn unknown(&self, base: &str) -> Result<CommitId, ResolveError> {
        let mut similar = self.ref_names()?;
        let wanted = local_name(base);
        similar.retain(|name| is_similar(name.as_str(), &wanted));
        Err(ResolveError::Unknown { spec: base.to_owned(), similar })
    }

    fn commits_starting_with(&self, prefix: &str) -> io::Result<Vec<CommitId>> {
        Ok(self.commit_ids()?.into_iter().filter(|id| id.to_string().starts_with(prefix)).collect())
    }

    /// Returns all commits in the repository, whether a ref leads to them or not, in ascending order.
    ///
    /// # Errors
    /// Those of listing a directory.
    pub(crate) fn commit_ids(&self) -> io::Result<Vec<CommitId>> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(self.layout().commits())? {
            if let Some(id) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
                ids.push(id);
            }
        }
        ids.sort();
        Ok(ids)
    }
}

/// Returns the local name of a remote's ref: `remotes/debian/12` for `debian:12`. Other names are unchanged.
fn local_name(base: &str) -> Cow<'_, str> {
    match base.split_once(':') {
        Some((remote, name)) => format!("remotes/{remote}/{name}").into(),
        None => base.into(),
    }
}

/// Returns whether a user who wrote `wanted` may have meant the ref `name`: one contains the other, and they share a part or
/// at least three letters.
fn is_similar(name: &str, wanted: &str) -> bool {
    let [shorter, longer] = if name.len() < wanted.len() { [name, wanted] } else { [wanted, name] };
    longer.contains(shorter) && (shorter.len() >= 3 || longer.split('/').any(|part| part == shorter))
}

/// Returns how many generations back a suffix such as `^^~3` goes; `None` if it is malformed.
fn generations(mut suffix: &str) -> Option<u64> {
    let mut total = 0_u64;
    while !suffix.is_empty() {
        if let Some(rest) = suffix.strip_prefix('^') {
            (total, suffix) = (total.checked_add(1)?, rest);
        } else {
            let rest = suffix.strip_prefix('~')?;
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let step = if digits == 0 { 1 } else { rest[..digits].parse().ok()? };
            (total, suffix) = (total.checked_add(step)?, &rest[digits..]);
        }
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refs_of_remotes_have_a_local_name() {
        assert_eq!(local_name("debian:12/server"), "remotes/debian/12/server");
        assert_eq!(local_name("main"), "main");
    }

    #[test]
    fn refs_that_share_a_letter_are_not_similar() {
        for (name, wanted, expected) in [
            ("p", "t/nope", false),
            ("debian/12", "debian", true),
            ("debian/12", "12", true),
            ("main", "main/x", true),
            ("main", "", false),
            ("main", "in", false),
        ] {
            assert_eq!(is_similar(name, wanted), expected, "{name} {wanted}");
        }
    }

    #[test]
    fn suffixes_count_generations() {
        for (suffix, steps) in [("", Some(0)), ("^", Some(1)), ("^^", Some(2)), ("~3", Some(3)), ("~", Some(1))] {
            assert_eq!(generations(suffix), steps, "{suffix}");
        }
        for (suffix, steps) in [("^~2^", Some(4)), ("~x", None), ("^2", None), ("~99999999999999999999", None)] {
            assert_eq!(generations(suffix), steps, "{suffix}");
        }
    }
}
