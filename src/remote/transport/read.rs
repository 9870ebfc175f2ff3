//! Receiving: one attempt at a file or a part of it, with the check of what came as its last step.
//!
//! Not here: who is asked, and how often, see `turns`. Invariant: a check that refuses makes the attempt fail like any other
//! wrong answer. Used by all who read from a remote.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::ops::{ControlFlow, Range};
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt as _;
use object_store::{GetOptions, GetResult, ObjectStore as _, ObjectStoreExt as _};

use super::appearance::{Appearance, Arrived};
use super::hope::{Flow, Need, Refusal};
use super::open::{Endpoint, Kind};
use super::reason::Reason;
use super::turns::{Attempt, First};
use super::{Listed, Transport, TransportError, Version};

/// A buffer is not made larger than this before bytes arrive for it.
const FIRST_BUFFER: u64 = 1 << 20;

/// An answer may bring less than was asked for and is then gone on with, but not less than this.
const PART_MIN: u64 = 4 << 10;

/// Whether the same name may stand for other bytes tomorrow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutability {
    /// It may: the URL itself is asked first, past caches.
    Mutable,
    /// Its name tells its content: anybody may answer.
    Immutable,
}

/// A part of a file, as far as it has come over all attempts.
struct Part<'a> {
    path: &'a str,
    position: &'a Cell<u64>,
    end: u64,
    /// What is known of the last answer.
    arrived: &'a RefCell<Option<Arrived>>,
}

impl Transport {
    /// The whole of a small file that may change, and its version; `None` when there is none.
    ///
    /// # Errors
    /// [`TransportError::TooLarge`] when it has more than `limit` bytes; else what went wrong in the end.
    pub fn get(&self, path: &str, limit: u64) -> Result<Option<(Bytes, Version)>, TransportError> {
        self.get_checked(path, limit, Mutability::Mutable, &|bytes| Ok(bytes.clone()))
    }

    /// What `check` makes of a small file, and the version of the file; `None` when there is none. What `check` refuses is a
    /// wrong answer like any other.
    ///
    /// # Errors
    /// [`TransportError::Wrong`] when `check` refuses in the end; else as for [`Self::get`].
    pub fn get_checked<T>(
        &self,
        path: &str,
        limit: u64,
        mutability: Mutability,
        check: &dyn Fn(&Bytes) -> Result<T, Refusal>,
    ) -> Result<Option<(T, Version)>, TransportError> {
        let first = if mutability == Mutability::Mutable { First::Url } else { First::Answered };
        let found = self.ask_in_turn(first, &|| 0, |attempt| {
            let (bytes, version, arrived) = self.drive(attempt, path, self.whole(attempt, path, limit))?;
            match check(&bytes) {
                Ok(made) => Ok((made, version)),
                Err(refusal) => Err(refused(attempt, path, arrived.as_ref(), refusal)),
            }
        });
        match found {
            Err(TransportError::Missing { .. }) if self.need != Need::Must => Ok(None),
            other => other.map(Some),
        }
    }

