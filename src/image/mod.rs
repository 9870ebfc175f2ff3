//! The image: the metadata of one whole filesystem tree as one immutable file.
//!
//! [`layout`] specifies the format. A [`Tree`] is built in memory and written by [`encode()`]; an [`Image`] is mapped and read in
//! place by any number of threads.
//!
//! *Not here*: contents of files, which an image names by [`ObjectId`](crate::model::ObjectId) and the store holds; I/O.
//!
//! *Invariants*: bytes are hostile until they are checked. No image makes a reader panic, loop for ever, or allocate more than
//! the size of the image accounts for; `view` says how.
//!
//! *Used by* `store`, `vfs` and every other layer above that reads or builds trees.

mod attributes;
mod change;
mod column;
mod columns;
mod contents;
mod decode;
mod diff;
mod directory;
mod encode;
mod error;
mod header;
mod ino;
pub(crate) mod layout;
mod object_uses;
mod order;
mod outline;
mod presence;
mod reader;
mod subtree;
mod tree;
mod verify;
mod view;
mod walk;
mod xattrs;

pub(crate) use attributes::Attributes;
pub use change::{Aspect, Aspects, Change, ChangeKind};
pub use contents::ObjectRef;
pub use diff::diff;
pub use encode::EncodedImage;
pub use encode::encode;
pub(crate) use error::TreeError;
pub use error::{EncodeError, EntryFault, ImageError, SectionFault};
pub use ino::Ino;
pub use layout::Section;
pub(crate) use object_uses::ObjectUse;
pub use outline::Outline;
pub(crate) use presence::Presence;
pub use reader::Image;
pub use tree::{NodeId, Tree};
