//! What is fetched before it is read: pure bookkeeping over the order of frames, no I/O.
//!
//! Three kinds of reading are told apart. Who goes through neighbouring frames is a *stream*, ahead of which a window doubles
//! as long as it goes on. Who reads a large object here and there, as the pages of a program are touched, will read more of
//! *that object*. Who reads several small objects of one neighbourhood, as an interpreter does its modules and a compiler
//! its headers, will read more of *that neighbourhood*. The first is fetched in large requests when nobody waits, its
//! small ones at once; the others are likely enough and little enough to be fetched at once.
//!
//! What was fetched ahead and not read yet is bounded by a share of what was read, so that reading here and there wastes
//! little and reading everything soon fetches far ahead. Large objects have a bound each and, together with all else, as much as
//! was read: the start of a compiler touches dozens of them, and reads a quarter of what each bound alone would bring. The constants were found by replaying what python3 and g++ read
//! of a Debian root over 20 ms and 50 Mbit/s: of the large objects they touch twice they read 85 % or more.

use std::ops::Range;

use super::ledger::Ledger;
use crate::remote::format::Frame;

/// The window of a stream that has just been recognised, in bytes of the pack.
const FIRST_WINDOW: u64 = 256 << 10;

/// The largest window.
const LAST_WINDOW: u64 = 16 << 20;

/// Streams that are followed at the same time.
const STREAMS: usize = 8;

/// Frames that a stream may leave out and still be one.
const SKIP: u32 = 2;

/// Reads that go on where the last one ended before anything is fetched ahead: fewer may be chance.
const PROVEN: u32 = 3;

/// What may lie unread of streams in any case, and one part in so many of what was read.
const ALLOWANCE: u64 = 512 << 10;
const SHARE: u64 = 4;

/// So many bytes read make whoever reads a reader of everything: then a new stream begins with a window, half of what was
/// read may lie unread, and on all but slow links streams go on while somebody waits. To leave the link idle until he had
/// his answer made reading all of a Debian root 1.13 times as long as a pull over 20 ms and 50 Mbit/s; so it is 1.04, and
/// another reader waits 6 % longer.
const BULK: u64 = 32 << 20;
const BULK_SHARE: u64 = 2;

/// A reader of everything gets so much with each thing that he waits for, however much lies unread: it costs as much as
/// waiting once more, and else the order in which he reads, where it is not the pack's, would make him wait for each file.
const BULK_STEP: u64 = 256 << 10;

/// Of one large object so much may lie unread in any case, so many times what was read of it, and no more than this.
const OBJECT_ALLOWANCE: u64 = 512 << 10;
const OBJECT_FACTOR: u64 = 8;
const OBJECT_MAX: u64 = 8 << 20;

/// Of everything so much may lie unread when a large object is fetched ahead, or as much as was read.
const OBJECTS_ALLOWANCE: u64 = 1 << 20;

/// Frames of a large object on either side of a read that are looked at.
const OBJECT_REACH: u32 = 128;

/// Frames on either side of a read that may be fetched with it.
const NEAR: u32 = 8;

/// When a frame is likely to be read: enough of those around it were, and for each of these it has no more than so many
/// bytes: the shorter it is, the less is lost if nobody reads it.
struct Neighbourhood {
    /// Frames on either side.
    reach: u32,
    /// How many of them were read at least.
    read: usize,
    /// Bytes for each.
    bytes: u32,
}

/// A narrow one, as an interpreter reads modules, and a wide one, as a compiler reads headers all over their directory.
const NEIGHBOURHOODS: [Neighbourhood; 2] =
    [Neighbourhood { reach: 4, read: 2, bytes: 10_000 }, Neighbourhood { reach: 16, read: 4, bytes: 5_500 }];

/// Frames longer than this are one object's own, which its neighbours say nothing about.
const NEAR_LENGTH_MAX: u32 = 70 << 10;

/// What may lie unread of small objects in any case, and one part in so many of what was read. What large ones had fetched
/// does not count: else it would leave no room for what is read next.
const NEAR_ALLOWANCE: u64 = 384 << 10;
const NEAR_SHARE: u64 = 4;

/// A read, as seen from the frames.
#[derive(Debug, Clone)]
pub(super) struct Touch {
    /// The frames read.
    pub frames: Range<u32>,
    /// All frames of the object, if it is a large one.
    pub large: Option<Range<u32>>,
    /// Whether something was not here.
    pub missed: bool,
}

