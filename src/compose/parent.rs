//! What a compose wants to know of the commit before: its users, its packages, its version.

use super::layout::users::{ParentUsers, SYSUSERS};
use super::packages::{self, PackageList};
use crate::image::{Image, ImageError};
use crate::model::{Commit, CommitId, FileKind, ImagePath, RefName};
use crate::store::{ObjectSource, ReadError, RefError, Store};

/// Largest file that is read.
const FILE_MAX: u64 = 16 << 20;

/// Why the parent cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum ParentError {
    /// The ref.
    #[error(transparent)]
    Ref(#[from] RefError),
    /// The commit or its content.
    #[error("cannot read the parent commit")]
    Read(#[from] ReadError),
    /// Its image.
    #[error("cannot read the parent commit")]
    Image(#[from] ImageError),
}

/// The commit before.
#[derive(Debug, Clone)]
pub struct Parent {
    /// Its id.
    pub id: CommitId,
    /// Its record.
    pub commit: Commit,
    /// Its users.
    pub users: ParentUsers,
    /// Its packages, if it says which.
    pub packages: Option<PackageList>,
}

impl Parent {
    /// What `name` names now.
    ///
    /// # Errors
    /// [`ParentError`].
    pub fn of(store: &Store, name: &RefName) -> Result<Option<Self>, ParentError> {
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
            sysusers: text(&[SYSUSERS])?,
        };
        let packages = commit.extra.get(packages::KEY).and_then(|text| PackageList::decode(text).ok());
        Ok(Some(Self { id, commit, users, packages }))
    }
}

/// The content of a regular file of an image; `None` when there is no such file.
///
/// # Errors
/// [`ParentError`].
pub fn read_file(objects: &dyn ObjectSource, image: &Image, path: &str) -> Result<Option<Vec<u8>>, ParentError> {
    let Ok(path) = ImagePath::parse(path.as_bytes()) else { return Ok(None) };
    let Some(ino) = image.resolve(&path)? else { return Ok(None) };
    let attributes = image.attributes(ino)?;
    if attributes.kind != FileKind::Regular || attributes.size > FILE_MAX {
        return Ok(None);
    }
    let Some(object) = image.object(ino)? else { return Ok(Some(Vec::new())) };
    Ok(Some(objects.read_whole(object, attributes.size)?))
}
