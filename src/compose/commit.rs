//! From a tree whose contents are stored to a commit that a ref names.

use std::collections::BTreeMap;

use crate::image::{EncodeError, Tree, encode};
use crate::model::{Commit, CommitId, ControlCharacter, RefName};
use crate::store::{Expect, ReadError, RefEdit, RefError, StoreWriter, WriteError};

/// Which commit comes before the new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parent {
    /// The one the ref names now, if any.
    Auto,
    /// None: a new history begins.
    None,
    /// This one.
    Is(CommitId),
}

/// What the commit is to say.
#[derive(Debug, Clone)]
pub struct CommitRequest {
    /// The ref to move.
    pub ref_name: RefName,
    /// One line for people.
    pub subject: String,
    /// The version of the operating system.
    pub version: Option<String>,
    /// Seconds since 1970.
    pub timestamp: i64,
    /// The commit before.
    pub parent: Parent,
    /// Make no commit when the tree is the parent's.
    pub skip_if_unchanged: bool,
    /// Further facts by key.
    pub extra: BTreeMap<String, String>,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The new commit, or the parent when nothing changed.
    pub id: CommitId,
    /// Its record.
    pub commit: Commit,
    /// Whether the parent was kept since the tree is the same.
    pub unchanged: bool,
}

/// Why no commit was made. The ref is as it was.
#[derive(Debug, thiserror::Error)]
pub enum CommitTreeError {
    /// The tree does not fit the image format.
    #[error("cannot make an image of the tree")]
    Encode(#[from] EncodeError),
    /// The ref cannot be read.
    #[error(transparent)]
    Ref(#[from] RefError),
    /// The subject or the version.
    #[error(transparent)]
    Text(#[from] ControlCharacter),
    /// The parent cannot be read.
    #[error("cannot read the parent commit")]
    Parent(#[from] ReadError),
    /// The repository cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Makes everything stored by `writer` durable, then the image of `tree` and a commit of it, then moves the ref.
///
/// # Errors
/// [`CommitTreeError`]; the ref is then as it was.
pub fn commit_tree(writer: &StoreWriter, tree: &Tree, request: &CommitRequest) -> Result<Committed, CommitTreeError> {
    Commit::check_text(&request.subject, request.version.as_deref())?;
    let store = writer.store();
    let current = store.read_ref(&request.ref_name)?;
    let parent = match request.parent {
        Parent::Auto => current,
        Parent::None => None,
        Parent::Is(id) => Some(id),
    };
    let image = encode(tree)?;
    let parent_record = parent.map(|id| store.commit(id)).transpose()?;
    if request.skip_if_unchanged
        && let (Some(id), Some(record)) = (parent, &parent_record)
        && record.image == image.id
    {
        return Ok(Committed { id, commit: record.clone(), unchanged: true });
    }
    // A new history under an old name goes on counting, so that nobody takes it for an older commit.
    let current_record = current.filter(|id| Some(*id) != parent).map(|id| store.commit(id)).transpose()?;
    let last = parent_record.iter().chain(&current_record).map(|record| record.sequence).max();
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
    writer.settle()?;
    writer.put_image(&image)?;
    let id = writer.put_commit(&commit)?;
    let expect = current.map_or(Expect::Absent, Expect::Is);
    writer.edit_ref(&RefEdit { name: request.ref_name.clone(), expect, to: Some(id) })?;
    Ok(Committed { id, commit, unchanged: false })
}
