//! Many frames in few long requests: what a profile lists, or all the rest.
//!
//! The requests are planned as a pull plans them. What arrives is kept frame by frame, and only the next frames count as
//! being under way, so that whoever needs one from further behind fetches it by itself. How far that is, and whether
//! nothing more is read from the connection while somebody waits for something else, depends on what the course is for, see
//! [`Purpose`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use crossbeam_channel::bounded;

use super::catalogue::Catalogue;
use super::counters::LazyCounters;
use super::crew::Lane;
use super::error::{FetchError, Unkept};
use super::flight::Pilot;
use super::frames::Frames;
use super::origin::MOVES_MAX;
use crate::remote::fetch::{Request, requests};
use crate::remote::format::Frame;
use crate::remote::layout;
use crate::remote::transport::{Flow, Refusal};

/// Frames that begin within so many bytes of what has arrived are under way in any case.
const IN_SIGHT: u64 = 512 << 10;

/// Of what is read first those count as under way, too, that arrive within so long: asking for them again would make
/// everything behind them later, by what is fetched twice and by what is in the link's queues already.
const SOON: Duration = Duration::from_secs(1);

/// So many frames may come wrong one after the other before the rest of a request is left for later: then it is not the frames.
const IN_VAIN_MAX: u32 = 2;

/// A connection on which nothing is read for longer may be cut by the server.
const PATIENCE_OF_SERVERS: Duration = Duration::from_secs(5);

/// What frames are fetched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Somebody is about to read all of them, more or less in this order: they give way to nobody.
    ReadFirst,
    /// Nobody may ever read them: they give way to all that is waited for.
    Rest,
}

impl Purpose {
    const fn lane(self) -> Lane {
        match self {
            Self::ReadFirst => Lane::Guess,
            Self::Rest => Lane::Later,
        }
    }

    /// How many bytes behind what has arrived are waited for, at so many bytes a second.
    fn sight(self, rate: u64) -> u64 {
        match self {
            Self::ReadFirst => IN_SIGHT.max(rate.saturating_mul(SOON.as_secs())),
            Self::Rest => IN_SIGHT,
        }
    }
}

/// The requests that bring some frames.
#[derive(Clone)]
pub(super) struct Course {
    /// By which the frames have their numbers.
    catalogue: Arc<Catalogue>,
    purpose: Purpose,
    /// Their numbers, in the order of packs.
    numbers: Vec<u32>,
    requests: Vec<Request>,
}

impl Course {
    /// To `wanted` frames, each counted once.
    pub fn new(catalogue: &Arc<Catalogue>, purpose: Purpose, wanted: impl IntoIterator<Item = u32>) -> Self {
        let mut located: Vec<(Frame, u32)> =
            wanted.into_iter().filter_map(|number| Some((catalogue.frame(number)?, number))).collect();
        located.sort_unstable_by_key(|(frame, number)| (frame.pack, frame.offset, *number));
        located.dedup_by_key(|(_, number)| *number);
        let frames: Vec<Frame> = located.iter().map(|(frame, _)| *frame).collect();
        let catalogue = Arc::clone(catalogue);
        Self {
            catalogue,
            purpose,
            numbers: located.into_iter().map(|(_, number)| number).collect(),
            requests: requests(&frames),
        }
    }

    /// How many requests.
    pub fn requests(&self) -> u64 {
        self.requests.len() as u64
    }

    /// How many bytes its frames unpack to.
    pub fn content_bytes(&self) -> u64 {
        let raw = |number: &u32| self.catalogue.frame(*number).map_or(0, |frame| u64::from(frame.raw_length));
        self.numbers.iter().map(raw).sum()
    }

    /// How many bytes they ask for.
    pub fn bytes(&self) -> u64 {
        self.requests.iter().map(|request| request.range.end - request.range.start).sum()
    }
}

impl Frames {
    /// Follows the course that `plan` gives; when contents turn out to be elsewhere, plans another one and follows that.
    pub fn follow_planned<E: From<FetchError>>(
        self: &Arc<Self>,
        first: Course,
        plan: impl Fn() -> Result<Course, E>,
    ) -> Result<(), E> {
        let mut course = first;
        for _ in 0..MOVES_MAX {
            match self.follow(course) {
                Err(FetchError::Moved { .. }) => course = plan()?,
                done => return Ok(done?),
            }
        }
        Ok(self.follow(course)?)
    }

