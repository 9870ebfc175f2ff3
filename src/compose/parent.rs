//! Reads from the parent commit what a compose needs: users, groups and packages.
//!
//! *Used by* `pipeline`.

use super::layout::users::{ParentUsers, SYSUSERS_FILE};
use super::packages::{self, PackageList};
use crate::image::{Image, ImageError};
use crate::model::{Commit, CommitId, FileKind, ImagePath, RefName};
use crate::store::{ObjectSource, ReadError, RefError, Store};

/// The largest file that is read, in bytes.
const FILE_MAX: u64 = 16 << 20;

/// Why the parent commit cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ParentError {
    #[error(transparent)]
    Ref(#[from] RefError),
    /// The commit or its content cannot be read.
    #[error("cannot read the parent commit")]
    Read(#[from] ReadError),
    #[error("cannot read the parent commit")]
    Image(#[from] ImageError),
}

/// The parent commit and what is read from it.
#[derive(Debug, Clone)]
pub(crate) struct ParentCommit {
    pub(crate) id: CommitId,
    /// The record of the commit.
    pub(crate) commit: Commit,
    pub(crate) users: ParentUsers,
    /// The packages, if the commit lists them.
    pub(crate) packages: Option<PackageList>,
}

impl ParentCommit {
    /// Reads the commit that the ref `name` names now; `None` if the ref does not exist.
    pub(crate) fn load(store: &Store, name: &RefName) -> Result<Option<Self>, ParentError> {
        let Some(id) = store.read_ref(name)? else { return Ok(None) };
        let commit = store.commit(id)?;
        let image = store.image(commit.image)?;
        let text = |paths: &[&str]| -> Result<String, ParentError> {
            for path in paths {
                if let Some(bytes) = read_file(store, &image, path)? {
                    return Ok(String::from_utf8_lossy(&bytes).into_owned());
                }
            }
            Ok(String::new())
        };
        let users = ParentUsers {
            passwd: text(&["/usr/etc/passwd", "/etc/passwd"])?,
            group: text(&["/usr/etc/group", "/etc/group"])?,
            sysusers: text(&[SYSUSERS_FILE])?,
        };
        let packages = commit.extra.get(packages::KEY).and_then(|text| PackageList::decode(text).ok());
        Ok(Some(Self { id, commit, users, packages }))
    }
}

/// Returns the content of a regular file of an image; `None` if there is no such file or it is larger than `FILE_MAX`.
pub(crate) fn read_file(objects: &dyn ObjectSource, image: &Image, path: &str) -> Result<Option<Vec<u8>>, ParentError> {
    let Ok(path) = ImagePath::parse(path.as_bytes()) else { return Ok(None) };
    let Some(ino) = image.resolve(&path)? else { return Ok(None) };
    let attributes = image.attributes(ino)?;
    if attributes.kind != FileKind::Regular || attributes.size > FILE_MAX {
        return Ok(None);
    }
    let Some(object) = image.object(ino)? else { return Ok(Some(Vec::new())) };
    Ok(Some(objects.read_whole(object, attributes.size)?))
}
