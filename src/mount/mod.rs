//! The processes behind a mount: a supervisor, which holds the connection to the kernel, and a worker, which serves it.
//!
//! The user's process opens the commit to find errors, and mounts it. Then it starts the supervisor (this program again), which
//! holds the connection to the kernel and starts a worker, which serves it. The user's process waits until the worker serves,
//! and unmounts after an error.
//!
//! *Not here*: the kernel's protocol (`fuse`); the command line (`cli::mount`).
//!
//! *Invariant*: the supervisor keeps the connection however a worker ends, and starts another worker.
//!
//! | file | holds |
//! | --- | --- |
//! | `start` | attaching a mount and starting its supervisor |
//! | `source` | the mounted commit, and its opening as a filesystem |
//! | `handoff`, `descriptors` | the data and descriptors that the processes hand on |
//! | `processes` | the entry points of the processes |
//! | `supervisor` | the process that holds the connection and replaces workers |
//! | `worker` | the start, replacement and end of a worker |
//! | `broker` | the process that writes to the repository for a worker |
//! | `confine`, `sandbox` | what a worker needs, and its restrictions |
//! | `connections` | the kernel's count of requests without a reply |
//! | `registry` | the list of running mounts |
//! | `control` | the requests and responses over the control socket of a mount |
//! | `metrics` | the figures of mounts in OpenMetrics |
//! | `recording_file` | the file into which reads are recorded |
//! | `runtime`, `log` | directories, names and logs of these processes |
//! | `users` | the processes that use a mount |
//! | `error` | the errors of starting a mount and of its processes |
//!
//! *Used by* `boot` and `cli`.

mod broker;
mod confine;
mod connections;
mod control;
mod descriptors;
mod error;
mod handoff;
mod log;
mod metrics;
mod metrics_server;
mod processes;
mod recording_file;
mod registry;
mod runtime;
mod sandbox;
mod source;
mod start;
mod supervisor;
mod users;
mod worker;

pub use control::{ControlRequest, ControlResponse};
pub(crate) use descriptors::open_own_program;
pub(crate) use error::ProcessError;
pub(crate) use handoff::VERSIONS as HANDOFF_VERSIONS;
pub use handoff::{Handoff, HandoffError};
pub(crate) use metrics::to_open_metrics;
pub(crate) use processes::Subcommand;
pub use registry::RunningMount;
pub(crate) use registry::{MountProcesses, MountStatus};
pub(crate) use runtime::{make_runtime_directory, registry, runtime_directory};
pub(crate) use source::MountSource;
pub(crate) use start::{StartRequest, start};
pub(crate) use supervisor::request_image;
pub use supervisor::{ExchangeError, exchange_program};
pub(crate) use users::users_of;

/// The message by which the supervisor reports that the mount is served.
const READY_MESSAGE: &[u8] = b"ready\n";
