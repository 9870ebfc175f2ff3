//! Reads files and parts of files. The caller's check of the content is the last step of each attempt.
//!
//! *Not here*: which endpoint is asked, and how often (`retry`).
//!
//! *Invariants*: content that the check refuses makes the attempt fail like any other wrong answer.
//!
//! *Used by* all code that reads from a remote.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::ops::{ControlFlow, Range};
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt as _;
use object_store::{GetOptions, GetResult, ObjectStore as _, ObjectStoreExt as _};

use super::appearance::{AnswerInfo, Appearance};
use super::open::{Endpoint, EndpointKind};
use super::reason::FailureReason;
use super::retry::{EndpointAttempt, FirstEndpoint};
use super::retry_class::{Need, Rejection, StreamControl};
use super::{FileVersion, ListedFile, Transport, TransportError};

/// The largest buffer that is allocated before bytes arrive for it.
const INITIAL_BUFFER_MAX: u64 = 1 << 20;

/// An answer may have fewer bytes than requested, and is then continued, but it must have at least this many.
const ANSWER_SIZE_MIN: u64 = 4 << 10;

/// Whether the content of a file may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutability {
    /// It may: the URL itself is asked first, bypassing caches.
    Mutable,
    /// Its name is the digest of its content: any mirror or cache may answer.
    Immutable,
}

/// The progress of receiving a part of a file over all attempts.
struct PartProgress<'a> {
    path: &'a str,
    position: &'a Cell<u64>,
    end: u64,
    /// The properties of the last answer.
    arrived: &'a RefCell<Option<AnswerInfo>>,
}

impl Transport {
    /// Reads a small file that may change; returns its content and version, or `None` when it does not exist.
    ///
    /// # Errors
    /// [`TransportError::TooLarge`] when it has more than `limit` bytes; otherwise the last failure.
    pub fn get(&self, path: &str, limit: u64) -> Result<Option<(Bytes, FileVersion)>, TransportError> {
        self.get_checked(path, limit, Mutability::Mutable, &|bytes| Ok(bytes.clone()))
    }

    /// Reads a small file and returns the result of `check` with the file's version, or `None` when it does not exist.
    /// Content that `check` refuses is a wrong answer like any other.
    ///
    /// # Errors
    /// [`TransportError::Wrong`] when `check` refuses the last answer; otherwise as for [`Self::get`].
    pub(crate) fn get_checked<T>(
        &self,
        path: &str,
        limit: u64,
        mutability: Mutability,
        check: &dyn Fn(&Bytes) -> Result<T, Rejection>,
    ) -> Result<Option<(T, FileVersion)>, TransportError> {
        let first = if mutability == Mutability::Mutable { FirstEndpoint::Url } else { FirstEndpoint::Answered };
        let found = self.try_endpoints(first, &|| 0, |attempt| {
            let (bytes, version, arrived) =
                self.run_attempt(attempt, path, self.request_whole(attempt, path, limit))?;
            match check(&bytes) {
                Ok(made) => Ok((made, version)),
                Err(rejection) => Err(wrong_answer(attempt, path, arrived.as_ref(), rejection)),
            }
        });
        match found {
            Err(TransportError::Missing { .. }) if self.need != Need::Required => Ok(None),
            other => other.map(Some),
        }
    }

