//! Predicts which frames are read next, from the order of frames and the reads so far. Pure bookkeeping without I/O.
//!
//! Three kinds of reading are recognised:
//! - A *stream* reads neighbouring frames in order. A window ahead of it is fetched, which doubles while the stream goes on.
//! - A *large object* that is read here and there, as the pages of a program are touched, is probably read further.
//! - A *neighbourhood* of which several small objects were read, as an interpreter reads modules and a compiler headers, is
//!   probably read further.
//!
//! Streams are fetched in large requests in the background, or at once if a request is small; the other two are likely and
//! small enough to be fetched at once.
//!
//! The bytes that were fetched ahead and not read yet are bounded by a share of the bytes read, so that scattered reads waste
//! little, and reading everything soon fetches far ahead. Large objects have a bound each and, together with everything else,
//! at most as much as was read: the start of a compiler touches dozens of them, and reads a quarter of what the single bounds
//! would allow. The constants were found by replaying what python3 and g++ read of a Debian root over 20 ms and 50 Mbit/s: of
//! the large objects that they touch twice they read 85 % or more.
//!
//! *Used by* `object_cache`.

use std::ops::Range;

use crate::cache::readahead::history::AccessHistory;
use crate::remote::format::PackFrame;

/// The window of a stream that has just been recognised, in bytes of the pack.
const FIRST_WINDOW: u64 = 256 << 10;

/// The largest window of a stream, in bytes.
const LARGEST_WINDOW: u64 = 16 << 20;

/// The number of streams that are followed at the same time.
const STREAMS_MAX: usize = 8;

/// The number of frames that a stream may skip between two reads.
const SKIPPED_FRAMES_MAX: u32 = 2;

/// The number of reads in order after which a stream is recognised: fewer may be chance.
const STREAM_READS_MIN: u32 = 3;

/// Streams may have this many unread bytes in any case, or one part in [`STREAM_UNREAD_DIVISOR`] of the bytes read.
const STREAM_UNREAD_MIN: u64 = 512 << 10;
const STREAM_UNREAD_DIVISOR: u64 = 4;

/// After more bytes read than this the readers count as a bulk reader: a new stream begins with a window, half of the bytes
/// read may be unread, and on all but slow links streams are fetched while readers wait. Leaving the link idle until each
/// read was answered made reading all of a Debian root take 1.13 times as long as a pull over 20 ms and 50 Mbit/s; with this
/// rule it takes 1.04 times as long, and another reader waits 6 % longer.
const BULK_READER_MIN: u64 = 32 << 20;
const BULK_UNREAD_DIVISOR: u64 = 2;

/// For a bulk reader so many bytes are fetched ahead in each step, however much is unread: they cost as much as one more
/// wait, and without them a reader whose order is not the pack's would wait for each file.
const BULK_STEP_MIN: u64 = 256 << 10;

/// The unread bytes of one large object may be [`OBJECT_UNREAD_MIN`] in any case, or [`OBJECT_UNREAD_FACTOR`] times the bytes
/// read of it, and at most [`OBJECT_UNREAD_MAX`].
const OBJECT_UNREAD_MIN: u64 = 512 << 10;
const OBJECT_UNREAD_FACTOR: u64 = 8;
const OBJECT_UNREAD_MAX: u64 = 8 << 20;

/// A large object is fetched ahead only while all unread bytes are below this, or below the bytes read.
const TOTAL_UNREAD_MIN: u64 = 1 << 20;

/// The number of frames of a large object on either side of a read that are considered.
const OBJECT_REACH: u32 = 128;

/// The number of frames on either side of a read of a small object that may be fetched with it.
const NEIGHBOURS_REACH: u32 = 8;

/// A condition under which a frame is likely to be read: enough frames around it were read, and for each of these it has at
/// most so many bytes. The shorter the frame is, the less is lost if it is never read.
struct Neighbourhood {
    /// The number of frames on either side that count.
    reach: u32,
    /// The least number of them that were read.
    reads_min: usize,
    /// The largest length of the frame in bytes, for each frame that was read.
    bytes_per_read: u32,
}

