//! The border to the operating system that safe Rust cannot cross: memory maps. The only module with `unsafe`.
//!
//! Knows nothing of Sapwood. Used by every layer that reads mapped files.

mod mapping;

pub use mapping::Mapping;
