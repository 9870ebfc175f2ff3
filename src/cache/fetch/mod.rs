//! Requests to a remote: which bytes to request together, the threads that execute the requests, and the handling of errors.
//!
//! *Not here*: where the answers are stored (`objects`, `image`).
//!
//! *Invariants*: at most one fetch of a frame runs at a time; no lock is held during a fetch; an error reaches all waiters.
//!
//! *Used by* `objects`, `image`, `readahead` and `tree`.

pub(super) mod bulk;
pub(super) mod catalogue;
pub(super) mod coalesce;
pub(super) mod error;
pub(super) mod execute;
pub(super) mod in_flight;
pub(super) mod pool;
pub(super) mod remote;
pub(super) mod retry;
