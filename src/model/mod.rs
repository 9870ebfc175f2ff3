//! The words of the project as pure values: ids, names, metadata, the commit record.
//!
//! No I/O happens here and nothing here reads the clock or the environment. Whatever holds one of these values may rely
//! on its rules having been checked when it was made. Every other layer uses this one.

mod acl;
mod commit;
mod content;
mod id;
mod name;
mod node;
mod record;
mod size;

pub use acl::{ACL_ACCESS, ACL_DEFAULT, AclError, AclSubject, PosixAcl};
pub use commit::{COMMIT_SIZE_MAX, Commit, CommitError, ControlCharacter};
pub use content::{BLOCK_SIZE, ContentHasher, LARGE_OBJECT};
pub use id::{BlockId, CommitId, DeltaId, IdError, ImageId, LocatorId, ObjectId, PackId, ProfileId, SubtreeId};
pub use name::{
    EntryName, ImagePath, NAME_MAX, NEW_REF_PART_MAX, NameError, PathError, RefName, RefNameError, SYMLINK_MAX,
};
pub use node::{
    Content, DeviceNumber, Extent, FileKind, Metadata, Node, NodeKind, Timestamp, XATTR_NAME_MAX, XATTR_VALUE_MAX,
    XattrError, Xattrs,
};
pub use record::{Record, RecordError, RecordKind, RecordWriter};
pub use size::parse_size;
