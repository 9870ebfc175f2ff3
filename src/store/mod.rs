//! The local repository: objects, images, commits and refs in one directory.
//!
//! ```text
//! config.toml          format version, features, where small objects go
//! objects/ab/cdef…     the content of one large object, plain bytes, named by its SHA-256
//! packs/<id>.pack      many small objects with a sorted index at the end; small ones are merged as others come
//! packs/index          in which of many large packs each object is; made when there are many
//! images/<id>          one image each
//! commits/<id>         one commit record each
//! refs/<name>          a commit id in hex and a newline
//! partial/<id>         what is here of an image or a large object that is fetched as it is read
//! signatures/<id>      the envelope around a commit record, from whoever published it
//! remotes/             where others are, whom to believe there, and what was seen last
//! state/               locks, running mounts, the cache of file attributes, which commits are here lazily, when packed
//!                      objects were used, what the last check and the last collection found well, what each commit added
//! tmp/                 files that have no name yet
//! ```
//!
//! Invariants. What has a name here, outside `partial/`, is whole and durable: bytes are written under `tmp/`, synced, and only then
//! renamed; a ref is replaced after all it leads to was synced. Objects, packs, images and commits never change;
//! damaged bytes alone are replaced, by those that the name promises (`mend`). At most
//! one [`StoreWriter`] exists, and it is the only thing that adds; [`Gc`] is the only thing that removes.
//!
//! Nothing above this module knows whether an object is a file or lives in a pack.

mod adopt;
mod checked;
mod config;
mod damage;
mod evict;
mod fsck;
mod garbage_mark;
mod gc;
mod history;
mod ingest;
mod inventory;
mod layout;
mod lazy;
mod mend;
mod merge;
mod milestone;
mod open;
mod open_files;
mod pack;
mod pack_index;
mod pack_limits;
mod pack_set;
mod reach;
mod read;
mod receive;
mod recency;
mod recheck;
mod refs;
mod repair;
mod resolve;
mod roots;
mod source;
mod stat_cache;
mod usage;
mod write;

pub use adopt::Adoption;
pub use checked::{CheckedStore, Verify};
pub use config::{Config, ConfigError, FsVerity};
pub use damage::DamagedPart;
pub use evict::EvictionPlan;
pub use fsck::{Damage, Damaged, Fsck, FsckError, FsckReport, Scope};
pub use gc::{Gc, GcError, GcPlan, GcReport, PackPlan};
pub use layout::Layout;
pub use open::{OpenError, Store};
pub use reach::{Reachable, reachable};
pub use read::Hold;
pub use receive::{Incoming, ReceiveError};
pub use recency::Recency;
pub use refs::{Expect, RefEdit, RefError};
pub use resolve::ResolveError;
pub use roots::MountRoot;
pub use source::{Absent, Fetch, MemoryObjects, ObjectSource, ReadError};
pub use stat_cache::{FileIdentity, StatCache};
pub use usage::{RefUsage, UsageError, usage};
pub use write::{StoreWriter, WriteError, WriteStats};
