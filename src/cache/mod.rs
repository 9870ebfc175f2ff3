//! Lazy commits: commits whose contents are fetched when they are read.
//!
//! A [`LazyTree`] answers reads from local data and reports what is absent; a caller that may wait then has it fetched.
//!
//! *Not here*: inodes and directories (`vfs`), the kernel (`fuse`), the published formats and the transport (`remote`).
//!
//! *Invariants*: at most one fetch of a frame runs at a time. No lock is held during a fetch. An error reaches every waiter.
//! Readers and the repository get only data that was verified against the image, whose id the commit contains.
//!
//! *Used by* `source`, `fuse`, `mount` and `cli`.
//!
//!
//! | file | holds |
//! | --- | --- |
//! | `resolve` | from a ref of a remote to a commit |
//! | `tree` | one commit: reads, fetches, patience, outages |
//! | `counters` | what a lazy mount reports about itself |
//! | `image/` | the image of the commit, of which blocks may be missing; the early request for its head |
//! | `objects/object_cache`, `large` | the contents that are stored, and how missing ones are fetched |
//! | `objects/write_back` | fetched contents, in memory until they are written to the repository |
//! | `objects/quota`, `recency`, `evictor` | how much may be stored, what was used when, and what is evicted |
//! | `objects/coverage`, `completeness` | how much is stored; making a complete commit an ordinary one |
//! | `fetch/pool`, `in_flight` | the threads that fetch, by priority; one fetch of a frame at a time |
//! | `fetch/remote`, `retry`, `error` | requests to the remote, outages, when a failed request is repeated |
//! | `fetch/catalogue`, `coalesce` | planning without I/O: which frame holds which object, which frames one request fetches |
//! | `fetch/execute`, `bulk` | executing one request for frames; many frames in few long requests |
//! | `readahead/predictor`, `history` | planning without I/O: what is probably read next |
//! | `readahead/background`, `profile`, `prefetch` | fetches that no reader waits for: a fill, a profile, `sapwood prefetch` |

mod counters;
mod fetch;
mod image;
mod objects;
mod readahead;
mod resolve;
mod tree;

pub(crate) use counters::{LATENCY_BOUNDS_MS, LazyFigures};
pub(crate) use objects::change::{ChangeError, ChangeOutcome, ContentChange, ContentWriter, DirectWriter, NewObject};
pub(crate) use readahead::background::{Fill, FillScope};
pub(crate) use readahead::prefetch::Selection;
pub(crate) use readahead::profile::ProfileChoice;
pub use resolve::ResolvedCommit;
pub(crate) use resolve::{ResolveCommitError, ResolvedRecord};
pub use tree::{LazyError, LazyOptions, LazyTree, Patience};
