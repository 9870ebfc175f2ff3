//! What was gathered piece by piece under `partial/` becomes an ordinary object or image.

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

/// What became of something partial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adoption {
    /// It is a whole one now.
    Done,
    /// It is whole already, or somebody else made it so.
    Known,
    /// It is not what its name says: not all of it was there. It stays partial.
    Incomplete,
}

impl StoreWriter {
    /// Makes a partial object whole, after all its bytes were read and are what its name says. Durable on return.
    ///
    /// # Errors
    /// [`WriteError::Write`].
    pub fn adopt_partial(&self, id: ObjectId) -> Result<Adoption, WriteError> {
        let layout = self.store().layout();
        let path = layout.partial_object(id);
        let error = |action| write_error(action, &path);
        if self.store().has_object(id) {
            remove(&path).map_err(error("remove"))?;
            return Ok(Adoption::Known);
        }
        let file = match File::open(&path) {
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(Adoption::Known),
            other => other.map_err(error("open"))?,
        };
        if digest(&file).map_err(error("read"))? != id {
            return Ok(Adoption::Incomplete);
        }
        let target = layout.object(id);
        if let Some(directory) = target.parent() {
            create_directory(directory).map_err(error("make a directory for"))?;
            disk::sync_directory(&layout.objects()).map_err(error("sync a directory for"))?;
        }
        file.set_permissions(fs::Permissions::from_mode(0o444)).map_err(error("protect"))?;
        disk::promote(&file, &path, &target).map_err(error("name"))?;
        self.store().replaced(id);
        Ok(Adoption::Done)
    }

    /// Makes a partial image whole, after every block of it was checked. Durable on return.
    ///
    /// # Errors
    /// [`WriteError::Write`].
    pub fn adopt_partial_image(&self, id: ImageId) -> Result<Adoption, WriteError> {
        let layout = self.store().layout();
        let (path, target) = (layout.partial_image(id), layout.image(id));
        let error = |action| write_error(action, &path);
        if target.exists() {
            remove(&path).map_err(error("remove"))?;
            return Ok(Adoption::Known);
        }
        let file = match File::open(&path) {
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(Adoption::Known),
            other => other.map_err(error("open"))?,
        };
        let mapping = Mapping::of_file(&file).map_err(error("map"))?;
        let sound = Image::open(mapping).and_then(|image| image.verify().map(|()| image.id()));
        if sound != Ok(id) {
            return Ok(Adoption::Incomplete);
        }
        file.set_permissions(fs::Permissions::from_mode(0o444)).map_err(error("protect"))?;
        disk::promote(&file, &path, &target).map_err(error("name"))?;
        Ok(Adoption::Done)
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
