//! Makes a commit of a tree whose contents are stored, and moves a ref to it.
//!
//! *Not here*: reading trees and storing their contents (`source`, `staged`).
//!
//! *Invariants*: contents are durable before the image is written, the image before the commit, and the commit before the ref
//! moves. The ref moves only if it still names what was read at the beginning.
//!
//! *Used by* `cli/commit.rs` and `pipeline`.

use std::collections::BTreeMap;

use crate::image::{EncodeError, Tree, encode};
use crate::model::{Commit, CommitId, ControlCharacter, RefName};
use crate::store::{Expect, ReadError, RefEdit, RefError, StoreWriter, WriteError};

/// The parent that a new commit gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParentChoice {
    /// The commit that the ref names now; no parent when the ref does not exist.
    Auto,
    /// No parent: a new history begins.
    None,
    /// This commit.
    Is(CommitId),
}

/// What a new commit contains besides its tree, and the ref that will name it.
#[derive(Debug, Clone)]
pub struct CommitRequest {
    /// The ref to move.
    pub ref_name: RefName,
    /// A description in one line.
    pub subject: String,
    /// The version of the operating system.
    pub version: Option<String>,
    /// The time of the commit in seconds since 1970.
    pub timestamp: i64,
    /// The parent of the commit.
    pub parent: ParentChoice,
    /// Whether no commit is made when the image is the same as the parent's.
    pub skip_if_unchanged: bool,
    /// Further facts about the commit, by key.
    pub extra: BTreeMap<String, String>,
}

/// The result of [`commit_tree`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The new commit, or the parent if nothing changed.
    pub id: CommitId,
    /// The record of that commit.
    pub(crate) commit: Commit,
    /// Whether no commit was made since the image is the same as the parent's.
    pub(crate) unchanged: bool,
}

/// Why no commit was made. The ref still names what it named before.
#[derive(Debug, thiserror::Error)]
pub enum CommitTreeError {
    /// The tree does not fit the image format.
    #[error("cannot make an image of the tree")]
    Encode(#[from] EncodeError),
    /// The ref cannot be read.
    #[error(transparent)]
    Ref(#[from] RefError),
    /// The subject or the version contains a control character.
    #[error(transparent)]
    Text(#[from] ControlCharacter),
    /// The parent cannot be read.
    #[error("cannot read the parent commit")]
    Parent(#[from] ReadError),
    /// The repository cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Makes everything that `writer` stored durable, writes the image of `tree` and a commit of it, and then moves the ref.
///
/// # Errors
/// [`CommitTreeError`]; the ref then still names what it named before.
pub fn commit_tree(writer: &StoreWriter, tree: &Tree, request: &CommitRequest) -> Result<Committed, CommitTreeError> {
    Commit::check_text(&request.subject, request.version.as_deref())?;
    let store = writer.store();
    let current = store.read_ref(&request.ref_name)?;
    let parent = match request.parent {
        ParentChoice::Auto => current,
        ParentChoice::None => None,
        ParentChoice::Is(id) => Some(id),
    };
    let image = encode(tree)?;
    let parent_record = parent.map(|id| store.commit(id)).transpose()?;
    if request.skip_if_unchanged
        && let (Some(id), Some(record)) = (parent, &parent_record)
        && record.image == image.id
    {
        return Ok(Committed { id, commit: record.clone(), unchanged: true });
    }
    // A new history under an existing ref continues the ref's sequence, so that its commits are not taken for older ones.
    let current_record = current.filter(|id| Some(*id) != parent).map(|id| store.commit(id)).transpose()?;
    // So does a ref that was moved back: what it named before may have been published.
    let logged = store.highest_sequence(&request.ref_name)?;
    let known = parent_record.iter().chain(&current_record).map(|record| record.sequence);
    let last = known.chain(logged).max();
    let commit = Commit {
        image: image.id,
        parent,
        ref_name: request.ref_name.clone(),
        sequence: last.map_or(1, |last| last.saturating_add(1)),
        timestamp: request.timestamp,
        subject: request.subject.clone(),
        version: request.version.clone(),
        entries: image.entries,
        content_bytes: image.content_bytes,
        extra: request.extra.clone(),
    };
    writer.flush()?;
    writer.put_image(&image)?;
    let id = writer.put_commit(&commit)?;
    let expect = current.map_or(Expect::Absent, Expect::Is);
    writer.edit_ref_logged(&RefEdit { name: request.ref_name.clone(), expect, to: Some(id) }, "commit")?;
    // The commit is complete, so an error here is none of the commit.
    if let Err(error) = writer.rewrite_former_packs() {
        tracing::warn!(%error, "packs of the former form are not rewritten; the next commit tries again");
    }
    Ok(Committed { id, commit, unchanged: false })
}
