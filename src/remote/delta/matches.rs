//! What of a new content is, roughly, in an old one.
//!
//! Programs that were built again differ from what they were in few bytes at many places: addresses and lengths that
//! moved. Looking for equal bytes only, each of those ends a match. So a match here goes on over bytes that differ, as in
//! bsdiff, as long as more are equal than not; another place in the old content takes over where it is better by some
//! bytes.

use std::ops::Range;

/// Equal bytes from which on a match is worth naming.
const SHORTEST: usize = 10;

/// So many bytes more must be equal elsewhere for leaving the place where matching is.
const ADVANTAGE: usize = 8;

/// Places with the same hash that are compared.
const TRIES: usize = 16;

/// Bytes that are hashed.
const HASHED: usize = 8;

/// Most bits of a hash: a table of 4 MiB.
const HASH_BITS: u32 = 20;

/// A run of new bytes: the first of them like some old ones, the others like none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    /// The new bytes.
    pub new: Range<usize>,
    /// How many of them are like old ones.
    pub like: usize,
    /// Where those begin in the old content.
    pub old: usize,
}

/// Where in the old content each hash is.
struct Index<'a> {
    old: &'a [u8],
    bits: u32,
    /// The last place, plus one, of each hash.
    last: Vec<u32>,
    /// For each place the one before it with the same hash, plus one.
    before: Vec<u32>,
}

impl<'a> Index<'a> {
    fn new(old: &'a [u8]) -> Self {
        let bits = (usize::BITS - old.len().leading_zeros()).clamp(8, HASH_BITS);
        let places = (old.len() + 1).saturating_sub(HASHED);
        let mut index = Self { old, bits, last: vec![0; 1 << bits], before: vec![0; places] };
        for place in 0..places {
            let slot = index.hash(&old[place..]);
            let number = u32::try_from(place + 1).expect("a base is a few MiB");
            index.before[place] = std::mem::replace(&mut index.last[slot], number);
        }
        index
    }

    /// The hash of the first bytes, of which there must be enough.
    fn hash(&self, bytes: &[u8]) -> usize {
        let word = u64::from_le_bytes(bytes[..HASHED].try_into().expect("eight bytes"));
        usize::try_from(word.wrapping_mul(0x9e37_79b1_85eb_ca87) >> (u64::BITS - self.bits)).expect("at most HASH_BITS")
    }

    /// The longest of the matches looked at: where, and how many bytes.
    fn longest(&self, new: &[u8]) -> (usize, usize) {
        let mut best = (0, 0);
        if new.len() < HASHED {
            return best;
        }
        let mut next = self.last[self.hash(new)] as usize;
        for _ in 0..TRIES {
            let Some(place) = next.checked_sub(1) else { break };
            let length = common(&self.old[place..], new);
            if length > best.1 {
                best = (place, length);
            }
            next = self.before[place] as usize;
        }
        best
    }
}

/// How many bytes at the start of both are equal.
fn common(a: &[u8], b: &[u8]) -> usize {
    const WORD: usize = 8;
    let words = a.chunks_exact(WORD).zip(b.chunks_exact(WORD));
    let equal = words.take_while(|(a, b)| a == b).count() * WORD;
    equal + a[equal..].iter().zip(&b[equal..]).take_while(|(a, b)| a == b).count()
}

/// How many bytes at the end of both are equal.
fn common_end(a: &[u8], b: &[u8]) -> usize {
    a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count()
}

/// A place in the old content for every place in the new one, as the distance between them.
#[derive(Debug, Clone, Copy)]
struct Alignment {
    /// What to add to a place in the new content; wraps.
    shift: usize,
}

impl Alignment {
    /// The old bytes from the one on that belongs to place `at` of the new content; none when that is outside.
    fn old(self, old: &[u8], at: usize) -> &[u8] {
        old.get(at.wrapping_add(self.shift)..).unwrap_or_default()
    }
}

/// Cuts `new` into segments, in order, so that the more is like `old` the better.
pub(super) fn segments(old: &[u8], new: &[u8]) -> Vec<Segment> {
    let index = Index::new(old);
    let mut segments = Vec::new();
    let mut from = 0;
    let mut alignment = Alignment { shift: 0 };
    let mut at = 0;
    while at < new.len() {
        at += common(alignment.old(old, at), &new[at..]);
        let (place, length) = index.longest(&new[at..]);
        let here = alignment.old(old, at).iter().zip(&new[at..at + length]).filter(|(a, b)| a == b).count();
        if length < SHORTEST || length <= here + ADVANTAGE {
            at += 1;
            continue;
        }
        let start = at - common_end(&old[..place], &new[from..at]);
        if start > from {
            segments.push(segment(old, new, from..start, alignment));
        }
        alignment = Alignment { shift: place.wrapping_sub(at) };
        from = start;
        at += length;
    }
    if from < new.len() {
        segments.push(segment(old, new, from..new.len(), alignment));
    }
    segments
}

/// The segment `range` of new bytes: as long as more of them are equal than not, they count as alike.
fn segment(old: &[u8], new: &[u8], range: Range<usize>, alignment: Alignment) -> Segment {
    let (mut score, mut best, mut like) = (0_i64, 0, 0);
    let old_bytes = alignment.old(old, range.start);
    for (count, (a, b)) in (1..).zip(old_bytes.iter().zip(&new[range.clone()])) {
        score += if a == b { 1 } else { -1 };
        if score > best {
            (best, like) = (score, count);
        }
    }
    let old = if like == 0 { 0 } else { range.start.wrapping_add(alignment.shift) };
    Segment { new: range, like, old }
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
    fn what_moved_and_what_differs_here_and_there_is_found() {
        let old = noise(20_000, 1);
        let inserted = noise(300, 2);
        let mut new = [&old[5000..9000], &inserted, &old[9000..], &old[..4000]].concat();
        for at in [100, 107, 2000, 3990, 12_000] {
            new[at] ^= 0x55;
        }
        let found = segments(&old, &new);
        let alike: Vec<_> = found.iter().map(|it| (it.new.start, it.like, it.old)).collect();
        assert_eq!(alike, [(0, 4000, 5000), (4300, 11_000, 9000), (15_300, 4000, 0)]);
    }

    #[test]
    fn segments_cover_the_new_bytes_whatever_they_are() {
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
            for it in segments(&old, &new) {
                assert_eq!((it.new.start, it.new.is_empty()), (end, false));
                assert!(it.like <= it.new.len() && it.old + it.like <= old.len(), "{it:?}");
                end = it.new.end;
            }
            assert_eq!(end, new.len());
        }
    }
}
