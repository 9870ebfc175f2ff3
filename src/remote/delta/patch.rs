//! One piece of a file in terms of an older one.

use std::io::{self, Read as _, Write as _};
use std::ops::Range;

use zstd::zstd_safe::CParameter;

use crate::model::Commit;

/// Bytes of new content that are patched together.
pub const PIECE: u64 = 4 << 20;

/// So far before and behind a piece's own place its old content is looked at: what was inserted or removed before it moves
/// it by less, mostly.
const AROUND: u64 = 2 << 20;

/// Tables of the compressor are kept to these sizes (as powers of two of 4 bytes), 16 MiB a thread: level 19 would take five
/// times as much for a window of 16 MiB.
const HASH_LOG: u32 = 20;
const CHAIN_LOG: u32 = 21;

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
    start..(start + PIECE).min(size)
}

/// Which bytes of the old object a piece is said in terms of.
#[must_use]
pub fn base_range(piece: u64, old_size: u64) -> Range<u64> {
    let start = piece.saturating_mul(PIECE);
    let end = start.saturating_add(PIECE + AROUND).min(old_size);
    start.saturating_sub(AROUND).min(end)..end
}

/// The bits of a window over both.
fn window_log(base: usize, new: usize) -> u32 {
    (usize::BITS - (base + new).leading_zeros()).clamp(17, 24)
}

/// Says `new` in terms of `base`, at a level of zstd.
///
/// # Errors
/// Those of the compressor: no memory.
pub(super) fn make_piece(base: &[u8], new: &[u8], level: i32) -> io::Result<Vec<u8>> {
    let log = window_log(base.len(), new.len());
    let mut encoder = zstd::stream::write::Encoder::with_ref_prefix(Vec::new(), level, base)?;
    encoder.set_parameter(CParameter::WindowLog(log))?;
    if log > HASH_LOG && level > 10 {
        encoder.set_parameter(CParameter::HashLog(HASH_LOG))?;
        encoder.set_parameter(CParameter::ChainLog(CHAIN_LOG))?;
    }
    encoder.set_parameter(CParameter::EnableLongDistanceMatching(base.len() > 1 << 20))?;
    encoder.include_contentsize(false)?;
    encoder.include_checksum(false)?;
    encoder.set_pledged_src_size(Some(new.len() as u64))?;
    encoder.write_all(new)?;
    encoder.finish()
}

/// Makes the `length` bytes of a piece, at most [`PIECE`], from a patch and what it was made against. What comes out is not
/// checked here.
///
/// # Errors
/// Those of the decompressor, and [`io::ErrorKind::InvalidData`] for another length.
pub fn apply_piece(base: &[u8], patch: &[u8], length: u64) -> io::Result<Vec<u8>> {
    let bound = length.min(PIECE);
    let mut decoder = zstd::stream::read::Decoder::with_ref_prefix(patch, base)?;
    decoder.window_log_max(24)?;
    let mut piece = Vec::new();
    decoder.take(bound + 1).read_to_end(&mut piece)?;
    if piece.len() as u64 == length { Ok(piece) } else { Err(io::Error::from(io::ErrorKind::InvalidData)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_piece_comes_back_whatever_it_was_made_from(
            base in proptest::collection::vec(any::<u8>(), 0..5000),
            new in proptest::collection::vec(any::<u8>(), 1..5000),
            kept in 0_usize..5000,
        ) {
            let new = [&base[..kept.min(base.len())], &new[..], &base[kept.min(base.len())..]].concat();
            let patch = make_piece(&base, &new, 19).expect("memory");
            prop_assert_eq!(apply_piece(&base, &patch, new.len() as u64).expect("own patch"), new.clone());
            prop_assert!(apply_piece(&base, &patch, new.len() as u64 + 1).is_err());
            prop_assert!(apply_piece(&base, &patch, new.len() as u64 - 1).is_err());
        }
    }

    #[test]
    fn a_small_change_of_a_large_file_is_small() {
        let mut state = 1_u64;
        let noise = |state: &mut u64| {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (*state >> 56) as u8
        };
        let old: Vec<u8> = (0..7 << 20).map(|_| noise(&mut state)).collect();
        // A megabyte is inserted near the start.
        let inserted: Vec<u8> = (0..1 << 20).map(|_| noise(&mut state)).collect();
        let new = [&old[..1000], &inserted, &old[1000..]].concat();
        let mut patched = 0;
        for piece in 0..piece_count(new.len() as u64) {
            let range = |range: Range<u64>| {
                usize::try_from(range.start).expect("small")..usize::try_from(range.end).expect("small")
            };
            let base = &old[range(base_range(piece, old.len() as u64))];
            let part = &new[range(piece_range(piece, new.len() as u64))];
            let patch = make_piece(base, part, 19).expect("memory");
            assert!(apply_piece(base, &patch, part.len() as u64).expect("own patch") == part);
            patched += patch.len();
        }
        assert!(patched < (1 << 20) + 2000, "{patched} bytes");
    }
}
