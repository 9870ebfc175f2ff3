//! Writes files. Only the first URL is written to; mirrors are updated by other means.
//!
//! *Invariants*: conditions of writes hold: in a directory by a lock, in a bucket by the server.
//!
//! *Used by* `publish`, `prune` and `lease`.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use object_store::{
    ObjectStore as _, ObjectStoreExt as _, PutMode, PutOptions, PutPayload, UpdateVersion, WriteMultipart,
};

use super::open::{Endpoint, EndpointKind};
use super::{FileVersion, Transport, TransportError, WriteCondition, cleanup};
use crate::disk::{Lock, LockError, Wait};

/// Bytes of one part of a large upload. S3 requires at least 5 MiB and at most 10,000 parts.
const UPLOAD_PART_SIZE: usize = 8 << 20;

/// Number of parts that are sent in parallel.
const PARTS_IN_FLIGHT: usize = 2;

/// The lock of a directory that is written to. It replaces the conditional writes of buckets.
const PUBLISH_LOCK: &str = ".publish.lock";

impl Transport {
    /// Writes a small file as a whole and returns its new version.
    ///
    /// # Errors
    /// [`TransportError::Exists`] or [`TransportError::Changed`] as `condition` requires; otherwise the last failure.
    pub(crate) fn put(
        &self,
        path: &str,
        bytes: Bytes,
        condition: &WriteCondition,
    ) -> Result<FileVersion, TransportError> {
        let endpoint = self.writable()?;
        self.lock_uploads(endpoint, path)?;
        let length = bytes.len() as u64;
        let version = match (&endpoint.kind, condition) {
            (EndpointKind::Directory(directory), WriteCondition::IfVersion(version)) => {
                let _lock = self.lock(directory, path)?;
                if self.read_version(endpoint, path)?.as_ref() != Some(version) {
                    return Err(TransportError::Changed { path: path.to_owned() });
                }
                self.put_whole(endpoint, path, bytes, PutMode::Overwrite)?
            }
            (EndpointKind::Directory(directory), WriteCondition::IfAbsent) => {
                let _lock = self.lock(directory, path)?;
                self.put_whole(endpoint, path, bytes, PutMode::Create)?
            }
            (_, WriteCondition::Overwrite) => self.put_whole(endpoint, path, bytes, PutMode::Overwrite)?,
            (_, WriteCondition::IfAbsent) => self.put_whole(endpoint, path, bytes, PutMode::Create)?,
            (_, WriteCondition::IfVersion(version)) => {
                let version = UpdateVersion { e_tag: version.e_tag.clone(), version: version.version.clone() };
                self.put_whole(endpoint, path, bytes, PutMode::Update(version))?
            }
        };
        self.inner.counters.count_sent(length);
        Ok(version)
    }

    fn put_whole(&self, at: &Endpoint, path: &str, bytes: Bytes, mode: PutMode) -> Result<FileVersion, TransportError> {
        self.count_local(at);
        let options = PutOptions { mode, ..PutOptions::default() };
        let put = async { at.retrying.put_opts(&at.path(path), PutPayload::from_bytes(bytes), options).await };
        let result = self.inner.runtime.block_on(put).map_err(|source| at.classify_error("write", path, source))?;
        Ok(FileVersion { e_tag: result.e_tag, version: result.version })
    }

    fn read_version(&self, at: &Endpoint, path: &str) -> Result<Option<FileVersion>, TransportError> {
        match self.inner.runtime.block_on(async { at.retrying.head(&at.path(path)).await }) {
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Ok(meta) => Ok(Some(FileVersion { e_tag: meta.e_tag, version: meta.version })),
            Err(source) => Err(at.classify_error("look at", path, source)),
        }
    }

    /// Uploads a local file of any size, in parts and with bounded memory, replacing any existing file. `progress` is
    /// called with the bytes that each step adds.
    ///
    /// # Errors
    /// The last failure. No new file is at `path` then.
    pub(crate) fn put_file(&self, path: &str, local: &Path, progress: &dyn Fn(u64)) -> Result<(), TransportError> {
        let local_error = |source| TransportError::Local { path: local.to_owned(), source };
        let mut file = File::open(local).map_err(local_error)?;
        let endpoint = self.writable()?;
        let mut part = read_part(&mut file).map_err(local_error)?;
        if part.len() < UPLOAD_PART_SIZE {
            let length = part.len() as u64;
            self.put(path, part, &WriteCondition::Overwrite)?;
            progress(length);
            return Ok(());
        }
        self.lock_uploads(endpoint, path)?;
        self.count_local(endpoint);
        let error = |source| endpoint.classify_error("write", path, source);
        let begin = async { endpoint.retrying.put_multipart(&endpoint.path(path)).await };
        let upload = self.inner.runtime.block_on(begin).map_err(error)?;
        // The upload spawns tasks on the runtime.
        let _runtime = self.inner.runtime.enter();
        let mut upload = WriteMultipart::new_with_chunk_size(upload, UPLOAD_PART_SIZE);
        while !part.is_empty() {
            let length = part.len() as u64;
            if let Err(source) = self.inner.runtime.block_on(upload.wait_for_capacity(PARTS_IN_FLIGHT)) {
                return Err(self.abort_upload(upload, error(source)));
            }
            upload.put(part);
            self.inner.counters.count_sent(length);
            progress(length);
            part = match read_part(&mut file) {
                Ok(part) => part,
                Err(source) => return Err(self.abort_upload(upload, local_error(source))),
            };
        }
        // On failure the upload removes its parts itself.
        self.inner.runtime.block_on(upload.finish()).map(drop).map_err(error)
    }

