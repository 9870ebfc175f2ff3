//! Deltas: files from which a client that has one commit makes a later one with few downloaded bytes.
//!
//! A changed file is stored as differences to its predecessor, which is found by path or by a path that differs in
//! numbers only (a kernel's modules move with its version). A file without predecessor is not in the delta; it is
//! fetched from packs, as any file can be. So a delta is optional: a client that lacks the older commit, or finds the
//! delta damaged, fetches whole contents instead.
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
//! The first 24+I+X bytes are the *head*, which is fetched alone. An object is cut into *pieces* of 1 MiB. Each piece
//! is stored as differences to the bytes around the same position of the predecessor, so that neither side needs more
//! memory for a larger file. Batches take the pieces of all objects in order. Every object is checked against its id
//! after it is put together.
//!
//! Measured on two states of a Debian root: storing each piece by zstd's patch-from at level 19 takes 1.5 times the
//! bytes and five times the work, since patch-from has to name every byte that differs anew (`benches/frames`).
//!
//! *Not here*: when a delta is made (`publish`) and used (`pull`, `fetch`).
//!
//! *Used by* `publish`, `fetch` and `pull`.

mod error;
mod head;
mod matches;
mod pieces;
mod predecessor;
mod streams;
mod write;

pub(crate) use error::DeltaError;
pub(crate) use head::DELTA_HEAD_MAX;
pub use head::{BatchRef, DeltaHead};
pub(crate) use pieces::max_pieces;
pub use pieces::{base_range, piece_count, piece_range};
pub use predecessor::ObjectPair;
pub(crate) use streams::BATCH_PACKED_MAX;
pub use streams::DeltaBatch;
pub use write::{Delta, DeltaOptions, DeltaSide};
