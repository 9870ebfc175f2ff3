//! The border to the operating system that safe Rust cannot cross: memory maps, the heap, `fork` and `exec`, descriptors by
//! number. The only module with `unsafe`.
//!
//! Knows nothing of Sapwood. Used by every layer that reads mapped files, and by `fuse`.

mod backing;
mod heap;
mod journal;
mod mapping;
mod program;
mod verity;
mod words;

pub use backing::{close_backing, open_backing, reply_with_backing};
pub use heap::give_back_large_buffers;
pub use journal::{Freeze, empty_journal};
pub use mapping::Mapping;
pub use program::{Arguments, inherited, renumber, replace_descriptor};
pub use verity::{Verity, enable_verity, has_verity};
pub use words::Words;