    /// Removes the parts of an upload that cannot be finished.
    fn abort_upload(&self, upload: WriteMultipart, error: TransportError) -> TransportError {
        if let Err(left) = self.inner.runtime.block_on(upload.abort()) {
            tracing::warn!("parts of an upload could not be removed: {left}");
        }
        error
    }

    /// Removes a file. A missing file is no error.
    ///
    /// # Errors
    /// The last failure.
    pub(crate) fn delete(&self, path: &str) -> Result<(), TransportError> {
        let endpoint = self.writable()?;
        self.count_local(endpoint);
        match self.inner.runtime.block_on(async { endpoint.retrying.delete(&endpoint.path(path)).await }) {
            Err(object_store::Error::NotFound { .. }) | Ok(()) => Ok(()),
            Err(source) => Err(endpoint.classify_error("remove", path, source)),
        }
    }

    /// Returns how many requests [`Self::put_file`] makes for a file of `length` bytes.
    pub(crate) fn upload_requests(&self, length: u64) -> u64 {
        let parts = length / UPLOAD_PART_SIZE as u64 + u64::from(!length.is_multiple_of(UPLOAD_PART_SIZE as u64));
        match self.first().kind {
            // One request to begin, one for each part, one to end.
            EndpointKind::Bucket if length >= UPLOAD_PART_SIZE as u64 => parts + 2,
            _ => 1,
        }
    }

    /// Returns how many requests it takes to verify conditional writes, to take a lease and to give it back.
    pub(crate) fn lease_requests(&self) -> u64 {
        if matches!(self.first().kind, EndpointKind::Directory(_)) { 0 } else { 6 }
    }

    /// Returns the file beside the published ones that is locked by processes that write to the same directory; `None`
    /// where there are no locks. The directory is created.
    pub(in crate::remote) fn lock_file(&self, name: &str) -> Result<Option<PathBuf>, TransportError> {
        let EndpointKind::Directory(directory) = &self.writable()?.kind else { return Ok(None) };
        let file = directory.join(format!(".{name}"));
        let failed = |source| TransportError::Lock {
            path: name.to_owned(),
            source: LockError::Io { path: file.clone(), source },
        };
        std::fs::create_dir_all(directory).map_err(failed)?;
        Ok(Some(file))
    }

    pub(super) fn writable(&self) -> Result<&Endpoint, TransportError> {
        let endpoint = self.first();
        match endpoint.kind {
            EndpointKind::Web => Err(TransportError::CannotWrite { url: endpoint.url.clone() }),
            EndpointKind::Directory(_) | EndpointKind::Bucket => Ok(endpoint),
        }
    }

    /// Takes, before the first byte is written, the lock that announces writes to a directory.
    fn lock_uploads(&self, endpoint: &Endpoint, path: &str) -> Result<(), TransportError> {
        let EndpointKind::Directory(directory) = &endpoint.kind else { return Ok(()) };
        if self.inner.upload_lock.get().is_none() {
            let lock = cleanup::clean_and_lock(directory)
                .map_err(|source| TransportError::Lock { path: path.to_owned(), source })?;
            // Two threads may have taken a lock here; one of the locks is enough.
            let _ = self.inner.upload_lock.set(lock);
        }
        Ok(())
    }

    fn lock(&self, directory: &Path, path: &str) -> Result<Lock, TransportError> {
        let failed = |source| TransportError::Lock { path: path.to_owned(), source };
        let file = directory.join(PUBLISH_LOCK);
        let made = std::fs::create_dir_all(directory);
        made.map_err(|source| failed(LockError::Io { path: file.clone(), source }))?;
        Lock::exclusive(&file, Wait::Announced(&|_| {})).map_err(failed)
    }
}

/// Reads the next [`UPLOAD_PART_SIZE`] bytes, or all that are left.
fn read_part(file: &mut File) -> std::io::Result<Bytes> {
    let mut part = Vec::with_capacity(UPLOAD_PART_SIZE);
    file.take(UPLOAD_PART_SIZE as u64).read_to_end(&mut part)?;
    Ok(part.into())
}