/// A narrow neighbourhood, as an interpreter reads modules, and a wide one, as a compiler reads headers all over their
/// directory.
const NEIGHBOURHOODS: [Neighbourhood; 2] = [
    Neighbourhood { reach: 4, reads_min: 2, bytes_per_read: 10_000 },
    Neighbourhood { reach: 16, reads_min: 4, bytes_per_read: 5_500 },
];

/// Longer frames than this hold a single object, about which its neighbours say nothing.
const NEIGHBOUR_LENGTH_MAX: u32 = 70 << 10;

/// The unread bytes of small objects may be this in any case, plus one part in [`SMALL_UNREAD_DIVISOR`] of the bytes read.
/// Those of large objects do not count: they would leave no room for what is read next.
const SMALL_UNREAD_MIN: u64 = 384 << 10;
const SMALL_UNREAD_DIVISOR: u64 = 4;

/// One read, in terms of frames.
#[derive(Debug, Clone)]
pub(in crate::cache) struct FrameAccess {
    /// The frames that were read.
    pub(crate) frames: Range<u32>,
    /// All frames of the object, if it is a large object.
    pub(crate) large: Option<Range<u32>>,
    /// Whether some of the data was missing.
    pub(crate) missed: bool,
}

/// The frames to fetch ahead.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::cache) struct Prediction {
    /// Frames to fetch at once, in this order.
    pub(crate) speculative: Vec<u32>,
    /// Frames to fetch in the background; for a bulk reader also while readers wait.
    pub(crate) stream: Range<u32>,
    /// Whether the readers count as a bulk reader.
    pub(crate) is_bulk: bool,
}

/// The read-ahead planner of one catalogue: its streams and its history.
#[derive(Debug, Default)]
pub(in crate::cache) struct ReadAheadPlanner {
    streams: Vec<Stream>,
    history: AccessHistory,
}

#[derive(Debug, Clone, Copy)]
struct Stream {
    last_read: u32,
    /// The first frame behind those that were requested.
    requested_end: u32,
    window: u64,
    reads_in_order: u32,
}

impl ReadAheadPlanner {
    /// Records a read and returns what to fetch ahead of it.
    pub(crate) fn note_access(&mut self, access: &FrameAccess, frames: &[PackFrame]) -> Prediction {
        let mut is_new = false;
        for frame in access.frames.clone() {
            is_new |= self.history.note_read(frame, length_of(frame, frames), access.missed);
        }
        let speculative = match (&access.large, is_new) {
            (_, false) => Vec::new(),
            (Some(object), true) => self.predict_object(access.frames.end, object, frames),
            (None, true) => self.predict_neighbours(access.frames.start, frames),
        };
        let stream = self.advance_stream(access.frames.clone());
        let stream = self.extend_stream(stream, access.large.as_ref(), frames);
        if let Some(object) = &access.large {
            let in_object = speculative.iter().copied().chain(stream.clone()).filter(|frame| object.contains(frame));
            in_object.for_each(|frame| self.history.note_large(frame));
        }
        Prediction { speculative, stream, is_bulk: self.is_bulk() }
    }

    /// Returns the number of bytes that were fetched ahead and not read yet.
    pub(crate) const fn unread_bytes(&self) -> u64 {
        self.history.unread_bytes()
    }

    /// Records that a frame was fetched ahead.
    pub(crate) fn note_fetched(&mut self, frame: u32, frames: &[PackFrame]) {
        self.history.note_fetched(frame, length_of(frame, frames));
    }

    /// Drops all streams and the history, after frames may have been evicted.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }

    /// Selects more frames of a large object: first those from `next` on, then those before.
    fn predict_object(&mut self, next: u32, object: &Range<u32>, frames: &[PackFrame]) -> Vec<u32> {
        let reach = object.start.max(next.saturating_sub(OBJECT_REACH))..object.end.min(next + OBJECT_REACH);
        let sum = |select: &dyn Fn(u32) -> bool| {
            reach.clone().filter(|frame| select(*frame)).map(|frame| length_of(frame, frames)).sum::<u64>()
        };
        let reads = reach.clone().filter(|frame| self.history.is_read(*frame)).count();
        if reads < 2 {
            return Vec::new();
        }
        let read = sum(&|frame| self.history.is_read(frame));
        let unread = sum(&|frame| self.history.is_requested(frame) && !self.history.is_read(frame));
        let in_object =
            OBJECT_UNREAD_MIN.max(read * OBJECT_UNREAD_FACTOR).min(OBJECT_UNREAD_MAX).saturating_sub(unread);
        let in_total = TOTAL_UNREAD_MIN.max(self.history.read_bytes()).saturating_sub(self.history.unread_bytes());
        let budget = in_object.min(in_total);
        let candidates = (next..reach.end).chain(reach.start..next.min(reach.end));
        self.select(candidates, budget, frames)
    }

    /// Selects frames near `frame` whose neighbourhood was read.
    fn predict_neighbours(&mut self, frame: u32, frames: &[PackFrame]) -> Vec<u32> {
        let allowance = SMALL_UNREAD_MIN + self.history.read_bytes() / SMALL_UNREAD_DIVISOR;
        let budget = allowance.saturating_sub(self.history.small_unread_bytes());
        let pack = frames.get(frame as usize).map(|frame| frame.pack);
        let is_likely = |candidate: &u32| {
            let there = frames.get(*candidate as usize).filter(|there| Some(there.pack) == pack);
            let length = there.map(|there| there.length).filter(|length| *length <= NEIGHBOUR_LENGTH_MAX);
            length.is_some_and(|length| {
                NEIGHBOURHOODS.iter().any(|around| self.is_read_around(*candidate, length, around))
            })
        };
        let nearest =
            (1..=NEIGHBOURS_REACH).flat_map(|step| [frame.checked_add(step), frame.checked_sub(step)]).flatten();
        let speculative: Vec<u32> = nearest.filter(is_likely).collect();
        self.select(speculative.into_iter(), budget, frames)
    }

    fn is_read_around(&self, frame: u32, length: u32, around: &Neighbourhood) -> bool {
        let others = frame.saturating_sub(around.reach)..=frame.saturating_add(around.reach);
        let read = others.filter(|other| self.history.is_read(*other)).count();
        read >= around.reads_min
            && u32::try_from(read).unwrap_or(u32::MAX).saturating_mul(around.bytes_per_read) >= length
    }

    /// Selects from `candidates` the frames that were not requested yet, up to the first that exceeds `budget` bytes in total.
    fn select(&mut self, candidates: impl Iterator<Item = u32>, mut budget: u64, frames: &[PackFrame]) -> Vec<u32> {
        let mut chosen = Vec::new();
        for frame in candidates {
            let length = length_of(frame, frames);
            if self.history.is_requested(frame) {
                continue;
            }
            if length > budget {
                break;
            }
            budget -= length;
            self.history.note_requested(frame);
            chosen.push(frame);
        }
        chosen
    }