    /// One attempt at a whole file.
    async fn whole(
        &self,
        attempt: Attempt<'_>,
        path: &str,
        limit: u64,
    ) -> Result<(Bytes, Version, Option<Arrived>), TransportError> {
        let endpoint = attempt.endpoint;
        let found = endpoint.asking(attempt.caches).get(&endpoint.path(path)).await;
        let found = found.map_err(|source| endpoint.failed("read", path, source))?;
        let arrived = found.extensions.get::<Arrived>().cloned();
        let version = Version { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
        let length = if arrived.is_some() { None } else { Some(found.meta.size) };
        let too_large = || TransportError::TooLarge { path: path.to_owned(), limit };
        if length.is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let mut bytes = BytesMut::new();
        let mut take = |piece: Bytes| {
            bytes.extend_from_slice(&piece);
            if bytes.len() as u64 > limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        self.receive(endpoint, found, path, &mut take).await?;
        match length {
            _ if bytes.len() as u64 > limit => Err(too_large()),
            Some(length) if length != bytes.len() as u64 => Err(TransportError::Short { path: path.to_owned() }),
            _ => Ok((bytes.freeze(), version, arrived)),
        }
    }

    /// Exactly the bytes `range` of a file, which must exist and reach that far.
    ///
    /// # Errors
    /// [`TransportError::Missing`] when there is no such file; else what went wrong in the end.
    pub fn get_range(&self, path: &str, range: Range<u64>) -> Result<Bytes, TransportError> {
        self.get_range_checked(path, range, &mut |bytes| Ok(bytes.clone()))
    }

    /// What `check` makes of the bytes `range` of a file. What it refuses is a wrong answer like any other.
    ///
    /// # Errors
    /// As for [`Self::get_range`], and [`TransportError::Wrong`] when `check` refuses in the end.
    pub fn get_range_checked<T>(
        &self,
        path: &str,
        range: Range<u64>,
        check: &mut dyn FnMut(&Bytes) -> Result<T, Refusal>,
    ) -> Result<T, TransportError> {
        let length = range.end.saturating_sub(range.start).min(FIRST_BUFFER);
        let buffer = RefCell::new(BytesMut::with_capacity(usize::try_from(length).expect("at most FIRST_BUFFER")));
        let (position, arrived) = (Cell::new(range.start), RefCell::new(None));
        let check = RefCell::new(check);
        self.asking_for_part().ask_in_turn(First::Answered, &|| position.get(), |attempt| {
            let mut take = |piece: Bytes| {
                buffer.borrow_mut().extend_from_slice(&piece);
                Flow::More
            };
            let part = Part { path, position: &position, end: range.end, arrived: &arrived };
            self.parts(attempt, &part, &RefCell::new(&mut take)).inspect_err(|error| {
                // What came may be as wrong as its length.
                if error.is_corruption() {
                    buffer.borrow_mut().clear();
                    position.set(range.start);
                }
            })?;
            let bytes = buffer.take().freeze();
            (check.borrow_mut())(&bytes).map_err(|refusal| {
                position.set(range.start);
                refused(attempt, path, arrived.borrow().as_ref(), refusal)
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
        self.stream_checked(path, range, &mut |piece| if take(piece).is_break() { Flow::Enough } else { Flow::More })
    }

    /// The same for a receiver that checks what it gets: what it finds wrong is asked for again, from the position that it
    /// names, of somebody else or past caches.
    ///
    /// # Errors
    /// As for [`Self::get_range_checked`].
    pub fn stream_checked(
        &self,
        path: &str,
        range: Range<u64>,
        take: &mut dyn FnMut(Bytes) -> Flow,
    ) -> Result<(), TransportError> {
        let (position, arrived) = (Cell::new(range.start), RefCell::new(None));
        let take = RefCell::new(take);
        self.asking_for_part().ask_in_turn(First::Answered, &|| position.get(), |attempt| {
            let part = Part { path, position: &position, end: range.end, arrived: &arrived };
            self.parts(attempt, &part, &take)
        })
    }

    /// The connection for a part of a file, which must be there unless there is a way without it.
    fn asking_for_part(&self) -> Self {
        if self.need == Need::Likely { self.required() } else { self.clone() }
    }

    /// Asks one place for all that is left of a part: it may bring that in several answers, as long as each brings something.
    fn parts(
        &self,
        attempt: Attempt<'_>,
        part: &Part<'_>,
        take: &RefCell<&mut dyn FnMut(Bytes) -> Flow>,
    ) -> Result<(), TransportError> {
        while part.position.get() < part.end {
            let before = part.position.get();
            if self.drive(attempt, part.path, self.part(attempt, part, take))? {
                return Ok(());
            }
            // The place that is asked next goes on where this one stopped.
            let came = part.position.get().saturating_sub(before);
            if part.position.get() < part.end && came < PART_MIN {
                return Err(TransportError::Short { path: part.path.to_owned() });
            }
        }
        Ok(())
    }

    /// One request for what is left of a part; whether the receiver has had enough.
    async fn part(
        &self,
        attempt: Attempt<'_>,
        part: &Part<'_>,
        take: &RefCell<&mut dyn FnMut(Bytes) -> Flow>,
    ) -> Result<bool, TransportError> {
        let (endpoint, path, start) = (attempt.endpoint, part.path, part.position.get());
        let options = GetOptions { range: Some((start..part.end).into()), ..GetOptions::default() };
        let found = endpoint.asking(attempt.caches).get_opts(&endpoint.path(path), options).await;
        let found = found.map_err(|source| endpoint.failed("read", path, source))?;
        let arrived = found.extensions.get::<Arrived>().cloned();
        part.arrived.replace(arrived.clone());
        if arrived.as_ref().is_some_and(|arrived| arrived.is_whole) {
            self.tell_of_whole_files(endpoint, start);
        }
        let promised = arrived.as_ref().and_then(|arrived| arrived.length).unwrap_or(part.end - start);
        let (mut is_over, mut wrong) = (false, None);
        // No login page heeds ranges, and its bytes should not be taken for the beginning of what was asked for.
        let is_page = || arrived.as_ref().is_some_and(|arrived| arrived.is_whole && Appearance::is_page(arrived));
        let mut is_first = true;
        let mut receive = |piece: Bytes| {
            if std::mem::take(&mut is_first) && is_page() {
                wrong = Some(Refusal::wrong("it is not what was asked for"));
                return ControlFlow::Break(());
            }
            part.position.set(part.position.get() + piece.len() as u64);
            match (take.borrow_mut())(piece) {
                Flow::More => ControlFlow::Continue(()),
                Flow::Enough => {
                    is_over = true;
                    ControlFlow::Break(())
                }
                Flow::Wrong(from, refusal) => {
                    part.position.set(from);
                    wrong = Some(refusal);
                    ControlFlow::Break(())
                }
            }
        };
        self.receive(endpoint, found, path, &mut receive).await?;
        let short = || TransportError::Short { path: path.to_owned() };
        match wrong {
            Some(refusal) => Err(refused(attempt, path, arrived.as_ref(), refusal)),
            None if is_over || part.position.get() - start >= promised => Ok(is_over),
            // A web page is mostly shorter than what was asked for.
            None if !Appearance::new(arrived.as_ref()).is_plain() => {
                Err(refused(attempt, path, arrived.as_ref(), Refusal::wrong(short())))
            }
            None => Err(short()),
        }
    }

    /// Gives all that comes to `take`, unless that breaks.
    async fn receive(
        &self,
        endpoint: &Endpoint,
        found: GetResult,
        path: &str,
        take: &mut dyn FnMut(Bytes) -> ControlFlow<()>,
    ) -> Result<(), TransportError> {
        self.count_local(endpoint);
        let mut stream = found.into_stream();
        while let Some(piece) = stream.try_next().await.map_err(|source| endpoint.failed("read", path, source))? {
            let length = piece.len() as u64;
            self.inner.counters.received(length);
            if take(piece).is_break() {
                return Ok(());
            }
            if let Some(limit) = &self.inner.limit {
                tokio::time::sleep(limit.after(length, Instant::now())).await;
            }
        }
        Ok(())
    }

    /// Waits for one attempt, at most as long as it may take.
    fn drive<T>(
        &self,
        attempt: Attempt<'_>,
        path: &str,
        work: impl Future<Output = Result<T, TransportError>>,
    ) -> Result<T, TransportError> {
        let Some(end) = attempt.end else { return self.inner.runtime.block_on(work) };
        let late = || TransportError::Failed { action: "read", path: path.to_owned(), source: Reason::TooLate };
        let limited = async { tokio::time::timeout_at(end.into(), work).await };
        self.inner.runtime.block_on(limited).unwrap_or_else(|_| Err(late()))
    }

    /// Once: what the reader waits for is read from the start of the file each time.
    fn tell_of_whole_files(&self, endpoint: &Endpoint, start: u64) {
        if start > FIRST_BUFFER && !self.inner.said_whole.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "{} does not support Range requests and sends whole files: reading parts of them is slow, and costs much more \
                 than the parts; nginx, Apache, caddy and 'sapwood serve' support them",
                endpoint.url
            );
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
}

/// An answer that its receiver refuses.
fn refused(attempt: Attempt<'_>, path: &str, arrived: Option<&Arrived>, refusal: Refusal) -> TransportError {
    let (Refusal { hope, why }, url) = (refusal, attempt.endpoint.url.as_str().into());
    TransportError::Wrong { path: path.into(), url, appearance: Appearance::new(arrived), source: why, hope }
}
