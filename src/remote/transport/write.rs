//! Sending. Only the first URL is written to; mirrors follow it by means of their own.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use object_store::{
    ObjectStore as _, ObjectStoreExt as _, PutMode, PutOptions, PutPayload, UpdateVersion, WriteMultipart,
};

use super::open::{Endpoint, Kind};
use super::{Put, Transport, TransportError, Version, sweep};
use crate::disk::{Lock, LockError, Wait};

/// Bytes of one part of a large upload: S3 wants at least 5 MiB and at most 10,000 parts.
const PART: usize = 8 << 20;

/// Parts that are under way at once.
const PARTS_IN_FLIGHT: usize = 2;

/// The lock of a directory that is written to: what buckets do with conditions.
const LOCK: &str = ".publish.lock";

impl Transport {
    /// Writes a small file as a whole and returns its new version.
    ///
    /// # Errors
    /// [`TransportError::Exists`] or [`TransportError::Changed`] as `mode` asks; else what went wrong in the end.
    pub fn put(&self, path: &str, bytes: Bytes, mode: &Put) -> Result<Version, TransportError> {
        let endpoint = self.writable()?;
        self.announce(endpoint, path)?;
        let length = bytes.len() as u64;
        let version = match (&endpoint.kind, mode) {
            (Kind::Directory(directory), Put::IfVersion(version)) => {
                let _lock = self.lock(directory, path)?;
                if self.version(endpoint, path)?.as_ref() != Some(version) {
                    return Err(TransportError::Changed { path: path.to_owned() });
                }
                self.put_whole(endpoint, path, bytes, PutMode::Overwrite)?
            }
            (Kind::Directory(directory), Put::IfAbsent) => {
                let _lock = self.lock(directory, path)?;
                self.put_whole(endpoint, path, bytes, PutMode::Create)?
            }
            (_, Put::Overwrite) => self.put_whole(endpoint, path, bytes, PutMode::Overwrite)?,
            (_, Put::IfAbsent) => self.put_whole(endpoint, path, bytes, PutMode::Create)?,
            (_, Put::IfVersion(version)) => {
                let version = UpdateVersion { e_tag: version.e_tag.clone(), version: version.version.clone() };
                self.put_whole(endpoint, path, bytes, PutMode::Update(version))?
            }
        };
        self.inner.counters.sent(length);
        Ok(version)
    }

    fn put_whole(&self, at: &Endpoint, path: &str, bytes: Bytes, mode: PutMode) -> Result<Version, TransportError> {
        self.count_local(at);
        let options = PutOptions { mode, ..PutOptions::default() };
        let put = async { at.store.put_opts(&at.path(path), PutPayload::from_bytes(bytes), options).await };
        let result = self.inner.runtime.block_on(put).map_err(|source| at.failed("write", path, source))?;
        Ok(Version { e_tag: result.e_tag, version: result.version })
    }

    fn version(&self, at: &Endpoint, path: &str) -> Result<Option<Version>, TransportError> {
        match self.inner.runtime.block_on(async { at.store.head(&at.path(path)).await }) {
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Ok(meta) => Ok(Some(Version { e_tag: meta.e_tag, version: meta.version })),
            Err(source) => Err(at.failed("look at", path, source)),
        }
    }

    /// Writes a file of any size from a local one, in parts and bounded memory, whatever is there. `progress` hears how
    /// many more bytes were sent.
    ///
    /// # Errors
    /// What went wrong in the end; nothing is at `path` then that was not there before.
    pub fn put_file(&self, path: &str, local: &Path, progress: &dyn Fn(u64)) -> Result<(), TransportError> {
        let local_error = |source| TransportError::Local { path: local.to_owned(), source };
        let mut file = File::open(local).map_err(local_error)?;
        let endpoint = self.writable()?;
        let mut part = read_part(&mut file).map_err(local_error)?;
        if part.len() < PART {
            let length = part.len() as u64;
            self.put(path, part, &Put::Overwrite)?;
            progress(length);
            return Ok(());
        }
        self.announce(endpoint, path)?;
        self.count_local(endpoint);
        let error = |source| endpoint.failed("write", path, source);
        let begin = async { endpoint.store.put_multipart(&endpoint.path(path)).await };
        let upload = self.inner.runtime.block_on(begin).map_err(error)?;
        // Its own tasks need the runtime around them.
        let _runtime = self.inner.runtime.enter();
        let mut upload = WriteMultipart::new_with_chunk_size(upload, PART);
        while !part.is_empty() {
            let length = part.len() as u64;
            if let Err(source) = self.inner.runtime.block_on(upload.wait_for_capacity(PARTS_IN_FLIGHT)) {
                return Err(self.give_up(upload, error(source)));
            }
            upload.put(part);
            self.inner.counters.sent(length);
            progress(length);
            part = match read_part(&mut file) {
                Ok(part) => part,
                Err(source) => return Err(self.give_up(upload, local_error(source))),
            };
        }
        // On failure it removes its parts itself.
        self.inner.runtime.block_on(upload.finish()).map(drop).map_err(error)
    }

