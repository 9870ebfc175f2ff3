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
//!     20    4  number N of objects
//!     24    I  the delta of the image, see `format::wire`
//!   24+I    X  one zstd frame: u32 number B of batches, then columns of u32 as differences in planes:
//!              N times  object in the new image · object in the old image
//!              B times  pieces · length in bytes
//! 24+I+X       the batches, one after the other, see `streams`
//! ```
//!
//! The first 24+I+X bytes are the *head*, fetched alone. An object is cut into *pieces* of 1 MiB, each said in terms of the
//! bytes around the same place of its predecessor, so that neither side needs more memory for a larger file. All pieces
//! of all objects in order are dealt out to the batches. Every object is checked against its id after it is put together.
//!
//! Measured on two states of a Debian root (`benches/frames`): a piece as zstd's patch-from at level 19 takes half as
//! many bytes again and five times the work, since it has to name every byte that differs anew.

mod error;
mod head;
mod matches;
mod pieces;
mod predecessor;
mod streams;
mod write;

pub use error::DeltaError;
pub use head::{BatchRef, DELTA_HEAD_MAX, DeltaHead};
pub use pieces::{PIECE, base_range, most_pieces, piece_count, piece_range};
pub use predecessor::{Pair, pairs};
pub use streams::{BATCH_PACKED_MAX, Batch};
pub use write::{Delta, DeltaOptions, DeltaSummary, Side};
