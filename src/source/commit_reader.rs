//! `CommitReader`: read access to the record and to single files of a commit, which may be local or at a remote.
//!
//! Of a remote commit only what is asked for is fetched: the record for lists of packages, single files for changelogs and for
//! the owners of paths.
//!
//! *Not here*: finding the commit, see `local` and `resolve`; what its files mean, see `compose`.
//!
//! *Used by* the verbs `db` and `whence` of `cli`.

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::links::{self, LastLink};
use crate::cache::{LazyError, LazyOptions, LazyTree, Patience, ResolvedCommit};
use crate::image::{Image, ImageError, Ino};
use crate::model::{Commit, FileKind, ImagePath, PathError};
use crate::store::{Absent, Fetch as _, ObjectSource as _, ReadError, Store};

/// How long a read waits for a missing part to be fetched.
const FETCH_TIMEOUT: Duration = Duration::from_secs(60);

/// The size of the largest file that is read.
const MAX_FILE_BYTES: usize = 256 << 20;

/// Why a file of a commit cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadCommitError {
    /// The path is illegal.
    #[error("{0}")]
    Path(#[from] PathError),
    /// The image or a content cannot be read or fetched.
    #[error("{0}")]
    Read(#[from] ReadError),
    /// The tree of a remote commit cannot be opened.
    #[error("{0}")]
    Tree(#[from] LazyError),
    /// The image is damaged.
    #[error("{0}")]
    Image(#[from] ImageError),
    /// The file is larger than [`MAX_FILE_BYTES`].
    #[error("a file of {0} bytes is too large to be shown")]
    TooLarge(u64),
}

/// An open commit, local or at a remote.
pub(crate) struct CommitReader {
    commit: Commit,
    location: CommitLocation,
    /// The tree of the commit, opened when the first file is read.
    tree: OnceCell<OpenTree>,
}

enum CommitLocation {
    Local(Store),
    Remote(Store, Box<ResolvedCommit>),
}

/// The tree of a commit, open for reading files.
enum OpenTree {
    Local(Store, Box<Image>),
    Remote(Arc<LazyTree>),
}

impl CommitReader {
    /// Returns a reader of a commit whose missing parts are fetched.
    pub(crate) fn of_resolved(store: Store, resolved: ResolvedCommit) -> Self {
        let commit = resolved.commit().clone();
        Self { commit, location: CommitLocation::Remote(store, Box::new(resolved)), tree: OnceCell::new() }
    }

    /// Returns a reader of a commit of which only what is in the repository can be read.
    pub(crate) const fn of_stored(store: Store, commit: Commit) -> Self {
        Self { commit, location: CommitLocation::Local(store), tree: OnceCell::new() }
    }

    /// Returns the record of the commit.
    pub(crate) const fn commit(&self) -> &Commit {
        &self.commit
    }

    /// Returns whether the commit has an entry at a path.
    ///
    /// # Errors
    /// When the image cannot be read or fetched.
    pub(crate) fn contains(&self, path: &[u8]) -> Result<bool, ReadCommitError> {
        let path = ImagePath::parse(path)?;
        self.tree()?.fetch_until_answered(|tree| Ok(tree.image().resolve(&path)?.is_some()))
    }

    /// Returns the content of the file at a path, or `None` when there is no such file. Symbolic links are followed within the
    /// commit.
    ///
    /// # Errors
    /// When the image or the content cannot be read or fetched.
    pub(crate) fn read_file(&self, path: &str) -> Result<Option<Vec<u8>>, ReadCommitError> {
        let tree = self.tree()?;
        let path = ImagePath::parse(path.as_bytes())?;
        let found = tree.fetch_until_answered(|tree| {
            let Some((_, ino)) = links::follow(tree.image(), &path, LastLink::Followed)? else { return Ok(None) };
            Ok((tree.image().attributes(ino)?.kind == FileKind::Regular).then_some(ino))
        })?;
        found.map(|ino| tree.read_content(ino)).transpose()
    }

    fn tree(&self) -> Result<&OpenTree, ReadCommitError> {
        if let Some(tree) = self.tree.get() {
            return Ok(tree);
        }
        let tree = match &self.location {
            CommitLocation::Local(store) => OpenTree::Local(store.clone(), Box::new(store.image(self.commit.image)?)),
            CommitLocation::Remote(store, resolved) => {
                let patience = Patience::Within(FETCH_TIMEOUT);
                OpenTree::Remote(resolved.open(store, LazyOptions { patience, ..LazyOptions::default() })?)
            }
        };
        Ok(self.tree.get_or_init(|| tree))
    }
}

impl OpenTree {
    fn image(&self) -> &Image {
        match self {
            Self::Local(_, image) => image,
            Self::Remote(tree) => tree.image(),
        }
    }

    /// Runs `query` and, as long as it lacks blocks of the image, fetches them and runs it again.
    fn fetch_until_answered<T>(&self, query: impl Fn(&Self) -> Result<T, ImageError>) -> Result<T, ReadCommitError> {
        loop {
            match (query(self), self) {
                (Err(ImageError::Absent { block }), Self::Remote(tree)) => {
                    tree.fetch(&Absent::ImageBlock(block), Instant::now() + FETCH_TIMEOUT)?;
                }
                (answer, _) => return Ok(answer?),
            }
        }
    }

    fn read_content(&self, ino: Ino) -> Result<Vec<u8>, ReadCommitError> {
        let Some(object) = self.fetch_until_answered(|tree| tree.image().object_ref(ino))? else {
            return Ok(Vec::new());
        };
        let size = usize::try_from(object.size).ok().filter(|size| *size <= MAX_FILE_BYTES);
        let mut bytes = vec![0; size.ok_or(ReadCommitError::TooLarge(object.size))?];
        let mut done = 0;
        while done < bytes.len() {
            let read = match self {
                Self::Local(store, _) => store.read_at(object.id, done as u64, &mut bytes[done..]),
                Self::Remote(tree) => tree.read_object(&object, done as u64, &mut bytes[done..]),
            };
            match (read, self) {
                (Ok(0), _) => break,
                (Ok(length), _) => done += length,
                (Err(ReadError::Absent(absent)), Self::Remote(tree)) => {
                    tree.fetch(&absent, Instant::now() + FETCH_TIMEOUT)?
                }
                (Err(error), _) => return Err(error.into()),
            }
        }
        bytes.truncate(done);
        Ok(bytes)
    }
}
