//! A priority thread pool for fetches.
//!
//! Foreground requests (a reader is blocked) run first. Background jobs do not start, and running ones pause, until no
//! foreground request is pending. Speculative requests are limited to two at a time. The contents of a profile are not
//! treated as background jobs, nor is what a bulk reader reads next.
//!
//! *Not here*: what a job fetches (`execute`, `bulk`, `image`).
//!
//! *Invariant*: a job may wait only for jobs of an earlier [`Priority`], so that no jobs wait for each other in a circle.
//!
//! *Used by* `image`, `objects`, `bulk`, `readahead` and `tree`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, unbounded};
use parking_lot::{Condvar, Mutex};

/// The lowest rate of a link, in bytes a second, at which what a bulk reader reads next is fetched while readers wait. On a
/// slower link a long request would delay other readers for long, and little is lost by the pauses between two requests.
const BULK_MIN_RATE: u64 = 512 << 10;

/// The priority of a job. Each has its own threads; background jobs wait for foreground jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cache) enum Priority {
    /// Parts of the image that a reader waits for.
    Metadata,
    /// Contents that a reader waits for.
    Foreground,
    /// Contents that are probably read soon. These jobs do not pause for foreground requests, so they have to be small, or a
    /// profile has to list the contents.
    Speculative,
    /// Contents that a bulk reader reads next, on all but slow links. These jobs do not pause for foreground requests: the bulk
    /// reader is usually the only one that waits, and leaving the link idle until its read completes wastes bandwidth. Two
    /// requests at a time leave a share of the link to other readers.
    Bulk,
    /// All other jobs.
    Background,
}

impl Priority {
    const ALL: [Self; 5] = [Self::Metadata, Self::Foreground, Self::Speculative, Self::Bulk, Self::Background];

    /// Returns how many jobs of this priority run at the same time. Of three background jobs two keep a link busy while the
    /// third decompresses.
    const fn threads(self) -> usize {
        match self {
            Self::Metadata => 4,
            Self::Foreground => 8,
            Self::Speculative | Self::Bulk => 2,
            Self::Background => 3,
        }
    }

    /// Returns the priority of what a stream reads next over a link of `rate` bytes a second; `is_bulk` says that its reader
    /// is a bulk reader.
    pub(crate) const fn for_stream(is_bulk: bool, rate: u64) -> Self {
        if is_bulk && rate >= BULK_MIN_RATE { Self::Bulk } else { Self::Background }
    }

    const fn is_foreground(self) -> bool {
        matches!(self, Self::Metadata | Self::Foreground)
    }
}

type FetchJob = Box<dyn FnOnce() + Send>;

/// A pool of threads that execute fetches by priority.
pub(in crate::cache) struct FetchPool {
    queues: [Sender<FetchJob>; Priority::ALL.len()],
    gate: Arc<Gate>,
}

/// Counts the pending foreground jobs, lets background jobs wait until there are none, and says whether the pool is closed.
#[derive(Default)]
struct Gate {
    state: Mutex<State>,
    idle: Condvar,
    closed: AtomicBool,
}

#[derive(Default)]
struct State {
    /// Foreground jobs that have not ended.
    pending: usize,
    /// When the last foreground job ended.
    last_ended: Option<Instant>,
}

impl FetchPool {
    /// Starts the threads. They end after the pool is closed or dropped, without being waited for.
    pub(crate) fn start() -> io::Result<Self> {
        let gate = Arc::<Gate>::default();
        let mut queues = Vec::new();
        for priority in Priority::ALL {
            let (sender, jobs) = unbounded::<FetchJob>();
            for _ in 0..priority.threads() {
                let (jobs, gate) = (jobs.clone(), Arc::clone(&gate));
                let run = move || jobs.iter().for_each(|job| gate.run(priority, job));
                thread::Builder::new().name("fetch".to_owned()).spawn(run)?;
            }
            queues.push(sender);
        }
        let queues = queues.try_into().map_err(|_| io::Error::other("the number of queues is wrong"))?;
        Ok(Self { queues, gate })
    }

    /// Queues a job.
    pub(crate) fn submit(&self, priority: Priority, job: impl FnOnce() + Send + 'static) {
        if priority.is_foreground() {
            self.gate.state.lock().pending += 1;
        }
        // Without receivers the job is dropped; the leaders in it then report that the fetch was abandoned.
        if self.queues[priority as usize].send(Box::new(job)).is_err() && priority.is_foreground() {
            self.gate.finish_foreground();
        }
    }

