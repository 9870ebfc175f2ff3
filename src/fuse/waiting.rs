//! Where operations wait for what is absent, so that the threads that read the kernel's messages never do.
//!
//! An operation that needs something comes here with its reply. One of a few threads has it fetched and carries the
//! operation out again, until it is answered, fails, or has waited as long as a reader is to wait.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use fuser::INodeNo;

use super::answers::{Desk, Outcome, Refuse};
use super::board::Ticket;
use crate::store::{Absent, Fetch};
use crate::vfs::{FsError, Vfs};

/// Operations that can wait at the same time; more wait for their turn. Each may keep a buffer of the largest READ.
const THREADS: usize = 16;

/// A reader that waited longer is mentioned in the log, with what it waited for.
const SLOW: Duration = Duration::from_secs(2);

type Job = Box<dyn FnOnce(&Desk, &dyn Fetch) + Send>;

/// The operations that wait.
pub(super) struct Waiting {
    jobs: Sender<Job>,
}

impl Waiting {
    /// Starts the threads, which end when the value is dropped.
    pub(super) fn start(desk: &Arc<Desk>, fetcher: &Arc<dyn Fetch>) -> io::Result<Self> {
        let (jobs, receiver) = unbounded::<Job>();
        for _ in 0..THREADS {
            let (receiver, desk, fetcher): (Receiver<Job>, _, _) =
                (receiver.clone(), Arc::clone(desk), Arc::clone(fetcher));
            thread::Builder::new().name("waiting".to_owned()).spawn(move || {
                receiver.iter().for_each(|job| job(&desk, &*fetcher));
            })?;
        }
        Ok(Self { jobs })
    }

    /// Has `operation` on `node` carried out again when `absent` has come.
    pub(super) fn add<R: Refuse>(
        &self,
        ticket: Ticket,
        node: INodeNo,
        absent: Absent,
        reply: R,
        operation: impl Fn(&Desk, R) -> Outcome<R> + Send + 'static,
    ) {
        let since = Instant::now();
        ticket.waits();
        let job: Job = Box::new(move |desk, fetcher| {
            let span = slow_span(desk, node, &absent);
            let _within = span.enter();
            let deadline = since + fetcher.patience();
            let again = |desk: &Desk, reply| {
                ticket.in_hand();
                let outcome = operation(desk, reply);
                ticket.waits();
                outcome
            };
            let outcome = wait_for(desk, fetcher, deadline, absent, reply, &again);
            let waited = since.elapsed();
            match outcome {
                Outcome::Answered if waited >= SLOW && desk.slow.is_due() => {
                    tracing::warn!(seconds = waited.as_secs_f32(), "a reader waited for what was not here: {absent}");
                }
                Outcome::Answered => {}
                Outcome::Unanswered(reply, error) => reply.refuse(desk.fail(node, &error)),
            }
        });
        // Without receivers the job comes back and is dropped, and with it the reply, which then answers by itself.
        if self.jobs.send(job).is_err() {
            tracing::debug!("an operation came after the end");
        }
    }
}

/// What a request is about, for every line of the log that is written on its behalf.
fn slow_span(desk: &Desk, node: INodeNo, absent: &Absent) -> tracing::Span {
    let image = desk.vfs.image();
    let object = match absent {
        Absent::Content { index, .. } => image.object_by_index(*index).ok(),
        Absent::ImageBlock(_) => None,
    };
    tracing::info_span!("request", inode = node.0, object = object.map(|id| id.short()))
}

fn wait_for<R>(
    desk: &Desk,
    fetcher: &dyn Fetch,
    deadline: Instant,
    mut absent: Absent,
    mut reply: R,
    operation: &dyn Fn(&Desk, R) -> Outcome<R>,
) -> Outcome<R> {
    loop {
        if let Err(error) = fetcher.fetch(&absent, deadline) {
            return Outcome::Unanswered(reply, error.into());
        }
        match operation(desk, reply) {
            // Two things at once may be one too many for a small cache; but not for ever.
            Outcome::Unanswered(back, FsError::Absent(next)) if Instant::now() < deadline => {
                (reply, absent) = (back, next)
            }
            done => return done,
        }
    }
}

/// Asks `question`, fetching what is absent, for a caller that may wait.
pub(super) fn patiently<T>(vfs: &Vfs, question: impl Fn(&Vfs) -> Result<T, FsError>) -> Result<T, FsError> {
    loop {
        match (question(vfs), vfs.fetcher()) {
            (Err(FsError::Absent(absent)), Some(fetcher)) => {
                fetcher.fetch(&absent, Instant::now() + fetcher.patience())?;
            }
            (done, _) => return done,
        }
    }
}
