//! The border to the operating system that safe Rust cannot cross: memory maps, the heap, journals. The only module with `unsafe`.
//!
//! Knows nothing of Sapwood. Used by every layer that reads mapped files.

mod heap;
mod journal;
mod mapping;

pub use heap::give_back_large_buffers;
pub use journal::{Freeze, empty_journal};
pub use mapping::Mapping;
