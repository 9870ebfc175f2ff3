//! Sets owner, extended attributes, mode and time of an entry that exists in the target.
//!
//! *Used by* `fill` for regular files and `walk` for everything else.

use super::state::{ExportCause, ExportState, io_cause};
use crate::disk::EntryRef;
use crate::export::report::Loss;
use crate::export::report::display_path;
use crate::image::Attributes;
use crate::model::{FileKind, Xattrs};

/// The setuid and setgid bits.
const SPECIAL_BITS: u16 = 0o6000;

/// Sets everything of an entry but its content. It must be the last change to the entry.
pub(super) fn apply(
    state: &ExportState,
    entry: EntryRef<'_>,
    path: &[u8],
    attributes: &Attributes,
    xattrs: &Xattrs,
) -> Result<(), ExportCause> {
    let owned = state.tolerate(Loss::Owner, "set the owner of", path, entry.chown(attributes.uid, attributes.gid))?;
    for (name, value) in xattrs.iter() {
        let action = "set an extended attribute of";
        let result = entry.set_xattr(name, value);
        // The message has to name the attribute too.
        let path_and_name = || [path, b" (", name, b")"].concat();
        if let Err(errno) = result {
            state.tolerate(Loss::Xattr, action, &path_and_name(), Err(errno))?;
        }
    }
    if attributes.kind != FileKind::Symlink {
        let mut permissions = attributes.permissions;
        if !owned && attributes.kind == FileKind::Regular && permissions & SPECIAL_BITS != 0 {
            // The program would run as the user who exports, not as the owner it was made for.
            permissions &= !SPECIAL_BITS;
            state.record_loss(Loss::SpecialBits, || {
                format!("'{}' is not setuid or setgid: its owner is wrong", display_path(path))
            });
        }
        entry.chmod(permissions).map_err(|errno| io_cause("set the mode of", path, errno))?;
    }
    let time = attributes.mtime;
    entry.set_mtime(time.seconds, time.nanoseconds).map_err(|errno| io_cause("set the time of", path, errno))
}
