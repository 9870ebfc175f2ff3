//! Empties a filesystem's journal, for readers that cannot replay one: boot loaders.
//!
//! After `fsync(2)` a change is durable, but perhaps only in the journal. The kernel replays the journal; GRUB ignores it, and
//! would see the state before the change or a part of the change.
//!
//! *Used by* `deploy`, after it has written to `/boot`.

use std::io;
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::ioctl::{Setter, ioctl, opcode};

const EXT4_CHECKPOINT: rustix::ioctl::Opcode = opcode::write::<u32>(b'f', 43);
const FREEZE: rustix::ioctl::Opcode = opcode::read_write::<i32>(b'X', 119);
const THAW: rustix::ioctl::Opcode = opcode::read_write::<i32>(b'X', 120);

/// Whether a filesystem may be frozen for a moment, if nothing else empties its journal (XFS).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freeze {
    /// It may be: neither this process nor a program that it starts writes to the filesystem meanwhile.
    Allowed,
    /// It may not be: the system may run on this filesystem.
    Never,
}

/// Makes the filesystem of `directory` write everything from its journal to its final place. Does nothing without a journal,
/// without the privilege, or on a filesystem without such an operation: what was synced before is durable anyway.
///
/// # Errors
/// Those of the operation where it exists and fails.
#[expect(unsafe_code, reason = "an ioctl whose argument the kernel reads")]
pub(crate) fn empty_journal(directory: impl AsFd, freeze: Freeze) -> io::Result<()> {
    // SAFETY: the kernel reads 4 bytes behind the pointer that `Setter` makes of its own value, and writes nothing.
    let done = unsafe { ioctl(&directory, Setter::<EXT4_CHECKPOINT, u32>::new(0)) };
    match done {
        // No such device: no journal.
        Ok(()) | Err(Errno::PERM | Errno::NODEV) => return Ok(()),
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) if freeze == Freeze::Allowed => {}
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    // SAFETY: as above; these ignore their argument.
    let frozen = unsafe { ioctl(&directory, Setter::<FREEZE, i32>::new(0)) };
    match frozen {
        Ok(()) => {}
        Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOTTY | Errno::BUSY | Errno::INVAL | Errno::NOSYS) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    // SAFETY: as above.
    Ok(unsafe { ioctl(&directory, Setter::<THAW, i32>::new(0)) }?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_journal_does_nothing_without_such_an_operation() {
        let directory = std::fs::File::open("/proc").expect("mounted");
        empty_journal(&directory, Freeze::Never).expect("nothing to do");
    }
}
