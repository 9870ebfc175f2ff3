//! The FUSE protocol: serves a [`crate::vfs`] to the kernel, from `mount(2)` to the end of the mount.
//!
//! This module decides how long the kernel may keep a reply, which messages it need not send, and which files it may read
//! itself.
//!
//! *Not here*: the processes behind a mount (`mount`); the content of replies (`vfs`).
//!
//! *Invariant*: no `fuser` name leaves this module.
//!
//! | file | holds |
//! | --- | --- |
//! | `adapter` | `fuser`'s trait: one method for each message of the kernel |
//! | `operations` | the operations: ask `vfs`, reply to the kernel |
//! | `wait_pool` | threads on which operations wait for absent content |
//! | `negotiate` | the protocol options that are agreed with the kernel at the start |
//! | `session` | a mounted filesystem from `mount(2)` to its end |
//! | `passthrough` | the inodes that the kernel reads from their object files itself |
//! | `attributes` | conversion of attributes |
//! | `attach` | `mount(2)`, `fusermount3`, unmounting, and their errors |
//! | `options`, `option_values` | the mount options, and the types of some |
//! | `device` | INIT for a second worker; resending of lost messages |
//! | `shared` | the shared pages, which outlive a worker |
//! | `counters` | counters of messages, bytes and errors |
//! | `log_once` | limits on log lines |
//! | `read_accounting` | the bytes that each process reads |
//! | `recording` | recording of reads, for profiles |
//!
//! *Used by* `mount`, `boot` and `cli`.

mod adapter;
mod attach;
mod attributes;
mod counters;
mod device;
mod log_once;
mod negotiate;
mod operations;
mod option_values;
mod options;
mod passthrough;
mod read_accounting;
mod recording;
mod session;
mod shared;
mod wait_pool;

pub use attach::{MountError, MountRequest, Unmount, UnmountError};
pub(crate) use attach::{remount_read_only, unmount};
#[cfg(test)]
pub(crate) use counters::Opcode;
pub use counters::{RequestCounters, RequestFigures};
pub(crate) use device::resend;
pub(crate) use options::{Action, Confinement, MountMode, ProfileOption, SECONDS_MAX};
pub use options::{MountOption, MountOptions, OPTION_GROUPS, OptionError, OptionGroup};
pub(crate) use recording::{Recording, RecordingError};
pub(crate) use session::{Attached, ContentSource, KernelReadAhead, mount_replacement};
pub use session::{Session, Unmounter};
pub(crate) use shared::now_ms;
pub(crate) use shared::{BulkReader, Enforced, Health, Service};
pub use shared::{Death, RequestKey, SharedState};

/// The filesystem type of sapwood mounts, as `mount(8)` and `/proc/self/mountinfo` show it.
pub(crate) const FILESYSTEM_TYPE: &str = "fuse.sapwood";
