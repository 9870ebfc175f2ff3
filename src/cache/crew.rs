//! The threads that fetch. What somebody waits for comes first: nothing large begins while any of that is left, what is
//! under way pauses, and of what is only guessed little is on the way at a time. What a profile lists is no guess, and
//! neither is what comes next to a reader of everything.
//!
//! Jobs of one lane may wait for those of an earlier one in [`Lane`] and for no others, so that they cannot wait in a
//! circle.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, unbounded};
use parking_lot::{Condvar, Mutex};

/// Bytes a second from which on a reader of everything has the link used while he waits: on a slower one a long request would
/// hold others up for long, and little is lost between two.
const BULK_RATE: u64 = 512 << 10;

/// What a job is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// Parts of the image that somebody waits for.
    Names,
    /// Contents that somebody waits for.
    Urgent,
    /// Contents that are likely to be wanted in a moment. Does not give way, so it has to be little, or what a profile says
    /// is about to be read.
    Guess,
    /// What a reader of everything reads next, on all but slow links. Does not give way: mostly it is he who waits, and a
    /// link that is idle until he has his answer is time lost. Two requests at a time, so that whoever else waits has his
    /// share of the link.
    Bulk,
    /// All else.
    Later,
}

impl Lane {
    const ALL: [Self; 5] = [Self::Names, Self::Urgent, Self::Guess, Self::Bulk, Self::Later];

    /// How many jobs of it run at the same time. Of those for later, two keep a link busy while a third unpacks.
    const fn threads(self) -> usize {
        match self {
            Self::Names => 4,
            Self::Urgent => 8,
            Self::Guess | Self::Bulk => 2,
            Self::Later => 3,
        }
    }

    /// That of what a stream reads next over a link of so many bytes a second; `is_bulk` if its reader reads everything.
    pub const fn of_stream(is_bulk: bool, rate: u64) -> Self {
        if is_bulk && rate >= BULK_RATE { Self::Bulk } else { Self::Later }
    }

