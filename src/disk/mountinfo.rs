//! Reads the kernel's list of mounts without accessing any of them: a process that serves a mount and accesses it could wait
//! for itself for ever.
//!
//! *Used by* `disk`, `fuse`, `mount`, `deploy` and `cli`.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount of the calling thread's mount namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPoint {
    /// `major:minor`, equal for all mounts of one filesystem.
    pub device: String,
    /// The directory of the filesystem that is mounted: `/`, or that of a bind mount or of a btrfs subvolume.
    pub(crate) root: PathBuf,
    /// The mount point.
    pub path: PathBuf,
    /// The flags of this mount, such as `ro,nosuid,relatime`.
    pub(crate) flags: String,
    /// The type, such as `ext4` or `fuse.sapwood`.
    pub(crate) filesystem: String,
    /// The source, as given to `mount(2)`.
    pub(crate) source: String,
    /// The options of the filesystem itself, after the type and source.
    pub(crate) options: String,
}

/// All mounts, in the order in which they were made.
#[derive(Debug, Clone, Default)]
pub struct MountTable(Vec<MountPoint>);

impl MountTable {
    /// Reads the list of the calling thread: a thread may have a mount namespace of its own.
    ///
    /// # Errors
    /// Those of reading `/proc/thread-self/mountinfo`.
    pub(crate) fn read() -> io::Result<Self> {
        Ok(Self::parse(&fs::read("/proc/thread-self/mountinfo")?))
    }

    /// Parses the text of `mountinfo`; malformed lines are skipped.
    #[must_use]
    pub fn parse(text: &[u8]) -> Self {
        Self(text.split(|byte| *byte == b'\n').filter_map(parse_line).collect())
    }

    /// Returns all mounts.
    #[must_use]
    pub fn all(&self) -> &[MountPoint] {
        &self.0
    }

    /// Returns the mount that is visible at `path`: the last one made at exactly this path.
    #[must_use]
    pub fn top(&self, path: &Path) -> Option<&MountPoint> {
        self.0.iter().rev().find(|mount| mount.path == path)
    }

    /// Returns the mount that a canonical path is in.
    pub(crate) fn containing(&self, path: &Path) -> Option<&MountPoint> {
        path.ancestors().find_map(|ancestor| self.top(ancestor))
    }

    /// Returns the mounts of the filesystem `device`.
    pub fn mounts_of<'a>(&'a self, device: &'a str) -> impl Iterator<Item = &'a MountPoint> {
        self.0.iter().filter(move |mount| mount.device == device)
    }
}

/// Parses a line such as `36 35 98:0 /root /mnt ro,nosuid shared:1 - fuse.sapwood source ro,user_id=0`.
fn parse_line(line: &[u8]) -> Option<MountPoint> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = text(fields.nth(2)?);
    let [root, path] = [fields.next()?, fields.next()?].map(|field| PathBuf::from(OsString::from_vec(unescape(field))));
    let flags = text(fields.next()?);
    let mut after = fields.skip_while(|field| *field != b"-").skip(1);
    let filesystem = text(after.next()?);
    let source = text(after.next()?);
    let options = text(after.next().unwrap_or_default());
    Some(MountPoint { device, root, path, flags, filesystem, source, options })
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(field)).into_owned()
}

/// Undoes the octal escapes of the kernel, such as `\040` for a space.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = (first == b'\\').then(|| tail.get(..3)).flatten().and_then(octal_byte);
        bytes.push(octal.unwrap_or(first));
        rest = if octal.is_some() { &tail[3..] } else { tail };
    }
    bytes
}

fn octal_byte(digits: &[u8]) -> Option<u8> {
    let digits = std::str::from_utf8(digits).ok()?;
    u8::from_str_radix(digits, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &[u8] = b"22 1 253:0 / / rw,relatime shared:1 - ext4 /dev/root rw\n\
        36 22 0:41 / /mnt/a\\040b ro,nosuid shared:7 master:2 - fuse.sapwood main^ ro,user_id=0\n\
        37 36 0:42 / /mnt/a\\040b rw - tmpfs tmpfs rw\n\
        not a line\n";

    #[test]
    fn mount_table_unescapes_paths_and_top_is_the_last_mount() {
        let table = MountTable::parse(EXAMPLE);
        assert_eq!(table.all().len(), 3);
        let ours = table.mounts_of("0:41").next().expect("listed");
        assert_eq!((ours.path.as_path(), ours.root.as_path()), (Path::new("/mnt/a b"), Path::new("/")));
        assert_eq!((ours.filesystem.as_str(), ours.source.as_str()), ("fuse.sapwood", "main^"));
        assert_eq!(table.top(Path::new("/mnt/a b")).expect("listed").filesystem, "tmpfs");
        assert_eq!(table.top(Path::new("/mnt")), None);
    }

    #[test]
    fn mount_table_has_the_root_of_this_machine() {
        let table = MountTable::read().expect("Linux has /proc");
        assert!(table.top(Path::new("/")).is_some());
    }
}
