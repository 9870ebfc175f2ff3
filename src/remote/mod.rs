//! What is on the other side of a URL: a published repository, how it is laid out, written, planned and fetched.
//!
//! `transport` moves bytes and knows neither formats nor trust; `layout` says what is where; `format` turns bytes into
//! values and back without I/O. Everything that arrives is hostile until its digest or signature was checked. Async
//! code lives inside `transport` and nowhere else.

pub mod delta;
pub mod fetch;
pub mod format;
pub mod layout;
pub mod lease;
pub mod prune;
pub mod publish;
pub mod published;
pub mod pull;
pub mod serve;
pub mod transport;

mod client;
mod remotes;

pub use client::{Pointer, Remote, RemoteError, Tip};
pub use remotes::{RemoteConfig, RemoteName, RemoteNameError, Remotes, RemotesError};
