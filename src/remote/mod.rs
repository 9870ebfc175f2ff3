//! Published repositories: their layout and formats, and how they are fetched, written and pruned.
//!
//! - `transport` moves bytes between this machine and a URL and knows neither formats nor trust.
//! - `layout` has the paths of files, `format` turns bytes into values and back without I/O.
//! - `client` resolves refs to verified commits; `pull` and `fetch` bring them into the repository.
//! - `publish`, `prune`, `published` and `lease` write a published repository; `delta` makes and reads deltas.
//!
//! *Invariants*: everything that arrives is untrusted until its digest or signature was checked. Async code is inside
//! `transport` only.
//!
//! *Used by* `cache`, `deploy` and `cli`.

pub mod delta;
pub mod fetch;
pub mod format;
pub mod layout;
pub(crate) mod lease;
pub(crate) mod prune;
pub(crate) mod publish;
pub(crate) mod published;
pub mod pull;
pub(crate) mod serve;
pub mod transport;

mod client;
mod freshness;
mod memory;
mod remotes;
mod rotation;

pub use client::Remote;
pub(crate) use client::{Head, RemoteError};
pub(crate) use freshness::{DAY, ExpiredPolicy};
pub(crate) use memory::Memory;
pub(crate) use remotes::LearnKeys;
pub use remotes::RemoteConfig;
pub(crate) use remotes::{RemoteName, RemoteNameError, Remotes, RemotesError};
