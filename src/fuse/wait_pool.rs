//! A thread pool on which operations wait for absent content, so that the threads that read the kernel's messages never wait.
//!
//! An operation that needs absent content is submitted with its unused reply. A thread of the pool has the content fetched
//! and runs the operation again, until it has replied, failed, or waited as long as the mount's fetch timeout.
//!
//! *Not here*: fetching (`cache`, through [`Fetch`]).
//!
//! *Used by* `adapter`.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use fuser::INodeNo;

use super::operations::{ErrorReply, OperationOutcome, Operations};
use super::shared::RequestSlot;
use crate::store::{Absent, Fetch};
use crate::vfs::{FsError, Vfs};

/// Operations that can wait at the same time; more are queued. Each thread may keep a buffer of the largest READ.
const THREAD_COUNT: usize = 16;

/// A reader that waited longer than this is logged together with the content for which it waited.
const SLOW_WAIT: Duration = Duration::from_secs(2);

type WaitJob = Box<dyn FnOnce(&Operations, &dyn Fetch) + Send>;

/// The pool of threads on which operations wait.
pub(super) struct WaitPool {
    jobs: Sender<WaitJob>,
}

impl WaitPool {
    /// Starts the threads, which end when the value is dropped.
    pub(super) fn start(operations: &Arc<Operations>, fetcher: &Arc<dyn Fetch>) -> io::Result<Self> {
        let (jobs, receiver) = unbounded::<WaitJob>();
        for _ in 0..THREAD_COUNT {
            let (receiver, operations, fetcher): (Receiver<WaitJob>, _, _) =
                (receiver.clone(), Arc::clone(operations), Arc::clone(fetcher));
            thread::Builder::new().name("fetch-wait".to_owned()).spawn(move || {
                receiver.iter().for_each(|job| job(&operations, &*fetcher));
            })?;
        }
        Ok(Self { jobs })
    }

    /// Runs `operation` on `node` again after `absent` has been fetched.
    pub(super) fn submit<R: ErrorReply>(
        &self,
        slot: RequestSlot,
        node: INodeNo,
        absent: Absent,
        reply: R,
        operation: impl Fn(&Operations, R) -> OperationOutcome<R> + Send + 'static,
    ) {
        let since = Instant::now();
        slot.set_waiting();
        let job: WaitJob = Box::new(move |operations, fetcher| {
            let span = request_span(operations, node, &absent);
            let _entered = span.enter();
            let deadline = since + fetcher.read_timeout();
            let run = |operations: &Operations, reply| {
                slot.set_running();
                let outcome = operation(operations, reply);
                slot.set_waiting();
                outcome
            };
            let outcome = fetch_and_retry(operations, fetcher, deadline, absent, reply, &run);
            let waited = since.elapsed();
            match outcome {
                OperationOutcome::Answered if waited >= SLOW_WAIT && operations.slow_fetch_log.is_due() => {
                    tracing::warn!(seconds = waited.as_secs_f32(), "a reader waited for absent content: {absent}");
                }
                OperationOutcome::Answered => {}
                OperationOutcome::Unanswered(reply, error) => reply.reply_error(operations.report_error(node, &error)),
            }
        });
        // Without receivers the job is returned and dropped, and with it the reply, which sends an error when dropped.
        if self.jobs.send(job).is_err() {
            tracing::debug!("an operation was submitted after the pool ended");
        }
    }
}

/// Returns a span that names the inode and object of a request in each log line that is written on its behalf.
fn request_span(operations: &Operations, node: INodeNo, absent: &Absent) -> tracing::Span {
    let image = operations.vfs.image();
    let object = match absent {
        Absent::Content { index, .. } => image.object_by_index(*index).ok(),
        Absent::ImageBlock(_) => None,
    };
    tracing::info_span!("request", inode = node.0, object = object.map(|id| id.short()))
}

fn fetch_and_retry<R>(
    operations: &Operations,
    fetcher: &dyn Fetch,
    deadline: Instant,
    mut absent: Absent,
    mut reply: R,
    operation: &dyn Fn(&Operations, R) -> OperationOutcome<R>,
) -> OperationOutcome<R> {
    loop {
        if let Err(error) = fetcher.fetch(&absent, deadline) {
            return OperationOutcome::Unanswered(reply, error.into());
        }
        match operation(operations, reply) {
            // An operation may need several pieces, of which a small cache may keep only one: retry until the deadline.
            OperationOutcome::Unanswered(returned, FsError::Absent(next)) if Instant::now() < deadline => {
                (reply, absent) = (returned, next)
            }
            outcome => return outcome,
        }
    }
}

/// Calls `query`, fetching absent content between attempts, for a caller that may wait.
pub(super) fn fetch_and_ask<T>(vfs: &Vfs, query: impl Fn(&Vfs) -> Result<T, FsError>) -> Result<T, FsError> {
    loop {
        match (query(vfs), vfs.fetcher()) {
            (Err(FsError::Absent(absent)), Some(fetcher)) => {
                fetcher.fetch(&absent, Instant::now() + fetcher.read_timeout())?;
            }
            (result, _) => return result,
        }
    }
}
