//! Calls to the operating system that safe Rust cannot make: memory maps, the heap, `fork` and `exec`, descriptors by number.
//!
//! *Not here*: anything that is specific to Sapwood.
//!
//! *Invariants*: this is the only module with `unsafe` code.
//!
//! *Used by* every layer that reads mapped files, and by `fuse`, `mount` and `compose`.

mod backing;
mod heap;
mod isolation;
mod journal;
mod mapping;
mod program;
mod shared_words;
mod verity;

pub(crate) use backing::{close_backing, open_backing, reply_with_backing};
pub(crate) use heap::return_large_buffers_to_kernel;
pub(crate) use isolation::{
    MountAttributes, close_descriptors_on_exec, new_session_keyring, set_mount_attributes, switch_loopback_on,
};
pub(crate) use journal::{Freeze, empty_journal};
pub use mapping::Mapping;
pub(crate) use program::{ProgramArguments, inherited_descriptor, replace_descriptor, replace_inheritable_descriptor};
pub(crate) use shared_words::SharedWords;
pub use verity::has_verity;
pub(crate) use verity::{Verity, enable_verity};
