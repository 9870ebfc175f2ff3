//! Which frames are fetched together: pure planning, no I/O.

use std::ops::Range;

use crate::remote::format::Frame;

/// Bytes between two frames that are fetched and thrown away rather than asked for around: at 20 ms and 50 Mbit/s a
/// request costs as much as 125 KiB.
const GAP_MAX: u64 = 64 << 10;

/// Bytes of one request at most. Several of these in flight fill a link; one does not hold up what is urgent for long.
pub(super) const RUN_MAX: u64 = 2 << 20;

/// The same of what is fetched on a guess.
pub(super) const GUESS_MAX: u64 = 128 << 10;

/// Frames of one pack that are fetched by one request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Which pack.
    pub pack: u32,
    /// The bytes of the pack.
    pub range: Range<u64>,
    /// The numbers of the frames, by their place in the pack.
    pub frames: Vec<u32>,
}

/// The requests that bring `wanted`, which are numbers of frames and the frames. None is longer than `longest` unless one
/// frame is.
pub(super) fn plan(mut wanted: Vec<(u32, Frame)>, longest: u64) -> Vec<Run> {
    wanted.sort_by_key(|(_, frame)| (frame.pack, frame.offset));
    let mut runs: Vec<Run> = Vec::new();
    for (number, frame) in wanted {
        let (start, end) = (u64::from(frame.offset), frame.end());
        match runs.last_mut() {
            Some(run)
                if run.pack == frame.pack
                    && start >= run.range.end
                    && start - run.range.end <= GAP_MAX
                    && end - run.range.start <= longest =>
            {
                run.range.end = end;
                run.frames.push(number);
            }
            _ => runs.push(Run { pack: frame.pack, range: start..end, frames: vec![number] }),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(pack: u32, offset: u32, length: u32) -> Frame {
        Frame { pack, offset, length, raw_length: length }
    }

    #[test]
    fn small_gaps_are_read_over_and_large_ones_are_not() {
        let wanted = vec![
            (3, frame(0, 300_000, 10)),
            (0, frame(0, 16, 100)),
            (1, frame(0, 116, 100)),
            (2, frame(0, 60_000, 100)),
            (9, frame(1, 60_200, 5)),
        ];
        let runs = plan(wanted, RUN_MAX);
        let shapes: Vec<_> = runs.iter().map(|run| (run.pack, run.range.clone(), run.frames.clone())).collect();
        assert_eq!(
            shapes,
            [(0, 16..60_100, vec![0, 1, 2]), (0, 300_000..300_010, vec![3]), (1, 60_200..60_205, vec![9])]
        );
    }

    #[test]
    fn long_runs_become_several_requests_that_hold_everything() {
        let wanted: Vec<_> = (0..100_u32).map(|n| (n, frame(0, n * 100_000, 100_000))).collect();
        let runs = plan(wanted, RUN_MAX);
        assert!(runs.iter().all(|run| run.range.end - run.range.start <= RUN_MAX));
        assert_eq!(runs.len(), 5);
        let frames: Vec<u32> = runs.into_iter().flat_map(|run| run.frames).collect();
        assert_eq!(frames, (0..100).collect::<Vec<_>>());
    }
}