    /// Requests a whole file once.
    async fn request_whole(
        &self,
        attempt: EndpointAttempt<'_>,
        path: &str,
        limit: u64,
    ) -> Result<(Bytes, FileVersion, Option<AnswerInfo>), TransportError> {
        let endpoint = attempt.endpoint;
        let found = endpoint.store_for(attempt.caches).get(&endpoint.path(path)).await;
        let found = found.map_err(|source| endpoint.classify_error("read", path, source))?;
        let arrived = found.extensions.get::<AnswerInfo>().cloned();
        let version = FileVersion { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
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

    /// Reads exactly the bytes `range` of a file, which must exist and have them.
    ///
    /// # Errors
    /// [`TransportError::Missing`] when there is no such file; otherwise the last failure.
    pub fn get_range(&self, path: &str, range: Range<u64>) -> Result<Bytes, TransportError> {
        self.get_range_checked(path, range, &mut |bytes| Ok(bytes.clone()))
    }

    /// Reads the bytes `range` of a file and returns the result of `check`. Content that it refuses is a wrong answer
    /// like any other.
    ///
    /// # Errors
    /// As for [`Self::get_range`], and [`TransportError::Wrong`] when `check` refuses the last answer.
    pub(crate) fn get_range_checked<T>(
        &self,
        path: &str,
        range: Range<u64>,
        check: &mut dyn FnMut(&Bytes) -> Result<T, Rejection>,
    ) -> Result<T, TransportError> {
        let length = range.end.saturating_sub(range.start).min(INITIAL_BUFFER_MAX);
        let buffer =
            RefCell::new(BytesMut::with_capacity(usize::try_from(length).expect("at most INITIAL_BUFFER_MAX")));
        let (position, arrived) = (Cell::new(range.start), RefCell::new(None));
        let check = RefCell::new(check);
        self.for_part().try_endpoints(FirstEndpoint::Answered, &|| position.get(), |attempt| {
            let mut take = |piece: Bytes| {
                buffer.borrow_mut().extend_from_slice(&piece);
                StreamControl::Continue
            };
            let part = PartProgress { path, position: &position, end: range.end, arrived: &arrived };
            self.request_part(attempt, &part, &RefCell::new(&mut take)).inspect_err(|error| {
                // The received bytes may be as wrong as their number.
                if error.is_corruption() {
                    buffer.borrow_mut().clear();
                    position.set(range.start);
                }
            })?;
            let bytes = buffer.take().freeze();
            (check.borrow_mut())(&bytes).map_err(|rejection| {
                position.set(range.start);
                wrong_answer(attempt, path, arrived.borrow().as_ref(), rejection)
            })
        })
    }

    /// Reads the bytes `range` of a file and passes every piece to `take` as it arrives, in order, so that no large
    /// buffer is needed and bytes received before a failure are used. Ends early, without an error, when `take` breaks.
    ///
    /// # Errors
    /// As for [`Self::get_range`].
    pub fn stream_range(
        &self,
        path: &str,
        range: Range<u64>,
        take: &mut dyn FnMut(Bytes) -> ControlFlow<()>,
    ) -> Result<(), TransportError> {
        self.stream_checked(path, range, &mut |piece| {
            if take(piece).is_break() { StreamControl::Stop } else { StreamControl::Continue }
        })
    }

    /// Reads the bytes `range` of a file for a receiver that checks the pieces. Content that it rejects is requested
    /// again, from the position that it names, from another endpoint or bypassing caches.
    ///
    /// # Errors
    /// As for [`Self::get_range_checked`].
    pub(crate) fn stream_checked(
        &self,
        path: &str,
        range: Range<u64>,
        take: &mut dyn FnMut(Bytes) -> StreamControl,
    ) -> Result<(), TransportError> {
        let (position, arrived) = (Cell::new(range.start), RefCell::new(None));
        let take = RefCell::new(take);
        self.for_part().try_endpoints(FirstEndpoint::Answered, &|| position.get(), |attempt| {
            let part = PartProgress { path, position: &position, end: range.end, arrived: &arrived };
            self.request_part(attempt, &part, &take)
        })
    }

    /// Returns the connection for a part of a file, which must exist unless the caller can do without it.
    fn for_part(&self) -> Self {
        if self.need == Need::Likely { self.required() } else { self.clone() }
    }

    /// Requests the rest of a part from one endpoint, which may send it in several answers, as long as each has some
    /// bytes.
    fn request_part(
        &self,
        attempt: EndpointAttempt<'_>,
        part: &PartProgress<'_>,
        take: &RefCell<&mut dyn FnMut(Bytes) -> StreamControl>,
    ) -> Result<(), TransportError> {
        while part.position.get() < part.end {
            let before = part.position.get();
            if self.run_attempt(attempt, part.path, self.request_rest(attempt, part, take))? {
                return Ok(());
            }
            // The next endpoint continues at the position where this one stopped.
            let received = part.position.get().saturating_sub(before);
            if part.position.get() < part.end && received < ANSWER_SIZE_MIN {
                return Err(TransportError::Short { path: part.path.to_owned() });
            }
        }
        Ok(())
    }

    /// Requests the rest of a part once; returns whether the receiver wants nothing more.
    async fn request_rest(
        &self,
        attempt: EndpointAttempt<'_>,
        part: &PartProgress<'_>,
        take: &RefCell<&mut dyn FnMut(Bytes) -> StreamControl>,
    ) -> Result<bool, TransportError> {
        let (endpoint, path, start) = (attempt.endpoint, part.path, part.position.get());
        let options = GetOptions { range: Some((start..part.end).into()), ..GetOptions::default() };
        let found = endpoint.store_for(attempt.caches).get_opts(&endpoint.path(path), options).await;
        let found = found.map_err(|source| endpoint.classify_error("read", path, source))?;
        let arrived = found.extensions.get::<AnswerInfo>().cloned();
        part.arrived.replace(arrived.clone());
        if arrived.as_ref().is_some_and(|arrived| arrived.is_whole) {
            self.warn_whole_files(endpoint, start);
        }
        let promised = arrived.as_ref().and_then(|arrived| arrived.length).unwrap_or(part.end - start);
        let (mut is_over, mut wrong) = (false, None);
        // Login pages ignore ranges, and their bytes must not be taken for the beginning of the file.
        let is_page = || arrived.as_ref().is_some_and(|arrived| arrived.is_whole && Appearance::is_page(arrived));
        let mut is_first = true;
        let mut receive = |piece: Bytes| {
            if std::mem::take(&mut is_first) && is_page() {
                wrong = Some(Rejection::wrong("it is not what was asked for"));
                return ControlFlow::Break(());
            }
            part.position.set(part.position.get() + piece.len() as u64);
            match (take.borrow_mut())(piece) {
                StreamControl::Continue => ControlFlow::Continue(()),
                StreamControl::Stop => {
                    is_over = true;
                    ControlFlow::Break(())
                }
                StreamControl::Reject(from, rejection) => {
                    part.position.set(from);
                    wrong = Some(rejection);
                    ControlFlow::Break(())
                }
            }
        };
        self.receive(endpoint, found, path, &mut receive).await?;
        let short = || TransportError::Short { path: path.to_owned() };
        match wrong {
            Some(rejection) => Err(wrong_answer(attempt, path, arrived.as_ref(), rejection)),
            None if is_over || part.position.get() - start >= promised => Ok(is_over),
            // A web page is usually shorter than the requested range.
            None if !Appearance::new(arrived.as_ref()).is_plain() => {
                Err(wrong_answer(attempt, path, arrived.as_ref(), Rejection::wrong(short())))
            }
            None => Err(short()),
        }
    }

    /// Passes all received pieces to `take` until it breaks.
    async fn receive(
        &self,
        endpoint: &Endpoint,
        found: GetResult,
        path: &str,
        take: &mut dyn FnMut(Bytes) -> ControlFlow<()>,
    ) -> Result<(), TransportError> {
        self.count_local(endpoint);
        let mut stream = found.into_stream();
        while let Some(piece) =
            stream.try_next().await.map_err(|source| endpoint.classify_error("read", path, source))?
        {
            let length = piece.len() as u64;
            self.inner.counters.count_received(length);
            if take(piece).is_break() {
                return Ok(());
            }
            if let Some(limit) = &self.inner.limit {
                tokio::time::sleep(limit.delay_after(length, Instant::now())).await;
            }
        }
        Ok(())
    }

    /// Runs one attempt, at most until its deadline.
    fn run_attempt<T>(
        &self,
        attempt: EndpointAttempt<'_>,
        path: &str,
        work: impl Future<Output = Result<T, TransportError>>,
    ) -> Result<T, TransportError> {
        let Some(end) = attempt.end else { return self.inner.runtime.block_on(work) };
        let late = || TransportError::Failed { action: "read", path: path.to_owned(), source: FailureReason::TooLate };
        let limited = async { tokio::time::timeout_at(end.into(), work).await };
        self.inner.runtime.block_on(limited).unwrap_or_else(|_| Err(late()))
    }

    /// Logs one warning when a server sends whole files: each read then transfers the file from its start.
    fn warn_whole_files(&self, endpoint: &Endpoint, start: u64) {
        if start > INITIAL_BUFFER_MAX && !self.inner.has_warned_whole_files.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "{} does not support Range requests and sends whole files: reading parts of them is slow, and costs much more \
                 than the parts; nginx, Apache, caddy and 'sapwood serve' support them",
                endpoint.url
            );
        }
    }

