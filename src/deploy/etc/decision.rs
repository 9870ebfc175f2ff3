//! The results of a merge of `/etc`: the decision about each path, and the planned tree.
//!
//! *Not here*: making the decisions (`plan`), carrying them out (`apply`), and recording them (`journal`).
//!
//! *Used by* the other modules of `etc`, by `deploy` and `cli`.

use std::collections::BTreeMap;

use super::item::{Body, EtcPath, Item};
use crate::image::Aspect;
use crate::model::ObjectId;
use crate::store::ReadError;

/// The suffix of the name under which a default is written beside a local entry of another kind.
pub(crate) const SIDECAR_SUFFIX: &[u8] = b".sapwood-new";

/// Why a content that a merge needs cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContentError {
    /// The content is not in the repository: the plan is for a commit that was not fetched yet.
    #[error("the content of an entry is not fetched")]
    NotFetched,
    /// A file of the local tree cannot be read.
    #[error("cannot read '{path}'")]
    Local {
        /// The path below `/etc`.
        path: String,
        source: std::io::Error,
    },
    /// An object of the repository cannot be read.
    #[error(transparent)]
    Object(#[from] ReadError),
}

/// Reads the contents that a merge needs.
pub(crate) trait ContentReader {
    /// Reads a file of the local tree.
    fn read_local(&self, path: &[u8]) -> Result<Vec<u8>, ContentError>;

    /// Reads the content of a default.
    fn read_object(&self, id: ObjectId, size: u64) -> Result<Vec<u8>, ContentError>;
}

/// How an entry of the local tree or of the new defaults differs from the old defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Difference {
    /// The entry is the same.
    Same,
    /// Only the newer tree has the entry.
    Added,
    /// Both trees have the entry, and it differs.
    Changed,
    /// Only the old defaults have the entry.
    Deleted,
}

/// The result of a merge for one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum MergeOutcome {
    /// Both sides changed the entry differently: the local version is kept.
    Conflict,
    /// Both sides changed the entry to different kinds: the local one is kept, and the default is written beside it.
    TypeConflict,
    /// Changed locally and removed from the defaults: kept.
    KeptWithoutDefault,
    /// Deleted locally and changed in the defaults: stays deleted.
    StaysDeleted,
    /// New in the defaults, in a directory that was deleted locally: not created.
    InDeletedDirectory,
    /// Both sides changed the entry, and the result has both changes.
    Merged,
    /// A merge rule decided.
    ByRule,
    /// Changed locally only: kept.
    Kept,
    /// Changed in the defaults only: taken from the defaults.
    Updated,
    /// New in the defaults: created.
    Added,
    /// Removed from the defaults and not changed locally: removed.
    Removed,
    /// To be merged by line or by entry when the contents are fetched.
    Undecided,
}

impl MergeOutcome {
    /// Returns whether the result is a conflict, which the administrator should resolve.
    pub(crate) const fn is_conflict(self) -> bool {
        matches!(self, Self::Conflict | Self::TypeConflict)
    }

    /// Returns whether the result is always shown, since a change of the defaults was not taken over.
    pub(crate) const fn is_notable(self) -> bool {
        self.is_conflict() || matches!(self, Self::KeptWithoutDefault | Self::StaysDeleted | Self::InDeletedDirectory)
    }
}

/// The decision about one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MergeDecision {
    pub(crate) path: EtcPath,
    /// How the local entry differs from the old default.
    pub(crate) local: Difference,
    /// How the new default differs from the old one.
    pub(crate) default: Difference,
    /// The result.
    pub(crate) outcome: MergeOutcome,
    /// The aspects in conflict, or else those that changed.
    pub(crate) aspects: Vec<Aspect>,
    /// Further explanations for users.
    pub(crate) details: Vec<String>,
    /// The path of the sidecar: the copy of the default that is written beside the local entry.
    pub(crate) sidecar: Option<EtcPath>,
}

/// The source of the content of a planned entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PlannedContent {
    /// The entry has no content.
    None,
    /// The content is that of a file in the local tree.
    Local(EtcPath),
    /// The content is an object of the repository.
    Object(ObjectId),
    /// The merge made the content.
    Made(Vec<u8>),
}

/// An entry of the planned tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlannedEntry {
    pub(crate) item: Item,
    /// The source of its content.
    pub(crate) content: PlannedContent,
}

/// The planned `/etc`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct EtcPlan {
    /// All entries of the planned tree.
    pub(crate) entries: BTreeMap<EtcPath, PlannedEntry>,
    /// The decisions about all paths that either side changed, in order of the paths.
    pub(crate) decisions: Vec<MergeDecision>,
}

impl EtcPlan {
    /// Returns the number of paths with this outcome.
    pub(crate) fn count(&self, outcome: MergeOutcome) -> usize {
        self.decisions.iter().filter(|decision| decision.outcome == outcome).count()
    }

    /// Returns the decisions that are conflicts.
    pub(crate) fn conflicts(&self) -> impl Iterator<Item = &MergeDecision> {
        self.decisions.iter().filter(|decision| decision.outcome.is_conflict())
    }

    /// Returns the sum of the sizes of all files, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        let size = |planned: &PlannedEntry| if let Body::File { size, .. } = planned.item.body { size } else { 0 };
        self.entries.values().map(size).sum()
    }
}
