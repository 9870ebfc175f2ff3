//! Approximate matching: finds the parts of a new content that are similar to parts of an old one.
//!
//! A program that was compiled again differs from its previous version in few bytes at many positions: addresses and
//! lengths that moved. A search for equal bytes only would end a match at each of them. So a match here continues over
//! bytes that differ, as in bsdiff, as long as more bytes are equal than not; a match at another position of the old
//! content replaces it where that has more equal bytes by some margin.
//!
//! *Not here*: how matches are stored (`streams`).
//!
//! *Used by* `streams`.

use std::ops::Range;

/// The fewest equal bytes of a match that is used.
const MATCH_MIN: usize = 10;

/// The fewest additional equal bytes for which the search leaves the current match for another one.
const SWITCH_GAIN_MIN: usize = 8;

/// The most positions with the same hash that are compared.
const CANDIDATES_MAX: usize = 16;

/// Number of bytes that are hashed.
const HASHED_BYTES: usize = 8;

/// The most bits of a hash. 20 bits: a table of 4 MiB.
const HASH_BITS: u32 = 20;

/// A run of new bytes: the first of them are similar to old bytes, the others are stored as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    /// The new bytes.
    pub(crate) new: Range<usize>,
    /// Number of new bytes that are similar to old ones.
    pub(crate) similar: usize,
    /// Position of the similar bytes in the old content.
    pub(crate) old: usize,
}

/// The positions of each hash in the old content.
struct HashIndex<'a> {
    old: &'a [u8],
    bits: u32,
    /// The last position of each hash, plus one.
    last: Vec<u32>,
    /// For each position the previous one with the same hash, plus one.
    before: Vec<u32>,
}

impl<'a> HashIndex<'a> {
    fn new(old: &'a [u8]) -> Self {
        let bits = (usize::BITS - old.len().leading_zeros()).clamp(8, HASH_BITS);
        let positions = (old.len() + 1).saturating_sub(HASHED_BYTES);
        let mut index = Self { old, bits, last: vec![0; 1 << bits], before: vec![0; positions] };
        for position in 0..positions {
            let slot = index.hash(&old[position..]);
            let number = u32::try_from(position + 1).expect("a base is a few MiB");
            index.before[position] = std::mem::replace(&mut index.last[slot], number);
        }
        index
    }

    /// Returns the hash of the first [`HASHED_BYTES`] bytes, which must exist.
    fn hash(&self, bytes: &[u8]) -> usize {
        let word = u64::from_le_bytes(bytes[..HASHED_BYTES].try_into().expect("eight bytes"));
        usize::try_from(word.wrapping_mul(0x9e37_79b1_85eb_ca87) >> (u64::BITS - self.bits)).expect("at most HASH_BITS")
    }

    /// Returns the position and length of the longest of the matches that were compared.
    fn longest(&self, new: &[u8]) -> (usize, usize) {
        let mut best = (0, 0);
        if new.len() < HASHED_BYTES {
            return best;
        }
        let mut next = self.last[self.hash(new)] as usize;
        for _ in 0..CANDIDATES_MAX {
            let Some(position) = next.checked_sub(1) else { break };
            let length = common_start(&self.old[position..], new);
            if length > best.1 {
                best = (position, length);
            }
            next = self.before[position] as usize;
        }
        best
    }
}

/// Returns how many bytes at the start of both are equal.
fn common_start(a: &[u8], b: &[u8]) -> usize {
    const WORD: usize = 8;
    let words = a.chunks_exact(WORD).zip(b.chunks_exact(WORD));
    let equal = words.take_while(|(a, b)| a == b).count() * WORD;
    equal + a[equal..].iter().zip(&b[equal..]).take_while(|(a, b)| a == b).count()
}

/// Returns how many bytes at the end of both are equal.
fn common_end(a: &[u8], b: &[u8]) -> usize {
    a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count()
}

