//! The rules by which contents are cut into pieces for a delta, and which old bytes each piece is compared with.
//!
//! *Invariants*: the maker and the user of a delta compute the same ranges from the sizes alone; they are part of the
//! format.
//!
//! *Used by* `write` and `remote::fetch`.

use std::ops::Range;

use crate::model::Commit;

/// Length of a piece in bytes. Every object that is not large is one piece. Larger pieces were measured to save
/// nothing, and each piece costs its size several times in memory.
pub(crate) const PIECE_SIZE: u64 = 1 << 20;

/// The distance in bytes before and behind the position of a piece within which old content is used, too. Twice as much
/// saves nothing on a Debian root, and costs each thread of a publisher 10 MiB.
const BASE_MARGIN: u64 = 512 << 10;

/// The most bytes of old content that a piece is compared with.
const BASE_MAX: u64 = 3 * PIECE_SIZE;

/// Returns how many pieces an object of `size` bytes has.
#[must_use]
pub const fn piece_count(size: u64) -> u64 {
    size.div_ceil(PIECE_SIZE)
}

/// Returns how many pieces the objects of a commit can have at most.
pub(crate) fn max_pieces(commit: &Commit) -> u64 {
    commit.entries.saturating_add(piece_count(commit.content_bytes))
}

/// Returns which bytes of an object of `size` bytes a piece has.
#[must_use]
pub fn piece_range(piece: u64, size: u64) -> Range<u64> {
    let start = piece.saturating_mul(PIECE_SIZE).min(size);
    start..start.saturating_add(PIECE_SIZE).min(size)
}

/// Returns the base of a piece: the bytes of an old object of `old_size` bytes that a piece of an object of `size`
/// bytes is compared with. These are the bytes at the same share of the whole, since most files grow everywhere; those
/// from the same position on or up to it, if that is not far, since some files grow at the end; and a margin on both
/// sides.
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
        let end = range.end.saturating_add(BASE_MARGIN).min(old_size);
        range.start.saturating_sub(BASE_MARGIN).min(end)..end
    };
    let both = around(&both);
    if both.end - both.start <= BASE_MAX {
        return both;
    }
    // From an old object that is many times as large, no more is taken than from one of the same size.
    let share = around(&share);
    share.start..share.end.min(share.start.saturating_add(PIECE_SIZE + 2 * BASE_MARGIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_an_object_and_bases_stay_inside_the_old_object() {
        for size in [0, 1, PIECE_SIZE - 1, PIECE_SIZE, PIECE_SIZE + 1, 10 * PIECE_SIZE + 7] {
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
        // The old content was cut off at its end: the base has the same position and the same share.
        assert_eq!(base_range(7, 8 * PIECE_SIZE, 9 * PIECE_SIZE), 7 * PIECE_SIZE - BASE_MARGIN..9 * PIECE_SIZE);
        assert_eq!(
            base_range(4, 10 * PIECE_SIZE, 20 * PIECE_SIZE),
            8 * PIECE_SIZE - BASE_MARGIN..9 * PIECE_SIZE + BASE_MARGIN
        );
        assert_eq!(base_range(u64::MAX, u64::MAX, u64::MAX).end, u64::MAX);
    }
}
