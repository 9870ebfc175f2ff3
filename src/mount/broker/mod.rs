//! The broker: the process that writes to the repository for the worker of a lazy mount.
//!
//! A worker reads what strangers made, so it may not write to the repository. It starts a broker before it enters its sandbox,
//! and sends it what is to be changed. The broker computes the digest of all that it is given, and of files in which the worker
//! has collected parts; only then does it give them names. It ends when the worker does.
//!
//! *Not here*: the changes themselves (`cache::ContentChange`), the restrictions of both processes (`confine`).
//!
//! *Invariants*: the broker has no network and no connection to the kernel. It reads nothing that strangers made but what it
//! compares with a digest, and the images that it has compared.
//!
//! *Used by* `processes`.
//!
//! | file | holds |
//! | --- | --- |
//! | `start` | the start of a broker by its worker |
//! | `wire` | requests and responses as bytes |
//! | `client` | the worker's side |
//! | `server` | the broker's side |

mod client;
mod server;
mod start;
mod wire;

pub(super) use server::serve;
pub(super) use start::start;