    /// Finds or creates the stream of a read and moves it to the end of the list; returns its index.
    fn advance_stream(&mut self, read: Range<u32>) -> usize {
        let last = read.end.saturating_sub(1);
        let goes_on =
            |stream: &Stream| (stream.last_read..=stream.last_read + 1 + SKIPPED_FRAMES_MAX).contains(&read.start);
        let found = self.streams.iter().position(goes_on);
        let stream = match found.map(|at| self.streams.remove(at)) {
            Some(stream) if stream.last_read >= last => stream,
            Some(stream) if stream.reads_in_order + 1 < STREAM_READS_MIN && stream.window == 0 => Stream {
                last_read: last,
                requested_end: stream.requested_end.max(read.end),
                window: 0,
                reads_in_order: stream.reads_in_order + 1,
            },
            Some(stream) => Stream {
                last_read: last,
                requested_end: stream.requested_end.max(read.end),
                window: (stream.window * 2).clamp(FIRST_WINDOW, LARGEST_WINDOW),
                reads_in_order: stream.reads_in_order,
            },
            None => {
                if self.streams.len() == STREAMS_MAX {
                    self.streams.remove(0);
                }
                let window = if self.is_bulk() { LARGEST_WINDOW / 2 } else { 0 };
                Stream { last_read: last, requested_end: read.end, window, reads_in_order: 0 }
            }
        };
        self.streams.push(stream);
        self.streams.len() - 1
    }

    fn is_bulk(&self) -> bool {
        self.history.read_bytes() > BULK_READER_MIN
    }

    /// Returns the frames by which a stream is extended. A stream in a large object ends with the object: what comes behind
    /// it belongs to other files.
    fn extend_stream(&mut self, stream: usize, large: Option<&Range<u32>>, frames: &[PackFrame]) -> Range<u32> {
        let Stream { last_read: last, requested_end, window, .. } = self.streams[stream];
        let ahead: u64 = (last + 1..requested_end).map(|frame| length_of(frame, frames)).sum();
        // Extended in large reads_in_order, since each step is a request.
        if ahead > window / 2 {
            return requested_end..requested_end;
        }
        let (share, step) =
            if self.is_bulk() { (BULK_UNREAD_DIVISOR, BULK_STEP_MIN) } else { (STREAM_UNREAD_DIVISOR, 0) };
        let allowance =
            STREAM_UNREAD_MIN.max(self.history.read_bytes() / share).saturating_sub(self.history.unread_bytes());
        let mut budget = (window - ahead).min(allowance.max(step));
        let limit = if self.is_bulk() { u32::MAX } else { large.map_or(u32::MAX, |object| object.end) };
        let mut end = requested_end;
        while let Some(frame) =
            frames.get(end as usize).filter(|frame| u64::from(frame.length) <= budget && end < limit)
        {
            budget -= u64::from(frame.length);
            end += 1;
        }
        self.streams[stream].requested_end = end;
        requested_end..end
    }
}