/// What to fetch ahead.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wish {
    /// At once, in this order.
    pub likely: Vec<u32>,
    /// When nobody waits, unless whoever reads is a reader of everything.
    pub stream: Range<u32>,
    /// Whether he is.
    pub is_bulk: bool,
}

/// The readers of one commit.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    streams: Vec<Stream>,
    ledger: Ledger,
}

#[derive(Debug, Clone, Copy)]
struct Stream {
    last: u32,
    /// The first frame that was not asked for yet.
    edge: u32,
    window: u64,
    steps: u32,
}

impl Ahead {
    /// Notes a read and says what to fetch ahead of it.
    pub fn touch(&mut self, touch: &Touch, frames: &[Frame]) -> Wish {
        let mut is_new = false;
        for frame in touch.frames.clone() {
            is_new |= self.ledger.read(frame, length_of(frame, frames), touch.missed);
        }
        let likely = match (&touch.large, is_new) {
            (_, false) => Vec::new(),
            (Some(object), true) => self.of_object(touch.frames.end, object, frames),
            (None, true) => self.near(touch.frames.start, frames),
        };
        let stream = self.advance(touch.frames.clone());
        let stream = self.extend(stream, touch.large.as_ref(), frames);
        if let Some(object) = &touch.large {
            let own = likely.iter().copied().chain(stream.clone()).filter(|frame| object.contains(frame));
            own.for_each(|frame| self.ledger.of_large(frame));
        }
        Wish { likely, stream, is_bulk: self.is_bulk() }
    }

    /// Bytes of frames that were fetched ahead and not read yet.
    pub const fn unread_bytes(&self) -> u64 {
        self.ledger.unread_bytes()
    }

    /// Notes that a frame was fetched ahead.
    pub fn fetched(&mut self, frame: u32, frames: &[Frame]) {
        self.ledger.fetched(frame, length_of(frame, frames));
    }

    /// Forgets what was read and fetched: it may be gone.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// More of a large object, from `next` on and then from its start.
    fn of_object(&mut self, next: u32, object: &Range<u32>, frames: &[Frame]) -> Vec<u32> {
        let reach = object.start.max(next.saturating_sub(OBJECT_REACH))..object.end.min(next + OBJECT_REACH);
        let sum = |select: &dyn Fn(u32) -> bool| {
            reach.clone().filter(|frame| select(*frame)).map(|frame| length_of(frame, frames)).sum::<u64>()
        };
        let reads = reach.clone().filter(|frame| self.ledger.is_read(*frame)).count();
        if reads < 2 {
            return Vec::new();
        }
        let read = sum(&|frame| self.ledger.is_read(frame));
        let unread = sum(&|frame| self.ledger.is_asked(frame) && !self.ledger.is_read(frame));
        let own = OBJECT_ALLOWANCE.max(read * OBJECT_FACTOR).min(OBJECT_MAX).saturating_sub(unread);
        let all = OBJECTS_ALLOWANCE.max(self.ledger.read_bytes()).saturating_sub(self.ledger.unread_bytes());
        let room = own.min(all);
        let candidates = (next..reach.end).chain(reach.start..next.min(reach.end));
        self.choose(candidates, room, frames)
    }

    /// Frames around one whose surroundings were read.
    fn near(&mut self, frame: u32, frames: &[Frame]) -> Vec<u32> {
        let allowance = NEAR_ALLOWANCE + self.ledger.read_bytes() / NEAR_SHARE;
        let room = allowance.saturating_sub(self.ledger.small_unread_bytes());
        let pack = frames.get(frame as usize).map(|frame| frame.pack);
        let is_likely = |candidate: &u32| {
            let there = frames.get(*candidate as usize).filter(|there| Some(there.pack) == pack);
            let length = there.map(|there| there.length).filter(|length| *length <= NEAR_LENGTH_MAX);
            length.is_some_and(|length| {
                NEIGHBOURHOODS.iter().any(|around| self.is_read_around(*candidate, length, around))
            })
        };
        let nearest = (1..=NEAR).flat_map(|step| [frame.checked_add(step), frame.checked_sub(step)]).flatten();
        let likely: Vec<u32> = nearest.filter(is_likely).collect();
        self.choose(likely.into_iter(), room, frames)
    }