/// A mapping of positions in the new content to positions in the old one: the distance between them.
#[derive(Debug, Clone, Copy)]
struct Alignment {
    /// The distance to add to a position in the new content; the addition wraps.
    shift: usize,
}

impl Alignment {
    /// Returns the old bytes from the position that corresponds to position `at` of the new content; none when that is
    /// outside.
    fn old_bytes(self, old: &[u8], at: usize) -> &[u8] {
        old.get(at.wrapping_add(self.shift)..).unwrap_or_default()
    }
}

/// Cuts `new` into segments, in order, so that many bytes are similar to bytes of `old`.
pub(super) fn find_segments(old: &[u8], new: &[u8]) -> Vec<Segment> {
    let index = HashIndex::new(old);
    let mut segments = Vec::new();
    let mut from = 0;
    let mut alignment = Alignment { shift: 0 };
    let mut at = 0;
    while at < new.len() {
        at += common_start(alignment.old_bytes(old, at), &new[at..]);
        let (position, length) = index.longest(&new[at..]);
        let equal_here = alignment.old_bytes(old, at).iter().zip(&new[at..at + length]).filter(|(a, b)| a == b).count();
        if length < MATCH_MIN || length <= equal_here + SWITCH_GAIN_MIN {
            at += 1;
            continue;
        }
        let start = at - common_end(&old[..position], &new[from..at]);
        if start > from {
            segments.push(make_segment(old, new, from..start, alignment));
        }
        alignment = Alignment { shift: position.wrapping_sub(at) };
        from = start;
        at += length;
    }
    if from < new.len() {
        segments.push(make_segment(old, new, from..new.len(), alignment));
    }
    segments
}

/// Makes the segment for the new bytes `range`. Its similar part is the longest beginning for which the number of equal
/// bytes minus the number of different bytes is largest.
fn make_segment(old: &[u8], new: &[u8], range: Range<usize>, alignment: Alignment) -> Segment {
    let (mut score, mut best, mut similar) = (0_i64, 0, 0);
    let old_bytes = alignment.old_bytes(old, range.start);
    for (count, (a, b)) in (1..).zip(old_bytes.iter().zip(&new[range.clone()])) {
        score += if a == b { 1 } else { -1 };
        if score > best {
            (best, similar) = (score, count);
        }
    }
    let old = if similar == 0 { 0 } else { range.start.wrapping_add(alignment.shift) };
    Segment { new: range, similar, old }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(length: usize, mut state: u64) -> Vec<u8> {
        let next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        std::iter::repeat_with(next).take(length).collect()
    }

    #[test]
    fn matches_follow_moved_content_and_single_changed_bytes() {
        let old = noise(20_000, 1);
        let inserted = noise(300, 2);
        let mut new = [&old[5000..9000], &inserted, &old[9000..], &old[..4000]].concat();
        for at in [100, 107, 2000, 3990, 12_000] {
            new[at] ^= 0x55;
        }
        let found = find_segments(&old, &new);
        let alike: Vec<_> = found.iter().map(|it| (it.new.start, it.similar, it.old)).collect();
        assert_eq!(alike, [(0, 4000, 5000), (4300, 11_000, 9000), (15_300, 4000, 0)]);
    }

    #[test]
    fn segments_cover_all_new_bytes_of_any_content() {
        let zeros = vec![0; 5000];
        let cases = [
            (noise(5000, 1), noise(5000, 2)),
            (Vec::new(), noise(100, 1)),
            (noise(100, 1), Vec::new()),
            (zeros.clone(), zeros.clone()),
            (zeros, noise(3000, 3)),
            (b"abc".to_vec(), b"abd".to_vec()),
        ];
        for (old, new) in cases {
            let mut end = 0;
            for it in find_segments(&old, &new) {
                assert_eq!((it.new.start, it.new.is_empty()), (end, false));
                assert!(it.similar <= it.new.len() && it.old + it.similar <= old.len(), "{it:?}");
                end = it.new.end;
            }
            assert_eq!(end, new.len());
        }
    }
}
