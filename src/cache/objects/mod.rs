//! Local contents: where fetched contents are stored, how much of them may be stored, and what is missing.
//!
//! *Not here*: requests to a remote (`fetch`), and which contents are fetched before they are read (`readahead`).
//!
//! *Invariant*: readers and the repository get only data that was verified against the image.
//!
//! *Used by* `tree`, `fetch` and `readahead`.

pub(in crate::cache) mod change;
pub(super) mod completeness;
pub(super) mod coverage;
pub(super) mod evictor;
pub(super) mod large;
pub(super) mod object_cache;
pub(super) mod quota;
pub(super) mod recency;
pub(super) mod write_back;
