//! What is fetched before it is read: pure bookkeeping over the order of frames, no I/O.
//!
//! Reading that goes through neighbouring frames is a stream; the window ahead of a stream doubles as long as it goes on.
//! What was fetched ahead and not read yet is bounded by a share of what was read, so that reading here and there wastes
//! little and reading everything soon fetches far ahead.

use std::collections::HashSet;
use std::ops::Range;

use crate::remote::format::Frame;

/// The window of a stream that has just been recognised, in bytes of the pack.
const FIRST_WINDOW: u64 = 256 << 10;

/// The largest window.
const LAST_WINDOW: u64 = 8 << 20;

/// Streams that are followed at the same time.
const STREAMS: usize = 8;

/// Frames that a stream may leave out and still be one.
const SKIP: u32 = 2;

/// Reads that go on where the last one ended before anything is fetched ahead: two may be chance, as in a program whose
/// pages are touched here and there.
const PROVEN: u32 = 2;

/// What may lie unread in any case.
const ALLOWANCE: u64 = 512 << 10;

/// One part in so many of what was read may lie unread.
const SHARE: u64 = 4;

/// So many bytes read make whoever reads a reader of everything: then a new stream begins with a window.
const BULK: u64 = 32 << 20;

/// The readers of one commit, as seen from its frames.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    streams: Vec<Stream>,
    /// Frames fetched ahead and not read yet.
    unread: HashSet<u32>,
    unread_bytes: u64,
    read_bytes: u64,
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
    /// Notes a read of the frames `read` and says which frames to fetch ahead. `missed` when some were not here.
    pub fn touch(&mut self, read: Range<u32>, missed: bool, frames: &[Frame]) -> Range<u32> {
        for frame in read.clone() {
            let length = length_of(frame, frames);
            if self.unread.remove(&frame) {
                self.unread_bytes -= length;
                self.read_bytes += length;
            } else if missed {
                self.read_bytes += length;
            }
        }
        let stream = self.advance(read);
        self.extend(stream, frames)
    }

    /// Bytes of frames that were fetched ahead and not read yet.
    pub const fn unread_bytes(&self) -> u64 {
        self.unread_bytes
    }

    /// Notes that a frame was fetched ahead.
    pub fn fetched(&mut self, frame: u32, frames: &[Frame]) {
        if self.unread.insert(frame) {
            self.unread_bytes += length_of(frame, frames);
        }
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
                let window = if self.read_bytes > BULK { LAST_WINDOW / 2 } else { 0 };
                Stream { last, edge: read.end, window, steps: 0 }
            }
        };
        self.streams.push(stream);
        self.streams.len() - 1
    }

    fn extend(&mut self, stream: usize, frames: &[Frame]) -> Range<u32> {
        let Stream { last, edge, window, .. } = self.streams[stream];
        let ahead: u64 = (last + 1..edge).map(|frame| length_of(frame, frames)).sum();
        // In large steps: each is a request.
        if ahead > window / 2 {
            return edge..edge;
        }
        let budget = ALLOWANCE.max(self.read_bytes / SHARE).saturating_sub(self.unread_bytes);
        let mut room = (window - ahead).min(budget);
        let mut end = edge;
        while let Some(length) = frames.get(end as usize).map(|frame| u64::from(frame.length)).filter(|l| *l <= room) {
            room -= length;
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

    const LENGTH: u32 = 64 << 10;

    fn frames() -> Vec<Frame> {
        (0..10_000).map(|n| Frame { pack: 0, offset: 16 + n * LENGTH, length: LENGTH, raw_length: LENGTH }).collect()
    }

    #[test]
    fn the_window_of_a_stream_grows_and_reading_here_and_there_fetches_nothing_ahead() {
        let (frames, mut ahead) = (frames(), Ahead::default());
        assert!(ahead.touch(0..1, true, &frames).is_empty());
        let mut largest = 0;
        for frame in 1..2000 {
            let more = ahead.touch(frame..frame + 1, frame == 1, &frames);
            assert!(more.is_empty() || more.start > frame);
            largest = largest.max(more.len());
            more.for_each(|frame| ahead.fetched(frame, &frames));
        }
        assert!(largest >= (LAST_WINDOW / 2) as usize / LENGTH as usize, "{largest}");
        assert!(ahead.unread_bytes <= LAST_WINDOW);
        let mut ahead = Ahead::default();
        for step in 0..100 {
            let frame = step * 77 % 9000;
            // The kernel reads around what is touched, which is no reason to read on.
            assert!(ahead.touch(frame..frame + 2, true, &frames).is_empty());
        }
    }

    #[test]
    fn what_lies_unread_is_bounded_by_what_was_read() {
        let (frames, mut ahead) = (frames(), Ahead::default());
        // Each directory is read in part, and then left.
        for start in (0..9000).step_by(50) {
            for frame in start..start + 5 {
                let more = ahead.touch(frame..frame + 1, true, &frames);
                more.for_each(|frame| ahead.fetched(frame, &frames));
                assert!(ahead.unread_bytes <= ALLOWANCE.max(ahead.read_bytes / SHARE));
            }
        }
    }

    #[test]
    fn two_readers_at_once_are_two_streams() {
        let (frames, mut ahead) = (frames(), Ahead::default());
        let mut fetched = 0;
        for step in 0..20 {
            for start in [100, 5000] {
                let more = ahead.touch(start + step..start + step + 1, true, &frames);
                fetched += more.len();
                more.for_each(|frame| ahead.fetched(frame, &frames));
            }
        }
        assert!(fetched > 20, "{fetched}");
    }
}
