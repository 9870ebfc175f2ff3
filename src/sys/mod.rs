//! The border to the operating system that safe Rust cannot cross: memory maps and the heap. The only module with `unsafe`.
//!
//! Knows nothing of Sapwood. Used by every layer that reads mapped files.

mod heap;
mod mapping;

pub use heap::give_back_large_buffers;
pub use mapping::Mapping;
