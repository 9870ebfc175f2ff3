//! The kernel's protocol on one side, [`crate::vfs`] on the other; mounting, unmounting, and the list of mounts.
//!
//! What an answer says is decided in `vfs`; how long the kernel may keep it, which messages it never sends again and
//! which file it may read by itself is decided here. No `fuser` name leaves this module.
//!
//! | file | holds |
//! | --- | --- |
//! | `adapter` | one method an operation, as the kernel calls it |
//! | `answers` | the operations themselves: ask, answer |
//! | `waiting` | where operations wait for what is absent |
//! | `negotiate` | what is agreed with the kernel at the start |
//! | `session` | a mounted filesystem from `mount(2)` to its end |
//! | `passthrough` | which inodes the kernel reads from their object files itself |
//! | `attach` | `mount(2)`, `fusermount3`, unmounting, and what their errors mean |
//! | `options` | what may stand behind `-o` |
//! | `daemon` | the background process: signals, readiness, its end |
//! | `registry`, `control` | the list of running mounts; what is said over the socket of each |
//! | `recording` | what is read through a mount, for profiles |
//! | `mountinfo`, `users` | the kernel's list of mounts; which processes use one |
//!
//! Used by `cli`.

mod adapter;
mod answers;
mod attach;
mod attributes;
mod complaints;
mod control;
mod counters;
mod daemon;
mod mountinfo;
mod negotiate;
mod options;
mod passthrough;
mod recording;
mod registry;
mod session;
mod users;
mod waiting;

pub use attach::{MountError, MountRequest, Unmount, UnmountError, remount_read_only, unmount};
pub use control::{Answer, Question, Told};
pub use counters::{Counters, Figures, Opcode};
pub use daemon::{DaemonError, StopSignals, serve};
pub use mountinfo::{FILESYSTEM_TYPE, MountPoint, MountTable};
pub use options::{Action, Audience, Devices, Mode, MountOptions, OptionError, Profile, Programs, SetUid};
pub use recording::{RecordError, Recording};
pub use registry::{Registration, Registry, RegistryError, RunningMount, Status, path_text};
pub use session::{Session, Unmounter};
pub use users::{User, users_of};
