//! What a merge of `/etc` decides, and the tree that comes of it: the words between planning, doing and telling.

use std::collections::BTreeMap;

use super::item::{Body, EtcPath, Item};
use crate::image::Aspect;
use crate::model::ObjectId;
use crate::store::ReadError;

/// What a default is called that is laid beside what is here.
pub const ASIDE_SUFFIX: &[u8] = b".sapwood-new";

/// Why a content that a merge needs cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// It is not here yet: the plan is one of something that was not fetched.
    #[error("the content of an entry is not here")]
    Absent,
    /// A file of the local tree.
    #[error("cannot read '{path}'")]
    Local {
        /// Below `/etc`.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// An object of the repository.
    #[error(transparent)]
    Object(#[from] ReadError),
}

/// Where a plan finds contents.
pub trait Contents {
    /// The content of a file of the local tree.
    ///
    /// # Errors
    /// [`ContentError`].
    fn local(&self, path: &[u8]) -> Result<Vec<u8>, ContentError>;

    /// The content of a default.
    ///
    /// # Errors
    /// [`ContentError`].
    fn object(&self, id: ObjectId, size: u64) -> Result<Vec<u8>, ContentError>;
}

/// How one of the two descendants differs from the old defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Difference {
    /// It does not.
    Same,
    /// The old defaults do not have it.
    Added,
    /// It is another.
    Changed,
    /// The old defaults have it.
    Deleted,
}

/// What becomes of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Both changed it: what is here wins.
    Conflict,
    /// Of different kinds: what is here wins, the default is laid beside it.
    TypeConflict,
    /// Changed here and gone from the defaults: stays.
    KeptWithoutDefault,
    /// Deleted here and changed in the defaults: stays away.
    StaysDeleted,
    /// New in the defaults, in a directory that was deleted here: stays away.
    InDeletedDirectory,
    /// Both changed it, and both changes are in.
    Merged,
    /// A rule decided.
    ByRule,
    /// Changed here only: stays.
    Kept,
    /// Changed in the defaults only: follows.
    Updated,
    /// New in the defaults.
    Added,
    /// Gone from the defaults, and nobody changed it here.
    Removed,
    /// To be merged by line or by entry, once the contents are here.
    Undecided,
}

impl Outcome {
    /// Whether somebody should look at it.
    #[must_use]
    pub const fn is_conflict(self) -> bool {
        matches!(self, Self::Conflict | Self::TypeConflict)
    }

    /// Whether it is worth a line even when nobody asks for all: something was not taken over.
    #[must_use]
    pub const fn is_notable(self) -> bool {
        self.is_conflict() || matches!(self, Self::KeptWithoutDefault | Self::StaysDeleted | Self::InDeletedDirectory)
    }
}

/// What was decided about one path, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Which.
    pub path: EtcPath,
    /// What happened here.
    pub here: Difference,
    /// What happened to the default.
    pub default: Difference,
    /// What comes of it.
    pub outcome: Outcome,
    /// Which attributes: those in conflict, or those that changed.
    pub aspects: Vec<Aspect>,
    /// More about it, for people.
    pub details: Vec<String>,
    /// Where the default was laid.
    pub aside: Option<EtcPath>,
}

/// Where the content of a planned file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlannedContent {
    /// It has none.
    None,
    /// In the local tree.
    Local(EtcPath),
    /// In the repository.
    Object(ObjectId),
    /// It is made by the merge.
    Made(Vec<u8>),
}

/// An entry of the tree that is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// What it is.
    pub item: Item,
    /// Where its content is.
    pub content: PlannedContent,
}

/// What `/etc` is to be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EtcPlan {
    /// Every entry.
    pub entries: BTreeMap<EtcPath, Planned>,
    /// What was decided about every path that anybody changed, in order.
    pub decisions: Vec<Decision>,
}

impl EtcPlan {
    /// How many paths have this outcome.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> usize {
        self.decisions.iter().filter(|decision| decision.outcome == outcome).count()
    }

    /// The paths that somebody should look at.
    pub fn conflicts(&self) -> impl Iterator<Item = &Decision> {
        self.decisions.iter().filter(|decision| decision.outcome.is_conflict())
    }

    /// Bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let size = |planned: &Planned| if let Body::File { size, .. } = planned.item.body { size } else { 0 };
        self.entries.values().map(size).sum()
    }
}