    /// Returns the length of a file in bytes; `None` when it does not exist.
    ///
    /// # Errors
    /// The last failure.
    pub fn length(&self, path: &str) -> Result<Option<u64>, TransportError> {
        let endpoint = self.first();
        self.count_local(endpoint);
        match self.inner.runtime.block_on(async { endpoint.retrying.head(&endpoint.path(path)).await }) {
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Ok(meta) => Ok(Some(meta.size)),
            Err(source) => Err(endpoint.classify_error("look at", path, source)),
        }
    }

    /// Lists all files below a directory, in no order.
    ///
    /// # Errors
    /// [`TransportError::CannotList`] when the server has no listing, such as a plain web server.
    pub(crate) fn list(&self, directory: &str) -> Result<Vec<ListedFile>, TransportError> {
        let endpoint = self.first();
        if endpoint.kind == EndpointKind::Web {
            return Err(TransportError::CannotList { url: endpoint.url.clone() });
        }
        self.count_local(endpoint);
        let prefix = endpoint.path(directory);
        let all = endpoint.retrying.list(Some(&prefix)).try_collect::<Vec<_>>();
        let all =
            self.inner.runtime.block_on(all).map_err(|source| endpoint.classify_error("list", directory, source))?;
        let strip = |path: &object_store::path::Path| {
            let path = path.as_ref();
            path.strip_prefix(endpoint.prefix.as_ref()).unwrap_or(path).trim_start_matches('/').to_owned()
        };
        let listed = |meta: object_store::ObjectMeta| ListedFile {
            path: strip(&meta.location),
            length: meta.size,
            modified: meta.last_modified.into(),
        };
        Ok(all.into_iter().map(listed).collect())
    }
}

/// Returns the error for an answer that its receiver rejects.
fn wrong_answer(
    attempt: EndpointAttempt<'_>,
    path: &str,
    arrived: Option<&AnswerInfo>,
    rejection: Rejection,
) -> TransportError {
    let (Rejection { class, reason }, url) = (rejection, attempt.endpoint.url.as_str().into());
    TransportError::Wrong { path: path.into(), url, appearance: Appearance::new(arrived), source: reason, class }
}