    const fn is_awaited(self) -> bool {
        matches!(self, Self::Names | Self::Urgent)
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// The threads that fetch.
pub(super) struct Crew {
    lanes: [Sender<Job>; Lane::ALL.len()],
    lights: Arc<Lights>,
}

/// Says how much somebody waits for, and whether it is all over.
#[derive(Default)]
struct Lights {
    state: Mutex<State>,
    green: Condvar,
    closed: AtomicBool,
}

#[derive(Default)]
struct State {
    /// Jobs that somebody waits for.
    awaited: usize,
    /// When the last of them ended.
    ended: Option<Instant>,
}

impl Crew {
    /// Starts the threads. They end some time after the value is closed or dropped.
    pub fn start() -> io::Result<Self> {
        let lights = Arc::<Lights>::default();
        let mut lanes = Vec::new();
        for lane in Lane::ALL {
            let (sender, jobs) = unbounded::<Job>();
            for _ in 0..lane.threads() {
                let (jobs, lights) = (jobs.clone(), Arc::clone(&lights));
                let run = move || jobs.iter().for_each(|job| lights.run(lane, job));
                thread::Builder::new().name("fetch".to_owned()).spawn(run)?;
            }
            lanes.push(sender);
        }
        let lanes = lanes.try_into().map_err(|_| io::Error::other("as many as there are lanes"))?;
        Ok(Self { lanes, lights })
    }

    /// Runs a job some time.
    pub fn run(&self, lane: Lane, job: impl FnOnce() + Send + 'static) {
        if lane.is_awaited() {
            self.lights.state.lock().awaited += 1;
        }
        // Without receivers it is dropped, which is as good as not having been asked.
        if self.lanes[lane as usize].send(Box::new(job)).is_err() && lane.is_awaited() {
            self.lights.finished();
        }
    }

    /// Waits until nobody waits for anything; returns whether to go on at all.
    pub fn give_way(&self) -> bool {
        self.lights.wait_for_green(None)
    }

    /// The same, but not for ever: a server does not keep a connection on which nothing is read.
    pub fn give_way_within(&self, limit: Duration) -> bool {
        self.lights.wait_for_green(Some(Instant::now() + limit))
    }

    /// Waits until nobody has waited for anything for a while; returns whether to go on at all.
    pub fn wait_for_quiet(&self, quiet: Duration) -> bool {
        while self.give_way() {
            let since = self.lights.state.lock().ended.map_or(quiet, |at| at.elapsed());
            match quiet.checked_sub(since) {
                None | Some(Duration::ZERO) => return true,
                Some(rest) => thread::sleep(rest.min(Duration::from_millis(200))),
            }
        }
        false
    }

    /// Sleeps; returns whether to go on at all.
    pub fn pause(&self, length: Duration) -> bool {
        let end = Instant::now() + length;
        let mut state = self.lights.state.lock();
        while !self.is_closed() && Instant::now() < end {
            self.lights.green.wait_until(&mut state, end);
        }
        !self.is_closed()
    }

    /// Whether it is all over.
    pub fn is_closed(&self) -> bool {
        self.lights.closed.load(Ordering::Relaxed)
    }

    /// Drops what has not begun.
    pub fn close(&self) {
        let _state = self.lights.state.lock();
        self.lights.closed.store(true, Ordering::Relaxed);
        self.lights.green.notify_all();
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.close();
    }
}

impl Lights {
    fn run(&self, lane: Lane, job: Job) {
        let goes_on = lane != Lane::Later || self.wait_for_green(None);
        if goes_on && !self.closed.load(Ordering::Relaxed) {
            job();
        }
        if lane.is_awaited() {
            self.finished();
        }
    }

    fn finished(&self) {
        let mut state = self.state.lock();
        state.awaited = state.awaited.saturating_sub(1);
        state.ended = Some(Instant::now());
        if state.awaited == 0 {
            self.green.notify_all();
        }
    }

    fn wait_for_green(&self, end: Option<Instant>) -> bool {
        let mut state = self.state.lock();
        while state.awaited > 0 && !self.closed.load(Ordering::Relaxed) && end.is_none_or(|end| Instant::now() < end) {
            match end {
                Some(end) => _ = self.green.wait_until(&mut state, end),
                None => self.green.wait(&mut state),
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
    fn only_a_reader_of_everything_on_a_link_that_is_not_slow_has_it_used_while_somebody_waits() {
        let megabit = 1_000_000 / 8;
        assert_eq!(Lane::of_stream(true, 50 * megabit), Lane::Bulk);
        // A link of 1 Mbit/s, and one of which nothing is known yet.
        assert_eq!(Lane::of_stream(true, megabit), Lane::Later);
        assert_eq!(Lane::of_stream(true, 0), Lane::Later);
        assert_eq!(Lane::of_stream(false, 50 * megabit), Lane::Later);
    }

    #[test]
    fn what_is_for_later_begins_when_nobody_waits_any_more() {
        let crew = Crew::start().expect("threads");
        let (release, held) = channel::<()>();
        let (said, heard) = channel();
        let wait = Duration::from_secs(60);
        crew.run(Lane::Urgent, move || held.recv_timeout(wait).expect("released"));
        let told = said.clone();
        crew.run(Lane::Later, move || told.send("later").expect("heard"));
        for (lane, word) in [(Lane::Guess, "guess"), (Lane::Bulk, "bulk")] {
            let said = said.clone();
            crew.run(lane, move || said.send(word).expect("heard"));
            assert_eq!(heard.recv_timeout(wait), Ok(word));
        }
        assert!(crew.give_way_within(Duration::from_millis(20)), "not closed");
        assert!(heard.try_recv().is_err(), "somebody waits still");
        release.send(()).expect("waiting");
        assert_eq!(heard.recv_timeout(wait), Ok("later"));
        assert!(crew.give_way());
        crew.close();
        assert!(!crew.give_way() && !crew.pause(wait));
    }
}
