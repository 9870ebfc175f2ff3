//! Purpose: which packs are merged and which are indexed, as numbers.
//!
//! Not here: files (`merge`, `pack_index`). Used by: `open`, which gives a repository its limits, `merge` and `gc`.

/// A pack is merged unless it has more than so many times the bytes of all smaller ones. With 1, ten thousand equal packs
/// become 13 at most, and each byte is copied six times on the way; with 2, they become 8 and each is copied ten times, which
/// a repository on flash memory that is filled as it is read would feel.
const RATIO: u64 = 1;

/// From which sizes and numbers on packs are treated differently.
#[derive(Debug, Clone, Copy)]
pub(super) struct PackLimits {
    /// Packs of this many bytes are not merged any more, and are what the index is for.
    pub large: u64,
    /// The index is made anew when more large packs than this are not in it.
    pub unindexed: usize,
}

impl Default for PackLimits {
    /// 64 MiB bound what a commit copies at most. Eight look-ups cost less than writing the index anew, which takes a row
    /// for every object.
    fn default() -> Self {
        Self { large: 64 << 20, unindexed: 8 }
    }
}

/// How many of the packs of `sizes` bytes, which ascend, are to be merged with each other and with `new` bytes that are being
/// written. At most about `most` bytes are copied; what is left is merged by later calls.
pub(super) fn count_to_merge(new: u64, sizes: &[u64], most: u64) -> usize {
    let (mut smaller, mut count) = (new, 0);
    for (number, size) in sizes.iter().enumerate() {
        if smaller > 0 && *size <= smaller.saturating_mul(RATIO) {
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
    fn packs_grow_in_number_with_the_logarithm_of_their_bytes_and_each_byte_is_copied_a_few_times() {
        let (mut packs, mut copied, mut total) = (Vec::<u64>::new(), 0, 0);
        let mut state = 7_u64;
        for _ in 0..10_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Mostly small, some hundred times as large.
            let new = 100 + (state >> 60) * if state >> 55 & 31 == 0 { 1000 } else { 10 };
            let count = count_to_merge(new, &packs, u64::MAX);
            let merged: u64 = packs.drain(..count).sum();
            packs.push(merged + new);
            packs.sort_unstable();
            (copied, total) = (copied + merged, total + new);
            assert!(packs.windows(2).all(|pair| pair[0] * RATIO < pair[1]), "{packs:?}");
        }
        assert!(packs.len() <= 16, "{packs:?}");
        assert!(copied < total * 8, "{copied} of {total} bytes");
        // At once, no more than is allowed; and nothing where all is well.
        assert_eq!(count_to_merge(10, &[10, 10, 10, 10], 25), 2);
        assert_eq!(count_to_merge(0, &[10, 21, 70], u64::MAX), 0);
        assert_eq!(count_to_merge(0, &[10, 21, 30], u64::MAX), 3);
    }
}