fn length_of(frame: u32, frames: &[PackFrame]) -> u64 {
    frames.get(frame as usize).map_or(0, |frame| u64::from(frame.length))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: u32 = 30_000;

    fn frames() -> Vec<PackFrame> {
        (0..10_000)
            .map(|n| PackFrame { pack: 0, offset: 16 + n * LENGTH, length: LENGTH, raw_length: LENGTH })
            .collect()
    }

    fn small(frame: u32) -> FrameAccess {
        FrameAccess { frames: frame..frame + 1, large: None, missed: true }
    }

    fn large(frame: u32, object: Range<u32>) -> FrameAccess {
        FrameAccess { frames: frame..frame + 1, large: Some(object), missed: true }
    }

    /// Records a read and marks the predicted frames as fetched; returns their number.
    fn step(planner: &mut ReadAheadPlanner, access: &FrameAccess, frames: &[PackFrame]) -> usize {
        let prediction = planner.note_access(access, frames);
        let fetched = prediction.speculative.len() + prediction.stream.len();
        prediction
            .speculative
            .into_iter()
            .chain(prediction.stream)
            .for_each(|frame| planner.note_fetched(frame, frames));
        fetched
    }

    #[test]
    fn window_of_a_stream_grows_and_scattered_reads_fetch_nothing() {
        let (frames, mut planner) = (frames(), ReadAheadPlanner::default());
        let mut longest = 0;
        for frame in 0..2000 {
            let prediction = planner.note_access(&small(frame), &frames);
            assert_eq!(prediction.is_bulk, u64::from(frame + 1) * u64::from(LENGTH) > BULK_READER_MIN, "after {frame}");
            assert!(prediction.stream.is_empty() || prediction.stream.start > frame);
            longest = longest.max(prediction.stream.len());
            prediction
                .speculative
                .into_iter()
                .chain(prediction.stream)
                .for_each(|frame| planner.note_fetched(frame, &frames));
        }
        assert!(longest >= (LARGEST_WINDOW / 2) as usize / LENGTH as usize, "{longest}");
        assert!(planner.unread_bytes() <= LARGEST_WINDOW + SMALL_UNREAD_MIN);
        let mut planner = ReadAheadPlanner::default();
        for round in 0..100 {
            assert_eq!(step(&mut planner, &small(round * 77 % 9000), &frames), 0);
        }
    }

    #[test]
    fn unread_bytes_are_bounded_by_the_bytes_read() {
        let (frames, mut planner) = (frames(), ReadAheadPlanner::default());
        // Each directory is read in part, and then no further.
        for start in (0..9000).step_by(50) {
            for frame in start..start + 5 {
                step(&mut planner, &small(frame), &frames);
                let read = planner.history.read_bytes();
                let (near, streams) =
                    (SMALL_UNREAD_MIN + read / SMALL_UNREAD_DIVISOR, STREAM_UNREAD_MIN.max(read / BULK_UNREAD_DIVISOR));
                assert!(planner.unread_bytes() <= near.max(streams));
            }
        }
    }

    #[test]
    fn unread_bytes_of_many_large_objects_stay_below_bytes_read() {
        let (frames, mut planner) = (frames(), ReadAheadPlanner::default());
        let mut fetched = 0;
        for object in (0..9000).step_by(300) {
            for place in [0, 90, 200, 40, 150] {
                fetched += step(&mut planner, &large(object + place, object..object + 300), &frames);
                assert!(planner.unread_bytes() <= planner.history.read_bytes().max(TOTAL_UNREAD_MIN));
            }
        }
        assert!(fetched > 100, "{fetched}");
    }

    #[test]
    fn two_simultaneous_readers_are_two_streams() {
        let (frames, mut planner) = (frames(), ReadAheadPlanner::default());
        let mut fetched = 0;
        for round in 0..20 {
            for start in [100, 5000] {
                fetched += step(&mut planner, &small(start + round), &frames);
            }
        }
        assert!(fetched > 20, "{fetched}");
    }

    #[test]
    fn scattered_reads_of_a_large_object_fetch_exactly_the_object() {
        let (frames, mut planner) = (frames(), ReadAheadPlanner::default());
        let object = 500..560;
        assert_eq!(step(&mut planner, &large(500, object.clone()), &frames), 0, "once is not enough");
        let mut fetched: std::collections::BTreeSet<u32> = [500].into();
        let mut missed = 0;
        for round in 0..60_u32 {
            let frame = 500 + (round * 37 + 20) % 60;
            missed += u32::from(fetched.insert(frame));
            let prediction = planner.note_access(&large(frame, object.clone()), &frames);
            prediction.speculative.iter().for_each(|frame| planner.note_fetched(*frame, &frames));
            fetched.extend(prediction.speculative);
        }
        assert_eq!(fetched.iter().copied().collect::<Vec<_>>(), object.collect::<Vec<_>>());
        assert!(missed < 10, "{missed} waits for 60 blocks");
    }

    #[test]
    fn dense_neighbourhood_is_fetched_and_a_sparse_one_is_not() {
        let (frames, mut planner) = (frames(), ReadAheadPlanner::default());
        let mut fetched = 0;
        for frame in [103, 109, 101, 107, 105, 108] {
            fetched += planner.note_access(&small(frame), &frames).speculative.len();
        }
        assert!((1..=NEIGHBOURS_REACH as usize * 2).contains(&fetched), "{fetched}");
        for frame in [1003, 1019, 1031, 1047, 1005, 1021] {
            assert!(planner.note_access(&small(frame), &frames).speculative.is_empty());
        }
    }
}
