//! Groups frames into few requests for ranges of packs. Pure.
//!
//! Frames that are near each other are read by one request together with the gap between them, since a request costs
//! about as much time as the bytes that can be transferred during one round trip.
//!
//! *Used by* `plan`, `patches`, the cache's fetches, and `publish`, which counts the requests of a client.

use std::ops::Range;

use crate::remote::format::PackFrame;

/// Gaps up to this many bytes are always read. 64 KiB: what 50 Mbit/s transfer in 10 ms.
const GAP_ALWAYS_READ: u64 = 64 << 10;

/// Larger gaps, up to this many bytes, are read as long as [`WASTE_DIVISOR`] allows.
const GAP_MAX: u64 = 1 << 20;

/// At most one in this many bytes may be read only to save requests.
const WASTE_DIVISOR: u64 = 16;

/// About how many bytes one request reads. 16 MiB: long enough that its round trip does not count, short enough that
/// several in flight share the work evenly. A pack of 64 MiB takes four.
pub(crate) const REQUEST_SIZE: u64 = 16 << 20;

/// A request for a range of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RangeRequest {
    /// Number of the pack in the locator.
    pub(crate) pack: u32,
    /// The bytes of the pack.
    pub(crate) range: Range<u64>,
    /// Which of the given frames are in the range.
    pub(crate) frames: Range<usize>,
}

/// Groups `frames`, which must ascend by pack and offset and not overlap, into requests.
pub(crate) fn group_requests(frames: &[PackFrame]) -> Vec<RangeRequest> {
    let largest_gap = affordable_gap(frames);
    let mut runs: Vec<RangeRequest> = Vec::new();
    for (index, frame) in frames.iter().enumerate() {
        let (start, end) = (u64::from(frame.offset), frame.end());
        match runs.last_mut() {
            Some(run) if run.pack == frame.pack && start <= run.range.end.saturating_add(largest_gap) => {
                run.range.end = run.range.end.max(end);
                run.frames.end = index + 1;
            }
            _ => runs.push(RangeRequest { pack: frame.pack, range: start..end, frames: index..index + 1 }),
        }
    }
    runs.iter().flat_map(|run| split(run, frames)).collect()
}

/// Returns the largest gap that is read. Beyond [`GAP_ALWAYS_READ`], small gaps come first, as long as they add little
/// to the bytes that are needed.
fn affordable_gap(frames: &[PackFrame]) -> u64 {
    let needed: u64 = frames.iter().map(|frame| u64::from(frame.length)).sum();
    let mut gaps: Vec<u64> = frames
        .windows(2)
        .filter(|pair| pair[0].pack == pair[1].pack)
        .map(|pair| u64::from(pair[1].offset).saturating_sub(pair[0].end()))
        .filter(|gap| (GAP_ALWAYS_READ..=GAP_MAX).contains(gap))
        .collect();
    gaps.sort_unstable();
    let mut left = needed / WASTE_DIVISOR;
    let mut largest = GAP_ALWAYS_READ;
    // All gaps of one length are read, or none of them.
    for equal in gaps.chunk_by(|a, b| a == b) {
        match left.checked_sub(equal[0].saturating_mul(equal.len() as u64)) {
            Some(rest) => (left, largest) = (rest, equal[0]),
            None => break,
        }
    }
    largest
}

/// Splits a run at ends of frames into parts of about [`REQUEST_SIZE`] bytes, all of similar length.
fn split(run: &RangeRequest, frames: &[PackFrame]) -> Vec<RangeRequest> {
    let length = run.range.end - run.range.start;
    let parts = ((length + REQUEST_SIZE / 2) / REQUEST_SIZE).max(1);
    let target = length.div_ceil(parts).max(1);
    let mut requests: Vec<RangeRequest> = Vec::new();
    let mut part = 0;
    for index in run.frames.clone() {
        let frame = &frames[index];
        let (start, end) = (u64::from(frame.offset), frame.end());
        // A frame belongs to the part in which it begins, so the number of parts does not grow.
        let its_part = (start - run.range.start) / target;
        match requests.last_mut() {
            Some(last) if its_part == part || end <= last.range.end => {
                last.range.end = last.range.end.max(end);
                last.frames.end = index + 1;
            }
            _ => requests.push(RangeRequest { pack: run.pack, range: start..end, frames: index..index + 1 }),
        }
        part = its_part;
    }
    requests
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(pack: u32, offset: u64, length: u32) -> PackFrame {
        let offset = u32::try_from(offset).expect("packs of tests are small");
        PackFrame { pack, offset, length, raw_length: length }
    }

    fn ranges(frames: &[PackFrame]) -> Vec<(u32, Range<u64>)> {
        group_requests(frames).into_iter().map(|request| (request.pack, request.range)).collect()
    }

    #[test]
    fn adjacent_frames_share_a_request_and_distant_ones_do_not() {
        assert_eq!(ranges(&[]), []);
        let near = [frame(0, 16, 100), frame(0, 116, 100), frame(0, 300, 50), frame(1, 350, 10)];
        assert_eq!(ranges(&near), [(0, 16..350), (1, 350..360)]);
        let far = [frame(0, 16, 100), frame(0, GAP_MAX * 2, 100)];
        assert_eq!(ranges(&far).len(), 2);
    }

    #[test]
    fn gap_is_read_if_it_adds_little() {
        let wide = 20 * GAP_ALWAYS_READ;
        let much = [frame(0, 0, 2 << 20), frame(0, (2 << 20) + 2 * GAP_ALWAYS_READ, 2 << 20)];
        assert_eq!(ranges(&much).len(), 1, "128 KiB beside 4 MiB");
        let little = [frame(0, 0, 1000), frame(0, 1000 + 2 * GAP_ALWAYS_READ, 1000)];
        assert_eq!(ranges(&little).len(), 2, "128 KiB beside 2 kB");
        let beyond = [frame(0, 0, 100 << 20), frame(0, (100 << 20) + wide, 1000)];
        assert_eq!(ranges(&beyond).len(), 2, "a gap of more than 1 MiB");
    }

    #[test]
    fn whole_pack_takes_four_requests_of_similar_length() {
        let size = 99_777;
        let frames: Vec<PackFrame> = (0..680_u32).map(|index| frame(0, 16 + u64::from(index * size), size)).collect();
        let found = group_requests(&frames);
        assert_eq!(found.len(), 4);
        assert_eq!(
            found.iter().flat_map(|request| request.frames.clone()).collect::<Vec<_>>(),
            (0..680).collect::<Vec<_>>()
        );
        for request in &found {
            let length = request.range.end - request.range.start;
            assert!((16_000_000..18_000_000).contains(&length), "{length}");
            for frame in &frames[request.frames.clone()] {
                assert!(request.range.start <= u64::from(frame.offset) && frame.end() <= request.range.end);
            }
        }
    }
}
