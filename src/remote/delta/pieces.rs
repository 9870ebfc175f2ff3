//! How contents are cut for a delta: both sides must agree on it.

use std::ops::Range;

use crate::model::Commit;

/// Bytes of new content that are said together: every object that is not large is one piece. Larger ones were measured to
/// save nothing, and each costs its size several times in memory.
pub const PIECE: u64 = 1 << 20;

/// So far before and behind the place where a piece is looked for its old content is used, too. Twice as much saves nothing
/// on a Debian root, and costs each thread of a publisher 10 MiB.
const AROUND: u64 = 512 << 10;

/// Most bytes of old content that a piece is said in terms of.
const BASE_MAX: u64 = 3 * PIECE;

/// How many pieces an object of `size` bytes has.
#[must_use]
pub const fn piece_count(size: u64) -> u64 {
    size.div_ceil(PIECE)
}

/// How many pieces the objects of a commit can have at most.
#[must_use]
pub fn most_pieces(commit: &Commit) -> u64 {
    commit.entries.saturating_add(piece_count(commit.content_bytes))
}

/// Which bytes of an object of `size` bytes a piece has.
#[must_use]
pub fn piece_range(piece: u64, size: u64) -> Range<u64> {
    let start = piece.saturating_mul(PIECE).min(size);
    start..start.saturating_add(PIECE).min(size)
}

/// Which bytes of an old object of `old_size` bytes a piece of one of `size` bytes is said in terms of: those at the same
/// share of the whole, since what grows mostly grows everywhere; from those at the same place on or up to them, if
/// that is not far, since some grow at the end; and some around.
#[must_use]
pub fn base_range(piece: u64, size: u64, old_size: u64) -> Range<u64> {
    let range = piece_range(piece, size);
    let scaled = |at: u64| {
        let place = u128::from(at) * u128::from(old_size) / u128::from(size.max(1));
        u64::try_from(place).unwrap_or(u64::MAX).min(old_size)
    };
    let share = scaled(range.start)..scaled(range.end);
    let both = range.start.min(share.start)..range.end.max(share.end);
    let around = |range: &Range<u64>| {
        let end = range.end.saturating_add(AROUND).min(old_size);
        range.start.saturating_sub(AROUND).min(end)..end
    };
    let both = around(&both);
    if both.end - both.start <= BASE_MAX {
        return both;
    }
    // Of an old object that is many times as large, no more than of one of the same size.
    let share = around(&share);
    share.start..share.end.min(share.start.saturating_add(PIECE + 2 * AROUND))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_an_object_and_bases_stay_inside_the_old_one() {
        for size in [0, 1, PIECE - 1, PIECE, PIECE + 1, 10 * PIECE + 7] {
            let ranges: Vec<_> = (0..piece_count(size)).map(|piece| piece_range(piece, size)).collect();
            let mut end = 0;
            for range in &ranges {
                assert_eq!((range.start, range.is_empty()), (end, false));
                end = range.end;
            }
            assert_eq!(end, size);
            for old_size in [0, 1, size / 3, size, size * 5, u64::MAX] {
                for piece in 0..=piece_count(size) {
                    let base = base_range(piece, size, old_size);
                    assert!(base.start <= base.end && base.end <= old_size, "{base:?} of {old_size}");
                    assert!(base.end - base.start <= BASE_MAX, "{base:?}");
                }
            }
        }
        // Cut off at the end: the same place, and the same share.
        assert_eq!(base_range(7, 8 * PIECE, 9 * PIECE), 7 * PIECE - AROUND..9 * PIECE);
        assert_eq!(base_range(4, 10 * PIECE, 20 * PIECE), 8 * PIECE - AROUND..9 * PIECE + AROUND);
        assert_eq!(base_range(u64::MAX, u64::MAX, u64::MAX).end, u64::MAX);
    }
}
