//! Conversion of an image's attributes into those of the FUSE protocol.
//!
//! *Used by* `operations`.

use std::time::{Duration, SystemTime};

use fuser::{FileAttr, FileType, INodeNo};

use crate::image::Attributes;
use crate::model::{DeviceNumber, FileKind, Timestamp};

/// `st_blksize`, which programs use as the size of their reads: the value of other disk filesystems.
const BLOCK_SIZE: u32 = 4096;

/// Returns the attributes of the inode that the kernel knows as `node`. All four times are equal: a commit records only
/// when content changed, and nothing in it changes again.
pub(super) fn file_attr(node: u64, attributes: &Attributes) -> FileAttr {
    let time = system_time(attributes.mtime);
    FileAttr {
        ino: INodeNo(node),
        size: attributes.size,
        blocks: attributes.blocks,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: file_type(attributes.kind),
        perm: attributes.permissions,
        nlink: attributes.nlink,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: attributes.device.map_or(0, encode_device),
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

/// Returns the attributes of a negative entry, of which the kernel reads only the inode number 0.
pub(super) fn negative_entry() -> FileAttr {
    let time = SystemTime::UNIX_EPOCH;
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

/// Returns `fuser`'s value for a kind of inode.
pub(super) const fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Regular => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
    }
}

/// Returns `time`, or 1970 for one that no `SystemTime` can hold, which only a damaged image has.
fn system_time(time: Timestamp) -> SystemTime {
    let whole = Duration::from_secs(time.seconds.unsigned_abs());
    let epoch = SystemTime::UNIX_EPOCH;
    let seconds = if time.seconds < 0 { epoch.checked_sub(whole) } else { epoch.checked_add(whole) };
    let fraction = Duration::from_nanos(u64::from(time.nanoseconds));
    seconds.and_then(|seconds| seconds.checked_add(fraction)).unwrap_or(epoch)
}

/// Returns the kernel's 32-bit form of a device number: 12 bits of major between 8 and 12 bits of minor.
const fn encode_device(device: DeviceNumber) -> u32 {
    (device.minor & 0xff) | ((device.major & 0xfff) << 8) | ((device.minor & !0xff) << 12)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_number_has_the_kernel_encoding() {
        assert_eq!(encode_device(DeviceNumber { major: 10, minor: 229 }), 0x0ae5);
        assert_eq!(encode_device(DeviceNumber { major: 0xabc, minor: 0x12345 }), 0x123a_bc45);
    }

    #[test]
    fn time_before_1970_keeps_its_fraction() {
        let time = system_time(Timestamp { seconds: -2, nanoseconds: 800_000_000 });
        let before = SystemTime::UNIX_EPOCH.duration_since(time).expect("before");
        assert_eq!(before, Duration::from_millis(1200));
        assert_eq!(
            system_time(Timestamp { seconds: i64::MAX, nanoseconds: 0 }),
            SystemTime::UNIX_EPOCH + Duration::from_secs(i64::MAX as u64)
        );
    }
}
