//! Promotes an object or image that was fetched in parts, and is complete now, from `partial/` to an ordinary one.
//!
//! *Not here*: fetching the parts (`cache`).
//!
//! *Invariants*: all bytes are verified against the name before the file gets it.
//!
//! *Used by* `cache`.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::write::{StoreWriter, WriteError, create_directory};
use crate::disk;
use crate::image::Image;
use crate::model::{ImageId, ObjectId};
use crate::sys::Mapping;

/// Bytes read and hashed at a time.
const CHUNK: usize = 256 << 10;

/// The outcome of an attempt to promote a partial file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Promotion {
    /// The file is an ordinary object or image now.
    Promoted,
    /// The object or image existed already, or another process has promoted it.
    AlreadyPresent,
    /// The file does not have the digest of its name, since parts are missing. It stays partial.
    Incomplete,
}

impl StoreWriter {
    /// Promotes a partial object, if all its bytes are present and have the digest of its name. Durable on return.
    pub(crate) fn promote_partial_object(&self, id: ObjectId) -> Result<Promotion, WriteError> {
        let layout = self.store().layout();
        let path = layout.partial_object(id);
        let error = |action| write_error(action, &path);
        if self.store().has_object(id) {
            remove(&path).map_err(error("remove"))?;
            return Ok(Promotion::AlreadyPresent);
        }
        let file = match File::open(&path) {
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(Promotion::AlreadyPresent),
            other => other.map_err(error("open"))?,
        };
        if digest(&file).map_err(error("read"))? != id {
            return Ok(Promotion::Incomplete);
        }
        let target = layout.object(id);
        if let Some(directory) = target.parent() {
            create_directory(directory).map_err(error("make a directory for"))?;
            disk::sync_directory(&layout.objects()).map_err(error("sync a directory for"))?;
        }
        file.set_permissions(fs::Permissions::from_mode(0o444)).map_err(error("protect"))?;
        disk::promote(&file, &path, &target).map_err(error("name"))?;
        self.store().forget_damage(id);
        Ok(Promotion::Promoted)
    }

    /// Promotes a partial image, if every block and every rule of the format is verified. Durable on return.
    pub(crate) fn promote_partial_image(&self, id: ImageId) -> Result<Promotion, WriteError> {
        let layout = self.store().layout();
        let (path, target) = (layout.partial_image(id), layout.image(id));
        let error = |action| write_error(action, &path);
        if target.exists() {
            remove(&path).map_err(error("remove"))?;
            return Ok(Promotion::AlreadyPresent);
        }
        let file = match File::open(&path) {
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(Promotion::AlreadyPresent),
            other => other.map_err(error("open"))?,
        };
        let mapping = Mapping::of_file(&file).map_err(error("map"))?;
        let verified = Image::open(mapping).and_then(|image| image.verify().map(|()| image.id()));
        if verified != Ok(id) {
            return Ok(Promotion::Incomplete);
        }
        file.set_permissions(fs::Permissions::from_mode(0o444)).map_err(error("protect"))?;
        disk::promote(&file, &path, &target).map_err(error("name"))?;
        Ok(Promotion::Promoted)
    }
}

fn write_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> WriteError + use<> {
    let path = path.to_owned();
    move |source| WriteError::Write { action, path, source }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn digest(mut file: &File) -> io::Result<ObjectId> {
    let (mut hasher, mut chunk) = (Sha256::new(), vec![0; CHUNK]);
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(ObjectId::from_bytes(hasher.finalize().into())),
            length => hasher.update(&chunk[..length]),
        }
    }
}
