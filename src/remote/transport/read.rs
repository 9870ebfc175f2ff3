//! Receiving.

use std::cell::{Cell, RefCell};
use std::ops::{ControlFlow, Range};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt as _;
use object_store::{GetOptions, GetResult, ObjectStore as _, ObjectStoreExt as _};

use super::open::{Endpoint, Kind};
use super::turns::First;
use super::{Listed, Transport, TransportError, Version};

/// A buffer is not made larger than this before bytes arrive for it.
const FIRST_BUFFER: u64 = 1 << 20;

impl Transport {
    /// The whole of a small file and its version; `None` when there is none.
    ///
    /// # Errors
    /// [`TransportError::TooLarge`] when it has more than `limit` bytes; else what went wrong in the end.
    pub fn get(&self, path: &str, limit: u64) -> Result<Option<(Bytes, Version)>, TransportError> {
        let found = self.ask_in_turn(First::Url, &|| 0, |endpoint| {
            self.inner.runtime.block_on(async {
                let found = endpoint.once.get(&endpoint.path(path)).await;
                let found = found.map_err(|source| endpoint.failed("read", path, source))?;
                if found.meta.size > limit {
                    return Err(TransportError::TooLarge { path: path.to_owned(), limit });
                }
                let version = Version { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
                let wanted = found.meta.size;
                let mut bytes = BytesMut::new();
                let mut take = |piece: Bytes| {
                    bytes.extend_from_slice(&piece);
                    ControlFlow::Continue(())
                };
                self.receive(endpoint, found, wanted, path, &mut take).await?;
                Ok((bytes.freeze(), version))
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
        let first = range.end.saturating_sub(range.start).min(FIRST_BUFFER);
        let mut bytes = BytesMut::with_capacity(usize::try_from(first).expect("at most FIRST_BUFFER"));
        self.stream_range(path, range, &mut |piece| {
            bytes.extend_from_slice(&piece);
            ControlFlow::Continue(())
        })?;
        Ok(bytes.freeze())
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
        // Whoever is asked next goes on where the one before stopped.
        let position = Cell::new(range.start);
        let take = RefCell::new(take);
        self.ask_in_turn(First::Answered, &|| position.get(), |endpoint| {
            let rest = position.get()..range.end;
            if rest.is_empty() {
                return Ok(());
            }
            self.inner.runtime.block_on(async {
                let wanted = rest.end - rest.start;
                let options = GetOptions { range: Some(rest.into()), ..GetOptions::default() };
                let found = endpoint.once.get_opts(&endpoint.path(path), options).await;
                let found = found.map_err(|source| endpoint.failed("read", path, source))?;
                let mut take = |piece: Bytes| {
                    position.set(position.get() + piece.len() as u64);
                    (take.borrow_mut())(piece)
                };
                self.receive(endpoint, found, wanted, path, &mut take).await
            })
        })
    }

    /// Gives exactly `wanted` bytes to `take`, unless that breaks.
    async fn receive(
        &self,
        endpoint: &Endpoint,
        found: GetResult,
        wanted: u64,
        path: &str,
        take: &mut dyn FnMut(Bytes) -> ControlFlow<()>,
    ) -> Result<(), TransportError> {
        self.count_local(endpoint);
        let mut left = wanted;
        let mut stream = found.into_stream();
        while let Some(piece) = stream.try_next().await.map_err(|source| endpoint.failed("read", path, source))? {
            let length = piece.len() as u64;
            let too_large = || TransportError::TooLarge { path: path.to_owned(), limit: wanted };
            left = left.checked_sub(length).ok_or_else(too_large)?;
            self.inner.counters.received(length);
            if take(piece).is_break() {
                return Ok(());
            }
            if let Some(limit) = &self.inner.limit {
                tokio::time::sleep(limit.after(length, Instant::now())).await;
            }
        }
        if left == 0 { Ok(()) } else { Err(TransportError::Short { path: path.to_owned() }) }
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
}