    fn is_read_around(&self, frame: u32, length: u32, around: &Neighbourhood) -> bool {
        let others = frame.saturating_sub(around.reach)..=frame.saturating_add(around.reach);
        let read = others.filter(|other| self.ledger.is_read(*other)).count();
        read >= around.read && u32::try_from(read).unwrap_or(u32::MAX).saturating_mul(around.bytes) >= length
    }

    /// Those of `candidates` that were not asked for yet and for which there is room.
    fn choose(&mut self, candidates: impl Iterator<Item = u32>, mut room: u64, frames: &[Frame]) -> Vec<u32> {
        let mut chosen = Vec::new();
        for frame in candidates {
            let length = length_of(frame, frames);
            if self.ledger.is_asked(frame) {
                continue;
            }
            if length > room {
                break;
            }
            room -= length;
            self.ledger.ask(frame);
            chosen.push(frame);
        }
        chosen
    }

    /// The stream that a read belongs to, moved to the end of the list.
    fn advance(&mut self, read: Range<u32>) -> usize {
        let last = read.end.saturating_sub(1);
        let goes_on = |stream: &Stream| (stream.last..=stream.last + 1 + SKIP).contains(&read.start);
        let found = self.streams.iter().position(goes_on);
        let stream = match found.map(|at| self.streams.remove(at)) {
            Some(stream) if stream.last >= last => stream,
            Some(stream) if stream.steps + 1 < PROVEN && stream.window == 0 => {
                Stream { last, edge: stream.edge.max(read.end), window: 0, steps: stream.steps + 1 }
            }
            Some(stream) => Stream {
                last,
                edge: stream.edge.max(read.end),
                window: (stream.window * 2).clamp(FIRST_WINDOW, LAST_WINDOW),
                steps: stream.steps,
            },
            None => {
                if self.streams.len() == STREAMS {
                    self.streams.remove(0);
                }
                let window = if self.is_bulk() { LAST_WINDOW / 2 } else { 0 };
                Stream { last, edge: read.end, window, steps: 0 }
            }
        };
        self.streams.push(stream);
        self.streams.len() - 1
    }

    fn is_bulk(&self) -> bool {
        self.ledger.read_bytes() > BULK
    }

    /// A stream in a large object stays in it: whoever goes on reads on in another file.
    fn extend(&mut self, stream: usize, large: Option<&Range<u32>>, frames: &[Frame]) -> Range<u32> {
        let Stream { last, edge, window, .. } = self.streams[stream];
        let ahead: u64 = (last + 1..edge).map(|frame| length_of(frame, frames)).sum();
        // In large steps: each is a request.
        if ahead > window / 2 {
            return edge..edge;
        }
        let (share, step) = if self.is_bulk() { (BULK_SHARE, BULK_STEP) } else { (SHARE, 0) };
        let budget = ALLOWANCE.max(self.ledger.read_bytes() / share).saturating_sub(self.ledger.unread_bytes());
        let mut room = (window - ahead).min(budget.max(step));
        let limit = if self.is_bulk() { u32::MAX } else { large.map_or(u32::MAX, |object| object.end) };
        let mut end = edge;
        while let Some(frame) = frames.get(end as usize).filter(|frame| u64::from(frame.length) <= room && end < limit)
        {
            room -= u64::from(frame.length);
            end += 1;
        }
        self.streams[stream].edge = end;
        edge..end
    }
}

