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
//! | `supervisor` | the process that holds the connection and replaces workers |
//! | `daemon` | the ends of a worker: its turn, making room, unmounting |
//! | `sandbox` | what a worker cannot do |
//! | `device` | how a second worker takes a connection over |
//! | `connections` | the kernel's count of unanswered requests |
//! | `board` | what outlives a worker |
//! | `registry`, `control` | the list of running mounts; what is said over the socket of each |
//! | `metrics` | the figures, for machines that watch machines |
//! | `recording` | what is read through a mount, for profiles |
//! | `users` | which processes use a mount |
//!
//! Used by `cli`.

mod adapter;
mod answers;
mod attach;
mod attributes;
mod board;
mod complaints;
mod connections;
mod control;
mod counters;
mod daemon;
mod device;
mod metrics;
mod negotiate;
mod options;
mod passthrough;
mod read_accounting;
mod recording;
mod registry;
mod sandbox;
mod session;
mod supervisor;
mod users;
mod waiting;

pub use attach::{MountError, MountRequest, Unmount, UnmountError, remount_read_only, unmount};
pub use board::{Board, BulkReader, Death, Flight, Health, Service, Subject, Ticket};
pub use connections::open_connections;
pub use control::{Answer, Question, Told};
pub use counters::{Counters, Figures, Opcode};
pub use daemon::{DaemonError, Turn, WorkerSignals, ask_to_be_replaced, end, serve};
pub use metrics::{MetricsOutput, open_metrics};
pub use options::{
    Action, Audience, Confinement, Devices, Mode, MountOptions, OptionError, Profile, Programs, Resend, SECONDS_MAX,
    SetUid,
};
pub use recording::{RecordError, Recording};
pub use registry::{Processes, Registration, Registry, RegistryError, Reserved, RunningMount, Status, path_text};
pub use sandbox::{Access, Backing, Enforced, Network, Owner, Sandbox, Writing};
pub use session::{Attached, Content, ReadAhead, Session, Unmounter, mount_anew};
pub use supervisor::{Beginning, Ended, Held, Limits, OrderError, Roles, Supervisor, exchange_program, shown_image};
pub use users::{User, users_of};

/// The type of our mounts as `mount(8)` and `/proc/self/mountinfo` show it.
pub const FILESYSTEM_TYPE: &str = "fuse.sapwood";
