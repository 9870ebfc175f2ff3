//! Decides by their sizes which packs are merged and which are indexed.
//!
//! *Not here*: reading and writing packs (`merge`, `pack_index`).
//!
//! *Used by* `store::open`, which gives a repository its limits, and by `store::merge` and `store::gc`.

/// A pack is merged unless it has more than this many times the bytes of all smaller ones. With 1, ten thousand equal packs
/// become 13 at most, and each byte is copied six times. With 2, they become 8 and each byte is copied ten times, which is too
/// much for a repository on flash memory that is filled as it is read.
const MERGE_RATIO: u64 = 1;

/// The limits from which on packs are treated differently.
#[derive(Debug, Clone, Copy)]
pub(super) struct PackLimits {
    /// Packs of at least this many bytes are not merged any more, and are listed in the index.
    pub(crate) large_bytes: u64,
    /// The index is rewritten when more large packs than this are not in it.
    pub(crate) unindexed_max: usize,
}

impl Default for PackLimits {
    /// Returns the limits of an ordinary repository. 64 MiB bound what a commit copies. Eight look-ups cost less than rewriting
    /// the index, which has a row for every object.
    fn default() -> Self {
        Self { large_bytes: 64 << 20, unindexed_max: 8 }
    }
}

/// Returns how many of the packs of `sizes` bytes, which ascend, are to be merged with each other and with the `new` bytes that
/// are being written. Their sizes sum up to at most `most` bytes; further packs are merged by later calls.
pub(super) fn count_to_merge(new: u64, sizes: &[u64], most: u64) -> usize {
    let (mut smaller, mut count) = (new, 0);
    for (number, size) in sizes.iter().enumerate() {
        if smaller > 0 && *size <= smaller.saturating_mul(MERGE_RATIO) {
            count = number + 1;
        }
        smaller = smaller.saturating_add(*size);
    }
    let mut copied = 0_u64;
    let within = sizes[..count].iter().take_while(|size| {
        copied = copied.saturating_add(**size);
        copied <= most
    });
    within.count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_keeps_packs_few_and_copies_each_byte_a_few_times() {
        let (mut packs, mut copied, mut total) = (Vec::<u64>::new(), 0, 0);
        let mut state = 7_u64;
        for _ in 0..10_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Most are small, some are a hundred times as large.
            let new = 100 + (state >> 60) * if state >> 55 & 31 == 0 { 1000 } else { 10 };
            let count = count_to_merge(new, &packs, u64::MAX);
            let merged: u64 = packs.drain(..count).sum();
            packs.push(merged + new);
            packs.sort_unstable();
            (copied, total) = (copied + merged, total + new);
            assert!(packs.windows(2).all(|pair| pair[0] * MERGE_RATIO < pair[1]), "{packs:?}");
        }
        assert!(packs.len() <= 16, "{packs:?}");
        assert!(copied < total * 8, "{copied} of {total} bytes");
        // One call does not exceed the limit of bytes, and merges nothing if the sizes are right.
        assert_eq!(count_to_merge(10, &[10, 10, 10, 10], 25), 2);
        assert_eq!(count_to_merge(0, &[10, 21, 70], u64::MAX), 0);
        assert_eq!(count_to_merge(0, &[10, 21, 30], u64::MAX), 3);
    }
}