fn length_of(frame: u32, frames: &[Frame]) -> u64 {
    frames.get(frame as usize).map_or(0, |frame| u64::from(frame.length))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: u32 = 30_000;

    fn frames() -> Vec<Frame> {
        (0..10_000).map(|n| Frame { pack: 0, offset: 16 + n * LENGTH, length: LENGTH, raw_length: LENGTH }).collect()
    }

    fn small(frame: u32) -> Touch {
        Touch { frames: frame..frame + 1, large: None, missed: true }
    }

    fn large(frame: u32, object: Range<u32>) -> Touch {
        Touch { frames: frame..frame + 1, large: Some(object), missed: true }
    }

    /// Touches and takes what is wished for as fetched; returns how many frames that was.
    fn step(ahead: &mut Ahead, touch: &Touch, frames: &[Frame]) -> usize {
        let wish = ahead.touch(touch, frames);
        let fetched = wish.likely.len() + wish.stream.len();
        wish.likely.into_iter().chain(wish.stream).for_each(|frame| ahead.fetched(frame, frames));
        fetched
    }

    #[test]
    fn the_window_of_a_stream_grows_and_reading_here_and_there_fetches_nothing_ahead() {
        let (frames, mut ahead) = (frames(), Ahead::default());
        let mut longest = 0;
        for frame in 0..2000 {
            let wish = ahead.touch(&small(frame), &frames);
            assert_eq!(wish.is_bulk, u64::from(frame + 1) * u64::from(LENGTH) > BULK, "after {frame}");
            assert!(wish.stream.is_empty() || wish.stream.start > frame);
            longest = longest.max(wish.stream.len());
            wish.likely.into_iter().chain(wish.stream).for_each(|frame| ahead.fetched(frame, &frames));
        }
        assert!(longest >= (LAST_WINDOW / 2) as usize / LENGTH as usize, "{longest}");
        assert!(ahead.unread_bytes() <= LAST_WINDOW + NEAR_ALLOWANCE);
        let mut ahead = Ahead::default();
        for turn in 0..100 {
            assert_eq!(step(&mut ahead, &small(turn * 77 % 9000), &frames), 0);
        }
    }

    #[test]
    fn what_lies_unread_is_bounded_by_what_was_read() {
        let (frames, mut ahead) = (frames(), Ahead::default());
        // Each directory is read in part, and then left.
        for start in (0..9000).step_by(50) {
            for frame in start..start + 5 {
                step(&mut ahead, &small(frame), &frames);
                let read = ahead.ledger.read_bytes();
                let (near, streams) = (NEAR_ALLOWANCE + read / NEAR_SHARE, ALLOWANCE.max(read / BULK_SHARE));
                assert!(ahead.unread_bytes() <= near.max(streams));
            }
        }
    }

    #[test]
    fn of_many_large_objects_no_more_lies_unread_than_was_read() {
        let (frames, mut ahead) = (frames(), Ahead::default());
        let mut fetched = 0;
        for object in (0..9000).step_by(300) {
            for place in [0, 90, 200, 40, 150] {
                fetched += step(&mut ahead, &large(object + place, object..object + 300), &frames);
                assert!(ahead.unread_bytes() <= ahead.ledger.read_bytes().max(OBJECTS_ALLOWANCE));
            }
        }
        assert!(fetched > 100, "{fetched}");
    }

    #[test]
    fn two_readers_at_once_are_two_streams() {
        let (frames, mut ahead) = (frames(), Ahead::default());
        let mut fetched = 0;
        for turn in 0..20 {
            for start in [100, 5000] {
                fetched += step(&mut ahead, &small(start + turn), &frames);
            }
        }
        assert!(fetched > 20, "{fetched}");
    }

    #[test]
    fn a_large_object_that_is_read_here_and_there_is_soon_here_as_a_whole_and_nothing_behind_it() {
        let (frames, mut ahead) = (frames(), Ahead::default());
        let object = 500..560;
        assert_eq!(step(&mut ahead, &large(500, object.clone()), &frames), 0, "once is not enough");
        let mut fetched: std::collections::BTreeSet<u32> = [500].into();
        let mut missed = 0;
        for turn in 0..60_u32 {
            let frame = 500 + (turn * 37 + 20) % 60;
            missed += u32::from(fetched.insert(frame));
            let wish = ahead.touch(&large(frame, object.clone()), &frames);
            wish.likely.iter().for_each(|frame| ahead.fetched(*frame, &frames));
            fetched.extend(wish.likely);
        }
        assert_eq!(fetched.iter().copied().collect::<Vec<_>>(), object.collect::<Vec<_>>());
        assert!(missed < 10, "{missed} waits for 60 blocks");
    }

    #[test]
    fn a_neighbourhood_that_is_read_is_fetched_and_a_sparse_one_is_not() {
        let (frames, mut ahead) = (frames(), Ahead::default());
        let mut fetched = 0;
        for frame in [103, 109, 101, 107, 105, 108] {
            fetched += ahead.touch(&small(frame), &frames).likely.len();
        }
        assert!((1..=NEAR as usize * 2).contains(&fetched), "{fetched}");
        for frame in [1003, 1019, 1031, 1047, 1005, 1021] {
            assert!(ahead.touch(&small(frame), &frames).likely.is_empty());
        }
    }
}
