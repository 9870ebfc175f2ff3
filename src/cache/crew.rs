//! The threads that fetch. What somebody waits for comes first: nothing else begins while any of that is left.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use parking_lot::{Condvar, Mutex};

/// Urgent fetches at the same time.
const URGENT: usize = 8;

/// Other fetches at the same time: two keep a link busy while the third unpacks.
const OTHERS: usize = 3;

type Job = Box<dyn FnOnce() + Send>;

/// The threads that fetch.
pub(super) struct Crew {
    urgent: Sender<Job>,
    others: Sender<Job>,
    traffic: Arc<Lights>,
}

/// Says how many urgent fetches there are, and whether it is all over.
#[derive(Default)]
struct Lights {
    urgent: Mutex<usize>,
    green: Condvar,
    closed: AtomicBool,
    /// When the last urgent fetch ended.
    ended: Mutex<Option<Instant>>,
}

impl Crew {
    /// Starts the threads. They end some time after the value is closed or dropped.
    pub fn start() -> io::Result<Self> {
        let traffic = Arc::<Lights>::default();
        let (urgent, urgent_jobs) = unbounded::<Job>();
        let (others, other_jobs) = unbounded::<Job>();
        for _ in 0..URGENT {
            let (jobs, lights): (Receiver<Job>, _) = (urgent_jobs.clone(), Arc::clone(&traffic));
            spawn(move || jobs.iter().for_each(|job| lights.run_urgent(job)))?;
        }
        for _ in 0..OTHERS {
            let (jobs, lights): (Receiver<Job>, _) = (other_jobs.clone(), Arc::clone(&traffic));
            spawn(move || jobs.iter().for_each(|job| lights.run_other(job)))?;
        }
        Ok(Self { urgent, others, traffic })
    }

    /// Runs what somebody waits for.
    pub fn urgent(&self, job: impl FnOnce() + Send + 'static) {
        *self.traffic.urgent.lock() += 1;
        if self.urgent.send(Box::new(job)).is_err() {
            self.traffic.finished();
        }
    }

    /// Runs what nobody waits for yet.
    pub fn later(&self, job: impl FnOnce() + Send + 'static) {
        // Without receivers it is dropped, which is as good as not having been asked.
        if self.others.send(Box::new(job)).is_err() {
            tracing::debug!("a fetch came after the end");
        }
    }

    /// Waits until nothing urgent is left; returns whether to go on at all.
    pub fn give_way(&self) -> bool {
        self.traffic.wait_for_green()
    }

    /// Waits until nothing urgent was wanted for a while; returns whether to go on at all.
    pub fn wait_for_quiet(&self, quiet: Duration) -> bool {
        while self.traffic.wait_for_green() {
            let since = self.traffic.ended.lock().map_or(quiet, |at| at.elapsed());
            match quiet.checked_sub(since) {
                None | Some(Duration::ZERO) => return true,
                Some(rest) => thread::sleep(rest.min(Duration::from_millis(200))),
            }
        }
        false
    }

    /// Drops what has not begun.
    pub fn close(&self) {
        self.traffic.closed.store(true, Ordering::Relaxed);
        self.traffic.green.notify_all();
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.close();
    }
}

impl Lights {
    fn run_urgent(&self, job: Job) {
        if !self.closed.load(Ordering::Relaxed) {
            job();
        }
        self.finished();
    }

    fn run_other(&self, job: Job) {
        if self.wait_for_green() {
            job();
        }
    }

    fn finished(&self) {
        *self.ended.lock() = Some(Instant::now());
        let mut urgent = self.urgent.lock();
        *urgent = urgent.saturating_sub(1);
        if *urgent == 0 {
            self.green.notify_all();
        }
    }

    fn wait_for_green(&self) -> bool {
        let mut urgent = self.urgent.lock();
        while *urgent > 0 && !self.closed.load(Ordering::Relaxed) {
            self.green.wait_for(&mut urgent, Duration::from_secs(1));
        }
        !self.closed.load(Ordering::Relaxed)
    }
}

fn spawn(run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name("fetch".to_owned()).spawn(run).map(drop)
}
