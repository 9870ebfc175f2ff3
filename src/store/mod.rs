//! The local repository (being built elsewhere): so far only what readers of contents need.

mod source;

pub use source::{MemoryObjects, ObjectSource, ReadError};