    /// Fetches what `course` leads to and is not here, giving way to whatever somebody waits for. Returns when all of it was
    /// tried, with the first failure; [`FetchError::Moved`] when another course leads there.
    fn follow(self: &Arc<Self>, course: Course) -> Result<(), FetchError> {
        let catalogue = Arc::clone(&course.catalogue);
        match self.follow_all(course) {
            Err(error) if self.find_again(&catalogue, &error) => {
                Err(FetchError::Moved { commit: self.origin.commit() })
            }
            done => done,
        }
    }

    fn follow_all(self: &Arc<Self>, course: Course) -> Result<(), FetchError> {
        let (course, (told, heard)) = (Arc::new(course), bounded(1));
        for number in 0..course.requests.len() {
            let (own, course, told) = (Arc::clone(self), Arc::clone(&course), told.clone());
            self.crew.run(course.purpose.lane(), move || {
                let done = own.follow_one(&course, &course.requests[number]);
                // Nobody listens any more after the first failure.
                let _ = told.send(done);
            });
        }
        drop(told);
        heard.iter().take(course.requests.len()).collect()
    }

    fn follow_one(&self, course: &Course, request: &Request) -> Result<(), FetchError> {
        let catalogue = &course.catalogue;
        let Some(pack) = catalogue.locator().packs().get(request.pack as usize) else { return Ok(()) };
        let path = layout::pack(pack.id);
        // Some may have come since, at either end or all of them; and some are not to be asked for now.
        let is_wanted = |number: &u32, frame: Frame| {
            !self.has_frame(catalogue, *number) && !self.origin.is_blocked(&path, u64::from(frame.offset))
        };
        let numbers = course.numbers[request.frames.clone()].iter();
        let located: Vec<(u32, Frame)> =
            numbers.filter_map(|number| Some((*number, catalogue.frame(*number)?))).collect();
        let Some(first) = located.iter().position(|(number, frame)| is_wanted(number, *frame)) else { return Ok(()) };
        let last = located.iter().rposition(|(number, frame)| is_wanted(number, *frame)).unwrap_or(first);
        let mut ahead: VecDeque<(u32, Frame)> = located[first..=last].iter().copied().collect();
        let Some(end) = ahead.back().map(|(_, frame)| frame.end()) else { return Ok(()) };
        let (mut failure, mut in_vain) = (None, 0);
        // A frame that comes wrong is left, and what follows it is gone on with.
        while let Some((_, begin)) = ahead.front() {
            let range = u64::from(begin.offset)..end;
            let mut arrival = Arrival {
                frames: self,
                catalogue,
                path: &path,
                purpose: course.purpose,
                begin: Instant::now(),
                arrived: 0,
                ahead,
                boarded: VecDeque::new(),
                buffer: BytesMut::new(),
                start: range.start,
                failure: None,
                wrong: None,
                kept: 0,
            };
            arrival.board();
            let streamed = self.origin.stream(&path, range, &mut |piece| arrival.take(&piece));
            failure = failure.or(arrival.failure.take());
            match streamed {
                Ok(()) => break,
                Err(error) => {
                    in_vain = if arrival.kept == 0 { in_vain + 1 } else { 0 };
                    let (error, rest) = arrival.give_up(error);
                    failure.get_or_insert(error);
                    match rest {
                        Some(rest) if in_vain < IN_VAIN_MAX => ahead = rest,
                        _ => break,
                    }
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }
}

/// A long answer that is arriving.
struct Arrival<'a> {
    frames: &'a Frames,
    catalogue: &'a Catalogue,
    path: &'a str,
    purpose: Purpose,
    begin: Instant,
    /// Bytes since then.
    arrived: u64,
    /// What comes after what is in sight.
    ahead: VecDeque<(u32, Frame)>,
    /// What is in sight, each with the duty to keep it, or without if it is here or somebody else fetches it.
    boarded: VecDeque<(u32, Frame, Option<Pilot<u32>>)>,
    buffer: BytesMut,
    /// Where in the pack the buffer begins.
    start: u64,
    /// Why the first frame that could not be kept could not.
    failure: Option<FetchError>,
    /// Where the frame begins that came wrong last.
    wrong: Option<u64>,
    /// How many frames were kept.
    kept: u32,
}

impl Arrival<'_> {
    fn take(&mut self, piece: &[u8]) -> Flow {
        self.buffer.extend_from_slice(piece);
        self.arrived += piece.len() as u64;
        LazyCounters::add(&self.frames.counters.streamed, piece.len() as u64);
        self.board();
        if let Err(why) = self.land() {
            self.buffer.clear();
            self.wrong = Some(self.start);
            return Flow::Wrong(self.start, Refusal::wrong(why));
        }
        let goes_on = match self.purpose {
            Purpose::ReadFirst => !self.frames.crew.is_closed(),
            Purpose::Rest => self.frames.crew.give_way_within(PATIENCE_OF_SERVERS),
        };
        if goes_on { Flow::More } else { Flow::Enough }
    }

    /// Tells the readers that wait for the frame that came wrong. Returns the error, and what is left behind that frame; nothing when
    /// it was not one frame that failed.
    fn give_up(mut self, error: FetchError) -> (FetchError, Option<VecDeque<(u32, Frame)>>) {
        let is_wrong = self.wrong == Some(self.start);
        let Some((number, frame, pilot)) = self.boarded.pop_front().filter(|_| is_wrong) else { return (error, None) };
        LazyCounters::add(&self.frames.counters.failures, 1);
        let error = self.frames.origin.failed(self.path, u64::from(frame.offset), error);
        tracing::debug!("frame {number} of {} is left", self.path);
        if let Some(pilot) = pilot {
            pilot.land(Err(error.clone()));
        }
        // Those that were under way behind it are so again in a moment.
        let mut rest: VecDeque<(u32, Frame)> =
            self.boarded.drain(..).map(|(number, frame, _)| (number, frame)).collect();
        rest.append(&mut self.ahead);
        (error, Some(rest))
    }

    fn board(&mut self) {
        let sight = self.start + self.buffer.len() as u64 + self.purpose.sight(self.rate());
        while let Some((number, frame)) = pop_if(&mut self.ahead, |(_, frame)| u64::from(frame.offset) < sight) {
            self.boarded.push_back((number, frame, self.frames.board_if_missing(self.catalogue, number)));
        }
    }

    /// Bytes a second, of this answer or of those before it.
    fn rate(&self) -> u64 {
        let own = u128::from(self.arrived) * 1000 / self.begin.elapsed().as_millis().max(1);
        u64::try_from(own).unwrap_or(u64::MAX).max(self.frames.origin.rate())
    }

    /// Keeps the frames that have arrived. One that is not what it should be stays the first of those that are waited for.
    fn land(&mut self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let arrived = self.start + self.buffer.len() as u64;
        while let Some((number, frame, pilot)) = pop_if(&mut self.boarded, |(_, frame, _)| frame.end() <= arrived) {
            let offset = u64::from(frame.offset);
            let before = usize::try_from(offset.saturating_sub(self.start)).unwrap_or(usize::MAX);
            drop(self.buffer.split_to(before.min(self.buffer.len())));
            self.start = offset;
            let bytes: Bytes = self.buffer.split_to((frame.length as usize).min(self.buffer.len())).freeze();
            if let Some(pilot) = pilot {
                match self.frames.unpack(self.catalogue, number, &bytes, offset) {
                    Ok(()) => {
                        self.frames.origin.came(self.path, offset);
                        self.kept += 1;
                        pilot.land(Ok(()));
                    }
                    Err(Unkept::Own(error)) => {
                        LazyCounters::add(&self.frames.counters.failures, 1);
                        self.frames.origin.complain(&error);
                        self.failure = self.failure.take().or(Some(error.clone()));
                        pilot.land(Err(error));
                    }
                    Err(Unkept::Wrong(why)) => {
                        self.boarded.push_front((number, frame, Some(pilot)));
                        return Err(why);
                    }
                }
            }
            self.start = frame.end();
        }
        Ok(())
    }
}

fn pop_if<T>(queue: &mut VecDeque<T>, condition: impl Fn(&T) -> bool) -> Option<T> {
    if queue.front().is_some_and(condition) { queue.pop_front() } else { None }
}
