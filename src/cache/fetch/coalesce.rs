//! Decides which frames one request fetches together. Pure planning without I/O.
//!
//! *Used by* `objects` and `execute`.

use std::ops::Range;

use crate::remote::format::PackFrame;

/// The largest gap between two frames, in bytes, that is fetched and discarded to save a request: at 20 ms and 50 Mbit/s a
/// request costs as much as 125 KiB.
const GAP_MAX: u64 = 64 << 10;

/// The largest request, in bytes. Several of this size at the same time fill a link; one does not delay foreground requests
/// for long.
pub(in crate::cache) const REQUEST_MAX: u64 = 2 << 20;

/// The largest speculative request, in bytes.
pub(in crate::cache) const SPECULATIVE_REQUEST_MAX: u64 = 128 << 10;

/// The frames of one pack that one request fetches.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::cache) struct FrameRequest {
    /// The number of the pack in the locator.
    pub(crate) pack: u32,
    /// The bytes of the pack that are requested.
    pub(crate) range: Range<u64>,
    /// The numbers of the frames, in the order of their offsets.
    pub(crate) frames: Vec<u32>,
}

/// Returns the requests that fetch the `wanted` frames, each given with its number. No request is longer than `longest`
/// bytes, unless a single frame is.
pub(in crate::cache) fn coalesce(mut wanted: Vec<(u32, PackFrame)>, longest: u64) -> Vec<FrameRequest> {
    wanted.sort_by_key(|(_, frame)| (frame.pack, frame.offset));
    let mut requests: Vec<FrameRequest> = Vec::new();
    for (number, frame) in wanted {
        let (start, end) = (u64::from(frame.offset), frame.end());
        match requests.last_mut() {
            Some(request)
                if request.pack == frame.pack
                    && start >= request.range.end
                    && start - request.range.end <= GAP_MAX
                    && end - request.range.start <= longest =>
            {
                request.range.end = end;
                request.frames.push(number);
            }
            _ => requests.push(FrameRequest { pack: frame.pack, range: start..end, frames: vec![number] }),
        }
    }
    requests
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(pack: u32, offset: u32, length: u32) -> PackFrame {
        PackFrame { pack, offset, length, raw_length: length }
    }

    #[test]
    fn small_gaps_are_fetched_and_large_ones_split_a_request() {
        let wanted = vec![
            (3, frame(0, 300_000, 10)),
            (0, frame(0, 16, 100)),
            (1, frame(0, 116, 100)),
            (2, frame(0, 60_000, 100)),
            (9, frame(1, 60_200, 5)),
        ];
        let requests = coalesce(wanted, REQUEST_MAX);
        let shapes: Vec<_> =
            requests.iter().map(|request| (request.pack, request.range.clone(), request.frames.clone())).collect();
        assert_eq!(
            shapes,
            [(0, 16..60_100, vec![0, 1, 2]), (0, 300_000..300_010, vec![3]), (1, 60_200..60_205, vec![9])]
        );
    }

    #[test]
    fn long_runs_are_split_into_requests_without_losing_frames() {
        let wanted: Vec<_> = (0..100_u32).map(|n| (n, frame(0, n * 100_000, 100_000))).collect();
        let requests = coalesce(wanted, REQUEST_MAX);
        assert!(requests.iter().all(|request| request.range.end - request.range.start <= REQUEST_MAX));
        assert_eq!(requests.len(), 5);
        let frames: Vec<u32> = requests.into_iter().flat_map(|request| request.frames).collect();
        assert_eq!(frames, (0..100).collect::<Vec<_>>());
    }
}
