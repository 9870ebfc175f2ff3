//! Deltas: the way from one commit to a later one in as few bytes as possible.
//!
//! A changed file is said in terms of the file it came from, found by path or by a path that differs in numbers only (a
//! kernel's modules move with its version). What has no predecessor is not here: it comes from packs, as everything can.
//! So a delta is an offer; whoever lacks the older commit, or finds the delta damaged, loses nothing.
//!
//! ```text
//! offset size
//!      0    8  magic "SAPWDLT\0"
//!      8    4  version = 1
//!     12    4  length I of the image's delta
//!     16    4  length X of the index
//!     20    4  number N of pieces
//!     24    I  the delta of the image, see `format::wire`
//!   24+I    X  one zstd frame of three columns of u32, one value a piece, as differences in planes:
//!              object in the new image · object in the old image · length of the patch
//! 24+I+X       the patches, one after the other
//! ```
//!
//! The first 24+I+X bytes are the *head*, fetched alone. An object is cut into pieces of 4 MiB, each with a row; a piece is one
//! zstd frame whose prefix is the old content around the same place, so that neither side needs more memory for a larger
//! file. Every object is checked against its id after it is put together.

mod error;
mod head;
mod patch;
mod predecessor;
mod write;

pub use error::DeltaError;
pub use head::{DELTA_HEAD_MAX, DeltaHead, Piece};
pub use patch::{PIECE, apply_piece, base_range, most_pieces, piece_count, piece_range};
pub use predecessor::{Pair, pairs};
pub use write::{DeltaOptions, DeltaSummary, Side, write_delta};
