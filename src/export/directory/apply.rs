//! Owner, attributes, mode and time of an entry that was made.

use super::ledger::{ExportCause, Ledger, io_cause};
use crate::disk::Entry;
use crate::export::report::Loss;
use crate::export::report::words;
use crate::image::Attributes;
use crate::model::{FileKind, Xattrs};

/// Setuid and setgid.
const SPECIAL_BITS: u16 = 0o6000;

/// Gives an entry everything but its content. It may only be called when nothing else will change the entry.
pub(super) fn apply(
    ledger: &Ledger,
    entry: Entry<'_>,
    path: &[u8],
    attributes: &Attributes,
    xattrs: &Xattrs,
) -> Result<(), ExportCause> {
    let owned = ledger.allow(Loss::Owner, "set the owner of", path, entry.chown(attributes.uid, attributes.gid))?;
    for (name, value) in xattrs.iter() {
        let action = "set an extended attribute of";
        let result = entry.set_xattr(name, value);
        // Which one is worth knowing: add it to the path.
        let words = || [path, b" (", name, b")"].concat();
        if let Err(errno) = result {
            ledger.allow(Loss::Xattr, action, &words(), Err(errno))?;
        }
    }
    if attributes.kind != FileKind::Symlink {
        let mut permissions = attributes.permissions;
        if !owned && attributes.kind == FileKind::Regular && permissions & SPECIAL_BITS != 0 {
            // A program that would run as whoever exports, not as the owner it was made for.
            permissions &= !SPECIAL_BITS;
            ledger.lose(Loss::SpecialBits, || format!("'{}' is not setuid or setgid: its owner is wrong", words(path)));
        }
        entry.chmod(permissions).map_err(|errno| io_cause("set the mode of", path, errno))?;
    }
    let time = attributes.mtime;
    entry.set_mtime(time.seconds, time.nanoseconds).map_err(|errno| io_cause("set the time of", path, errno))
}