    /// Waits until no foreground job is pending; returns `false` if the pool is closed.
    pub(crate) fn yield_to_foreground(&self) -> bool {
        self.gate.wait_until_idle(None)
    }

    /// Waits like [`Self::yield_to_foreground`], but at most for `limit`: a server does not keep a connection on which
    /// nothing is read.
    pub(crate) fn yield_to_foreground_within(&self, limit: Duration) -> bool {
        self.gate.wait_until_idle(Some(Instant::now() + limit))
    }

    /// Waits until no foreground job was pending for the time `quiet`; returns `false` if the pool is closed.
    pub(crate) fn wait_for_quiet(&self, quiet: Duration) -> bool {
        while self.yield_to_foreground() {
            let since = self.gate.state.lock().last_ended.map_or(quiet, |at| at.elapsed());
            match quiet.checked_sub(since) {
                None | Some(Duration::ZERO) => return true,
                Some(rest) => thread::sleep(rest.min(Duration::from_millis(200))),
            }
        }
        false
    }

    /// Sleeps for `length`, or until the pool is closed; returns `false` if it is.
    pub(crate) fn pause(&self, length: Duration) -> bool {
        let end = Instant::now() + length;
        let mut state = self.gate.state.lock();
        while !self.is_closed() && Instant::now() < end {
            self.gate.idle.wait_until(&mut state, end);
        }
        !self.is_closed()
    }

    /// Returns whether the pool is closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.gate.closed.load(Ordering::Relaxed)
    }

    /// Closes the pool: jobs that have not begun are dropped, and waiting ones stop.
    pub(crate) fn close(&self) {
        let _state = self.gate.state.lock();
        self.gate.closed.store(true, Ordering::Relaxed);
        self.gate.idle.notify_all();
    }
}

impl Drop for FetchPool {
    fn drop(&mut self) {
        self.close();
    }
}

impl Gate {
    fn run(&self, priority: Priority, job: FetchJob) {
        let goes_on = priority != Priority::Background || self.wait_until_idle(None);
        if goes_on && !self.closed.load(Ordering::Relaxed) {
            job();
        }
        if priority.is_foreground() {
            self.finish_foreground();
        }
    }

    fn finish_foreground(&self) {
        let mut state = self.state.lock();
        state.pending = state.pending.saturating_sub(1);
        state.last_ended = Some(Instant::now());
        if state.pending == 0 {
            self.idle.notify_all();
        }
    }

    fn wait_until_idle(&self, end: Option<Instant>) -> bool {
        let mut state = self.state.lock();
        while state.pending > 0 && !self.closed.load(Ordering::Relaxed) && end.is_none_or(|end| Instant::now() < end) {
            match end {
                Some(end) => _ = self.idle.wait_until(&mut state, end),
                None => self.idle.wait(&mut state),
            }
        }
        !self.closed.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn bulk_readahead_uses_the_link_only_above_512_kib_per_s() {
        let megabit = 1_000_000 / 8;
        assert_eq!(Priority::for_stream(true, 50 * megabit), Priority::Bulk);
        // A link of 1 Mbit/s, and one whose rate is not known yet.
        assert_eq!(Priority::for_stream(true, megabit), Priority::Background);
        assert_eq!(Priority::for_stream(true, 0), Priority::Background);
        assert_eq!(Priority::for_stream(false, 50 * megabit), Priority::Background);
    }

    #[test]
    fn background_jobs_start_when_no_foreground_job_is_pending() {
        let pool = FetchPool::start().expect("threads");
        let (release, released) = channel::<()>();
        let (sender, receiver) = channel();
        let wait = Duration::from_secs(60);
        pool.submit(Priority::Foreground, move || released.recv_timeout(wait).expect("released"));
        let background = sender.clone();
        pool.submit(Priority::Background, move || background.send("background").expect("received"));
        for (priority, word) in [(Priority::Speculative, "speculative"), (Priority::Bulk, "bulk")] {
            let sender = sender.clone();
            pool.submit(priority, move || sender.send(word).expect("received"));
            assert_eq!(receiver.recv_timeout(wait), Ok(word));
        }
        assert!(pool.yield_to_foreground_within(Duration::from_millis(20)), "not closed");
        assert!(receiver.try_recv().is_err(), "a foreground job is pending");
        release.send(()).expect("waiting");
        assert_eq!(receiver.recv_timeout(wait), Ok("background"));
        assert!(pool.yield_to_foreground());
        pool.close();
        assert!(!pool.yield_to_foreground() && !pool.pause(wait));
    }
}
