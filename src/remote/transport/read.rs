//! Receiving.

use std::cell::RefCell;
use std::ops::{ControlFlow, Range};
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt as _;
use object_store::{GetOptions, GetResult, ObjectStoreExt as _};

use super::open::{Endpoint, Kind};
use super::{Listed, Transport, TransportError, Version};

/// A buffer is not made larger than this before bytes arrive for it.
const FIRST_BUFFER: u64 = 1 << 20;

impl Transport {
    /// The whole of a file and its version; `None` when there is none.
    ///
    /// # Errors
    /// [`TransportError::TooLarge`] when it has more than `limit` bytes; else what went wrong in the end.
    pub fn get(&self, path: &str, limit: u64) -> Result<Option<(Bytes, Version)>, TransportError> {
        let found = self.ask_in_turn(|endpoint| {
            self.inner.runtime.block_on(async {
                let found = endpoint.store.get(&endpoint.path(path)).await;
                let found = found.map_err(|source| endpoint.failed("read", path, source))?;
                if found.meta.size > limit {
                    return Err(TransportError::TooLarge { path: path.to_owned(), limit });
                }
                let version = Version { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
                self.count_local(endpoint);
                let size = found.meta.size;
                Ok((self.receive(endpoint, found, size, path).await?, version))
            })
        });
        match found {
            Err(TransportError::Missing { .. }) => Ok(None),
            other => other.map(Some),
        }
    }

    /// Exactly the bytes `range` of a file, which must exist and reach that far.
    ///
    /// # Errors
    /// [`TransportError::Missing`] when there is no such file; else what went wrong in the end.
    pub fn get_range(&self, path: &str, range: Range<u64>) -> Result<Bytes, TransportError> {
        let wanted = range.end.saturating_sub(range.start);
        if wanted == 0 {
            return Ok(Bytes::new());
        }
        self.ask_in_turn(|endpoint| {
            self.inner.runtime.block_on(async {
                let options = GetOptions { range: Some(range.clone().into()), ..GetOptions::default() };
                use object_store::ObjectStore as _;
                let found = endpoint.store.get_opts(&endpoint.path(path), options).await;
                let found = found.map_err(|source| endpoint.failed("read", path, source))?;
                self.count_local(endpoint);
                self.receive(endpoint, found, wanted, path).await
            })
        })
    }

    /// Like [`Self::get_range`], but gives every piece to `take` as it arrives, in order, so that nothing large is held in
    /// memory and what came before a failure was not in vain. Ends early, without an error, when `take` breaks.
    ///
    /// # Errors
    /// As for [`Self::get_range`].
    pub fn stream_range(
        &self,
        path: &str,
        range: Range<u64>,
        take: &mut dyn FnMut(Bytes) -> ControlFlow<()>,
    ) -> Result<(), TransportError> {
        if range.is_empty() {
            return Ok(());
        }
        // A mirror goes on where the one before it stopped.
        let state = RefCell::new((range.start, take));
        self.ask_in_turn(|endpoint| {
            self.inner.runtime.block_on(async {
                use object_store::ObjectStore as _;
                let rest = state.borrow().0..range.end;
                let wanted = rest.end - rest.start;
                let options = GetOptions { range: Some(rest.into()), ..GetOptions::default() };
                let found = endpoint.store.get_opts(&endpoint.path(path), options).await;
                let found = found.map_err(|source| endpoint.failed("read", path, source))?;
                self.count_local(endpoint);
                let mut stream = found.into_stream();
                let mut left = wanted;
                while let Some(piece) =
                    stream.try_next().await.map_err(|source| endpoint.failed("read", path, source))?
                {
                    let length = piece.len() as u64;
                    let too_large = || TransportError::TooLarge { path: path.to_owned(), limit: wanted };
                    left = left.checked_sub(length).ok_or_else(too_large)?;
                    self.inner.counters.received(length);
                    let flow = {
                        let (position, take) = &mut *state.borrow_mut();
                        *position += length;
                        take(piece)
                    };
                    if flow.is_break() {
                        return Ok(());
                    }
                    if let Some(limit) = &self.inner.limit {
                        tokio::time::sleep(limit.after(length, Instant::now())).await;
                    }
                }
                if left == 0 { Ok(()) } else { Err(TransportError::Short { path: path.to_owned() }) }
            })
        })
    }

    /// Collects exactly `wanted` bytes.
    async fn receive(
        &self,
        endpoint: &Endpoint,
        found: GetResult,
        wanted: u64,
        path: &str,
    ) -> Result<Bytes, TransportError> {
        let first = usize::try_from(wanted.min(FIRST_BUFFER)).expect("at most FIRST_BUFFER");
        let mut bytes = BytesMut::with_capacity(first);
        let mut stream = found.into_stream();
        while let Some(piece) = stream.try_next().await.map_err(|source| endpoint.failed("read", path, source))? {
            if bytes.len() as u64 + piece.len() as u64 > wanted {
                return Err(TransportError::TooLarge { path: path.to_owned(), limit: wanted });
            }
            self.inner.counters.received(piece.len() as u64);
            bytes.extend_from_slice(&piece);
            if let Some(limit) = &self.inner.limit {
                tokio::time::sleep(limit.after(piece.len() as u64, Instant::now())).await;
            }
        }
        if bytes.len() as u64 == wanted {
            Ok(bytes.freeze())
        } else {
            Err(TransportError::Short { path: path.to_owned() })
        }
    }

    /// Length of a file in bytes; `None` when there is none.
    ///
    /// # Errors
    /// What went wrong in the end.
    pub fn length(&self, path: &str) -> Result<Option<u64>, TransportError> {
        let endpoint = self.first();
        self.count_local(endpoint);
        match self.inner.runtime.block_on(async { endpoint.store.head(&endpoint.path(path)).await }) {
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Ok(meta) => Ok(Some(meta.size)),
            Err(source) => Err(endpoint.failed("look at", path, source)),
        }
    }

    /// All files below a directory, in no order.
    ///
    /// # Errors
    /// [`TransportError::CannotList`] when the server has no listing, as a plain web server.
    pub fn list(&self, directory: &str) -> Result<Vec<Listed>, TransportError> {
        let endpoint = self.first();
        if endpoint.kind == Kind::Web {
            return Err(TransportError::CannotList { url: endpoint.url.clone() });
        }
        self.count_local(endpoint);
        let prefix = endpoint.path(directory);
        let all = endpoint.store.list(Some(&prefix)).try_collect::<Vec<_>>();
        let all = self.inner.runtime.block_on(all).map_err(|source| endpoint.failed("list", directory, source))?;
        let strip = |path: &object_store::path::Path| {
            let path = path.as_ref();
            path.strip_prefix(endpoint.prefix.as_ref()).unwrap_or(path).trim_start_matches('/').to_owned()
        };
        let listed = |meta: object_store::ObjectMeta| Listed {
            path: strip(&meta.location),
            length: meta.size,
            modified: meta.last_modified.into(),
        };
        Ok(all.into_iter().map(listed).collect())
    }

    /// Asks the endpoint that answered last, and after a failure the others in order. The first failure is told.
    fn ask_in_turn<T>(&self, ask: impl Fn(&Endpoint) -> Result<T, TransportError>) -> Result<T, TransportError> {
        let count = self.inner.endpoints.len();
        let preferred = self.inner.preferred.load(Ordering::Relaxed);
        let mut first = None;
        for turn in 0..count {
            let number = (preferred + turn) % count;
            match ask(&self.inner.endpoints[number]) {
                Ok(found) => {
                    self.inner.preferred.store(number, Ordering::Relaxed);
                    return Ok(found);
                }
                Err(error) => {
                    if turn + 1 < count {
                        tracing::info!("{}: {error}; trying a mirror", self.inner.endpoints[number].url);
                    }
                    first.get_or_insert(error);
                }
            }
        }
        Err(first.expect("there is at least one endpoint"))
    }

    /// Requests over HTTP are counted where they are sent.
    pub(super) fn count_local(&self, endpoint: &Endpoint) {
        if matches!(endpoint.kind, Kind::Directory(_)) {
            self.inner.counters.requested();
        }
    }
}
