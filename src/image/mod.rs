//! The image: the metadata of one whole filesystem tree as one immutable file.
//!
//! [`layout`] specifies the format. A [`Tree`] is built in memory and written by [`encode`]; an [`Image`] is read in place,
//! mapped, by any number of threads. Contents of files are not here: an image names them by
//! [`ObjectId`](crate::model::ObjectId) and the store has them. No I/O happens here either.
//!
//! Invariant: bytes are hostile until checked. No image makes a reader panic, loop for ever, or allocate more than the
//! size of the image accounts for; see `view` for how.

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
pub mod layout;
mod order;
mod outline;
mod presence;
mod reader;
mod subtree;
mod tree;
mod uses;
mod verify;
mod view;
mod walk;
mod xattrs;

pub use attributes::Attributes;
pub use change::{Aspect, Aspects, Change, ChangeKind};
pub use contents::{BlockIds, ObjectRef};
pub use diff::diff;
pub use directory::DirEntry;
pub use encode::{EncodedImage, encode};
pub use error::{EncodeError, EntryFault, ImageError, SectionFault, TreeError};
pub use ino::Ino;
pub use layout::Section;
pub use outline::{Outline, SectionPlace};
pub use presence::Presence;
pub use reader::Image;
pub use tree::{NodeId, Tree};
pub use uses::ObjectUse;
pub use xattrs::XattrSet;
