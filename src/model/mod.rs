//! The central values of Sapwood: ids, names, metadata, the commit record.
//!
//! *Not here*: I/O, the clock, the environment.
//!
//! *Invariants*: a value's rules are checked when it is made, so that code which has the value may rely on them.
//!
//! *Used by* every layer above.

mod acl;
mod commit;
mod content;
mod id;
mod name;
mod node;
mod record;
mod ref_pattern;
mod size;

pub(crate) use acl::{ACL_ACCESS, ACL_DEFAULT, AclError, AclName, AclSubject, PosixAcl};
pub use commit::Commit;
pub(crate) use commit::{COMMIT_SIZE_MAX, CommitError, ControlCharacter};
pub use content::{BLOCK_SIZE, ContentHasher, LARGE_OBJECT};
pub use id::{BlockId, CommitId, DeltaId, ImageId, LocatorId, ObjectId, PackId, ProfileId, SubtreeId};
pub use name::{EntryName, ImagePath, RefName};
pub(crate) use name::{
    NAME_MAX, NEW_REF_PART_MAX, NameError, PathError, RefNameError, SYMLINK_MAX, is_command_to_terminal, printable,
};
pub use node::{Content, DeviceNumber, Extent, FileKind, Metadata, Node, NodeKind, Timestamp, Xattrs};
pub(crate) use node::{XATTR_NAME_MAX, XATTR_VALUE_MAX, XattrError};
pub(crate) use record::{RecordError, RecordFields, RecordKind, RecordWriter};
pub use ref_pattern::RefPattern;
pub(crate) use size::parse_size;