    /// Removes what was sent of an upload that cannot be finished.
    fn give_up(&self, upload: WriteMultipart, error: TransportError) -> TransportError {
        if let Err(left) = self.inner.runtime.block_on(upload.abort()) {
            tracing::warn!("parts of an upload stay behind: {left}");
        }
        error
    }

    /// Removes a file; that there is none is fine.
    ///
    /// # Errors
    /// What went wrong in the end.
    pub fn delete(&self, path: &str) -> Result<(), TransportError> {
        let endpoint = self.writable()?;
        self.count_local(endpoint);
        match self.inner.runtime.block_on(async { endpoint.store.delete(&endpoint.path(path)).await }) {
            Err(object_store::Error::NotFound { .. }) | Ok(()) => Ok(()),
            Err(source) => Err(endpoint.failed("remove", path, source)),
        }
    }

    /// How many requests [`Self::put_file`] makes for a file of so many bytes.
    #[must_use]
    pub fn upload_requests(&self, length: u64) -> u64 {
        let parts = length / PART as u64 + u64::from(!length.is_multiple_of(PART as u64));
        match self.first().kind {
            // Begun, each part, ended.
            Kind::Bucket if length >= PART as u64 => parts + 2,
            _ => 1,
        }
    }

    /// How many requests it takes to find out whether conditions are honoured, to take a lease and to give it back.
    #[must_use]
    pub fn lease_requests(&self) -> u64 {
        if matches!(self.first().kind, Kind::Directory(_)) { 0 } else { 6 }
    }

    /// A file beside the published ones that processes lock which write to the same directory; none where there are no
    /// locks. The directory is made.
    pub(in crate::remote) fn lock_file(&self, name: &str) -> Result<Option<PathBuf>, TransportError> {
        let Kind::Directory(directory) = &self.writable()?.kind else { return Ok(None) };
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
            Kind::Web => Err(TransportError::CannotWrite { url: endpoint.url.clone() }),
            Kind::Directory(_) | Kind::Bucket => Ok(endpoint),
        }
    }

    /// Says, before the first byte, that we write to a directory.
    fn announce(&self, endpoint: &Endpoint, path: &str) -> Result<(), TransportError> {
        let Kind::Directory(directory) = &endpoint.kind else { return Ok(()) };
        if self.inner.writing.get().is_none() {
            let lock =
                sweep::enter(directory).map_err(|source| TransportError::Lock { path: path.to_owned(), source })?;
            // Two threads may both have come here; one of the locks is enough.
            let _ = self.inner.writing.set(lock);
        }
        Ok(())
    }

    fn lock(&self, directory: &Path, path: &str) -> Result<Lock, TransportError> {
        let failed = |source| TransportError::Lock { path: path.to_owned(), source };
        let file = directory.join(LOCK);
        let made = std::fs::create_dir_all(directory);
        made.map_err(|source| failed(LockError::Io { path: file.clone(), source }))?;
        Lock::exclusive(&file, Wait::Announced(&|_| {})).map_err(failed)
    }
}

/// The next [`PART`] bytes, or all that is left.
fn read_part(file: &mut File) -> std::io::Result<Bytes> {
    let mut part = Vec::with_capacity(PART);
    file.take(PART as u64).read_to_end(&mut part)?;
    Ok(part.into())
}
