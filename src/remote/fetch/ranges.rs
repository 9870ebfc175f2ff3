//! Which bytes of which packs to ask for, in how few requests.
//!
//! Pure. Frames that lie near each other are read by one request together with the gap between them, since a request
//! costs about as much as the bytes that pass during one round trip. Called by the plan.

use std::ops::Range;

use crate::remote::format::Frame;

/// Gaps up to this many bytes are always read over. 64 KiB: what 50 Mbit/s carry in 10 ms.
const GAP: u64 = 64 << 10;

/// Larger gaps, up to this many bytes, are read over as long as [`WASTE`] allows.
const GAP_MAX: u64 = 1 << 20;

/// At most one in so many bytes may be read only to save requests.
const WASTE: u64 = 16;

/// About how many bytes one request reads: 16 MiB, long enough that its round trip does not count, short enough that
/// several in flight share the work evenly. A pack of 64 MiB takes four.
pub const REQUEST: u64 = 16 << 20;

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Number of the pack in the locator.
    pub pack: u32,
    /// The bytes of the pack.
    pub range: Range<u64>,
    /// Which of the frames, as they were given, lie there.
    pub frames: Range<usize>,
}

/// Groups `frames`, which must ascend by pack and offset and not overlap, into requests.
#[must_use]
pub fn requests(frames: &[Frame]) -> Vec<Request> {
    let largest_gap = affordable_gap(frames);
    let mut runs: Vec<Request> = Vec::new();
    for (index, frame) in frames.iter().enumerate() {
        let (start, end) = (u64::from(frame.offset), frame.end());
        match runs.last_mut() {
            Some(run) if run.pack == frame.pack && start <= run.range.end.saturating_add(largest_gap) => {
                run.range.end = run.range.end.max(end);
                run.frames.end = index + 1;
            }
            _ => runs.push(Request { pack: frame.pack, range: start..end, frames: index..index + 1 }),
        }
    }
    runs.iter().flat_map(|run| split(run, frames)).collect()
}

/// The largest gap worth reading over: beyond [`GAP`], small ones first, as long as they add little to what is needed.
fn affordable_gap(frames: &[Frame]) -> u64 {
    let needed: u64 = frames.iter().map(|frame| u64::from(frame.length)).sum();
    let mut gaps: Vec<u64> = frames
        .windows(2)
        .filter(|pair| pair[0].pack == pair[1].pack)
        .map(|pair| u64::from(pair[1].offset).saturating_sub(pair[0].end()))
        .filter(|gap| (GAP..=GAP_MAX).contains(gap))
        .collect();
    gaps.sort_unstable();
    let mut left = needed / WASTE;
    let mut largest = GAP;
    // All gaps of one length, or none of them.
    for equal in gaps.chunk_by(|a, b| a == b) {
        match left.checked_sub(equal[0].saturating_mul(equal.len() as u64)) {
            Some(rest) => (left, largest) = (rest, equal[0]),
            None => break,
        }
    }
    largest
}

/// Cuts a run at ends of frames into parts of about [`REQUEST`] bytes, all of about the same length.
fn split(run: &Request, frames: &[Frame]) -> Vec<Request> {
    let length = run.range.end - run.range.start;
    let parts = ((length + REQUEST / 2) / REQUEST).max(1);
    let target = length.div_ceil(parts).max(1);
    let mut requests: Vec<Request> = Vec::new();
    let mut part = 0;
    for index in run.frames.clone() {
        let frame = &frames[index];
        let (start, end) = (u64::from(frame.offset), frame.end());
        // A frame belongs to the part in which it begins, so there are never more parts than that.
        let its_part = (start - run.range.start) / target;
        match requests.last_mut() {
            Some(last) if its_part == part || end <= last.range.end => {
                last.range.end = last.range.end.max(end);
                last.frames.end = index + 1;
            }
            _ => requests.push(Request { pack: run.pack, range: start..end, frames: index..index + 1 }),
        }
        part = its_part;
    }
    requests
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(pack: u32, offset: u64, length: u32) -> Frame {
        let offset = u32::try_from(offset).expect("packs of tests are small");
        Frame { pack, offset, length, raw_length: length }
    }

    fn ranges(frames: &[Frame]) -> Vec<(u32, Range<u64>)> {
        requests(frames).into_iter().map(|request| (request.pack, request.range)).collect()
    }

    #[test]
    fn neighbours_share_a_request_and_strangers_do_not() {
        assert_eq!(ranges(&[]), []);
        let near = [frame(0, 16, 100), frame(0, 116, 100), frame(0, 300, 50), frame(1, 350, 10)];
        assert_eq!(ranges(&near), [(0, 16..350), (1, 350..360)]);
        let far = [frame(0, 16, 100), frame(0, GAP_MAX * 2, 100)];
        assert_eq!(ranges(&far).len(), 2);
    }

    #[test]
    fn a_gap_is_read_over_if_that_adds_little() {
        let wide = 20 * GAP;
        let much = [frame(0, 0, 2 << 20), frame(0, (2 << 20) + 2 * GAP, 2 << 20)];
        assert_eq!(ranges(&much).len(), 1, "128 KiB beside 4 MiB");
        let little = [frame(0, 0, 1000), frame(0, 1000 + 2 * GAP, 1000)];
        assert_eq!(ranges(&little).len(), 2, "128 KiB beside 2 kB");
        let beyond = [frame(0, 0, 100 << 20), frame(0, (100 << 20) + wide, 1000)];
        assert_eq!(ranges(&beyond).len(), 2, "a gap of more than 1 MiB");
    }

    #[test]
    fn a_whole_pack_takes_four_requests_of_the_same_length_and_every_frame_is_in_one() {
        let size = 99_777;
        let frames: Vec<Frame> = (0..680_u32).map(|index| frame(0, 16 + u64::from(index * size), size)).collect();
        let found = requests(&frames);
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
