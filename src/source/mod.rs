//! What SOURCE means: parsing a source, finding the commit that it names, here or at a remote, and reading files of it.
//!
//! *Not here*: arguments and messages (`cli`), fetching contents (`cache`), mounting and deploying what was found.
//!
//! *Invariants*: nothing here prints; how to wait for a lock is an argument.
//!
//! *Used by* `deploy` and `cli`.
//!
//! | module | holds |
//! | --- | --- |
//! | `local` | `SOURCE:/path` in the repository |
//! | `links` | symbolic links inside a commit |
//! | `remote` | `REMOTE:REF` and `URL#REF`, and opening their remote |
//! | `resolve` | from a source to a commit of which contents may be missing |
//! | `commit_reader` | single files of a commit, here or at a remote |
//! | `keys`, `environment` | key files, and the settings for remotes |

mod commit_reader;
pub(crate) mod environment;
pub(crate) mod keys;
mod links;
mod local;
mod remote;
mod resolve;

pub(crate) use commit_reader::CommitReader;
pub(crate) use links::{LastLink, follow};
pub(crate) use local::{LocatedEntry, join, locate, split};
pub(crate) use remote::{RemoteSource, RemoteSpec, SourceError, TrustOptions};
pub(crate) use resolve::{
    Attendance, open_or_init, resolve_for_repair, resolve_local, resolve_remote, resolve_with_remote,
};
