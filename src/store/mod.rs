//! The local repository: objects, images, commits and refs in one directory.
//!
//! Nothing above this module knows whether an object is a file or in a pack.
//!
//! ```text
//! config.toml          format version, features, the size limit of packed objects
//! objects/ab/cdef…     the content of one large object, plain bytes, named by its SHA-256
//! packs/<id>.objects   many small objects with a sorted index at the end; small packs are merged into new ones
//! packs/<id>.pack      the same as earlier versions wrote it, see `former_packs`
//! packs/index          in which of many large packs each object is; made when there are many
//! images/<id>          one image each
//! commits/<id>         one commit record each
//! refs/<name>          a commit id in hex and a newline
//! parts/<commit>/      the parts of an image and of large objects that are fetched as they are read, see `partial`
//! signatures/<id>      the envelope around a commit record, made by its publisher
//! remotes/             URLs of remotes, the keys that are trusted for each, and the newest state that was seen
//! state/               locks, running mounts, the cache of file attributes, markers of lazy commits, times of last use of
//!                      packed objects, milestones of the last check and collection, which objects each commit added, what
//!                      each ref named before
//! tmp/                 files that have no final name yet
//! ```
//!
//! *Invariants*: a file with a final name, outside `parts/`, is complete and durable: its bytes are written under `tmp/`,
//! synced, and only then renamed; a ref is replaced after everything to which it leads was synced. Objects, packs, images and
//! commits never change; only damaged bytes are replaced, by those that have the digest of the name (`repair`). At most one
//! [`StoreWriter`] exists, and only it adds things; only `gc::Gc` removes things.
//!
//! *Used by* every layer above.

mod add;
mod checked;
mod config;
mod damage;
mod drop_damaged;
mod evict;
mod former_packs;
mod fsck;
mod garbage_mark;
mod gc;
mod history;
mod inventory;
mod layout;
mod lazy;
mod merge;
mod milestone;
mod open;
mod open_files;
mod pack;
mod pack_index;
mod pack_limits;
mod pack_set;
mod partial;
mod promote;
mod reach;
mod read;
mod receive;
mod recency;
mod recheck;
mod ref_log;
mod refs;
mod repair;
mod resolve;
mod roots;
mod source;
mod stat_cache;
mod usage;
mod write;

pub(crate) use checked::{CheckedStore, Verify};
pub use config::Config;
pub(crate) use config::FsVerity;
pub(crate) use damage::DamagedPart;
pub(crate) use fsck::{Fsck, FsckReport, Scope};
pub(crate) use gc::GcError;
pub(crate) use layout::StoreLayout;
pub(crate) use lazy::CommitCompleteness;
pub(crate) use open::OpenError;
pub use open::Store;
pub(crate) use partial::PartialLayout;
pub(crate) use read::RemovalGuard;
pub(crate) use receive::{IncomingObject, ReceiveError};
pub(crate) use recency::{Recency, UseTimes};
pub(crate) use ref_log::RefChange;
pub(crate) use refs::{Expect, RefEdit, RefError};
pub(crate) use repair::Repair;
pub(crate) use resolve::ResolveError;
pub(crate) use roots::{MountRoot, remove_root};
pub use source::{Absent, Fetch, MemoryObjects, ObjectSource, ReadError};
pub(crate) use stat_cache::FileIdentity;
pub use stat_cache::StatCache;
pub(crate) use usage::usage;
pub use write::StoreWriter;
pub(crate) use write::WriteError;
