//! Removes what a run of a package manager leaves behind, and what belongs to one machine only.
//!
//! Identities and secrets: machine-id, random seeds, ssh host keys, and the host name and resolver of the machine that composes.
//! Traces of the run: logs, caches, lists of available packages, locks, backup copies. And what no image can contain: devices,
//! sockets, the content of kernel filesystems.
//!
//! *Invariants*: what the treefile names stays, wherever it is. Directories of caches and logs stay: daemons do not start without
//! those that their packages made.

use super::super::staged::{StagedTree, join};
use super::LayoutError;
use crate::model::{FileKind, NodeKind};

/// Directories that are emptied.
const EMPTIED: &[&str] = &[
    "/dev",
    "/media",
    "/mnt",
    "/proc",
    "/run",
    "/sys",
    "/tmp",
    "/var/tmp",
    "/var/lib/dnf",
    "/var/lib/yum",
    "/var/lib/systemd/catalog",
];

/// Directories whose files are removed, while their directories and links stay.
const WITHOUT_FILES: &[&str] = &["/var/backups", "/var/cache", "/var/lib/apt", "/var/log"];

/// Files that are removed.
const REMOVED: &[&str] = &[
    "/.dockerenv",
    "/etc/.pwd.lock",
    "/etc/.updated",
    "/etc/apt/apt.conf.d/00mmdebstrap",
    "/etc/group-",
    "/etc/gshadow-",
    "/etc/machine-id",
    "/etc/passwd-",
    "/etc/shadow-",
    "/etc/subgid-",
    "/etc/subuid-",
    "/initrd.img",
    "/initrd.img.old",
    "/lost+found",
    "/boot/lost+found",
    "/root/.bash_history",
    "/root/.gnupg",
    "/root/.wget-hsts",
    "/usr/lib/sysimage/rpm/.rpm.lock",
    "/usr/lib/sysimage/rpm/rpmdb.sqlite-shm",
    "/usr/lib/sysimage/rpm/rpmdb.sqlite-wal",
    "/var/.updated",
    "/var/lib/dbus/machine-id",
    "/var/lib/dpkg/available",
    "/var/lib/dpkg/available-old",
    "/var/lib/dpkg/diversions-old",
    "/var/lib/dpkg/lock",
    "/var/lib/dpkg/lock-frontend",
    "/var/lib/dpkg/statoverride-old",
    "/var/lib/dpkg/status-old",
    "/var/lib/dpkg/triggers/Lock",
    "/var/lib/rpm/.rpm.lock",
    "/var/lib/rpm/rpmdb.sqlite-shm",
    "/var/lib/rpm/rpmdb.sqlite-wal",
    "/var/lib/systemd/credential.secret",
    "/var/lib/systemd/random-seed",
    "/vmlinuz",
    "/vmlinuz.old",
];

/// Files that tools for roots copy from the machine that they run on. They are removed unless they are links, which lead to where
/// the running system keeps the file, or the treefile asked for them.
pub(crate) const HOST_FILES: [&str; 2] = ["/etc/hostname", "/etc/resolv.conf"];

/// Removes all of it from the tree, except for the paths in `kept`.
pub(crate) fn remove(
    staged: &mut StagedTree,
    devices: DevicePolicy,
    machine_id: MachineId,
    kept: &[&str],
) -> Result<(), LayoutError> {
    let is_kept = |path: &[u8]| kept.iter().any(|kept| kept.as_bytes() == path);
    for directory in EMPTIED {
        clear(staged, directory, kept);
    }
    for path in REMOVED.iter().filter(|path| !is_kept(path.as_bytes())) {
        staged.remove(path);
    }
    for path in HOST_FILES.iter().filter(|path| !is_kept(path.as_bytes())) {
        if staged.node(path).is_some_and(|node| node.kind.file_kind() == FileKind::Regular) {
            staged.remove(path);
        }
    }
    for name in staged.list("/etc/ssh").iter().map(|name| name.as_bytes().to_vec()) {
        if name.starts_with(b"ssh_host_") && name.windows(4).any(|part| part == b"_key") {
            staged.remove(join(b"/etc/ssh", name));
        }
    }
    for directory in WITHOUT_FILES {
        for (path, id) in staged.descendants(directory) {
            let stays = matches!(staged.tree().node(id).kind, NodeKind::Directory | NodeKind::Symlink(_));
            if !stays && !is_kept(&path) {
                staged.remove(path);
            }
        }
    }
    for (path, id) in staged.descendants("/") {
        match staged.tree().node(id).kind {
            NodeKind::Socket => _ = staged.remove(path),
            NodeKind::CharDevice(_) | NodeKind::BlockDevice(_) if devices == DevicePolicy::Ignored => {
                staged.remove(path);
            }
            _ => {}
        }
    }
    if machine_id == MachineId::Empty {
        staged.write("/etc/machine-id", *b"", 0o444)?;
    }
    Ok(())
}

/// Empties a directory, except for the paths in `kept` and what leads to them.
fn clear(staged: &mut StagedTree, directory: &str, kept: &[&str]) {
    for (path, _) in staged.descendants(directory) {
        let leads_to =
            |kept: &&str| kept.as_bytes().strip_prefix(&path[..]).is_some_and(|rest| matches!(rest, [] | [b'/', ..]));
        if !kept.iter().any(leads_to) {
            staged.remove(path);
        }
    }
}

/// Whether device nodes are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DevicePolicy {
    /// Device nodes are removed.
    Ignored,
    /// Device nodes stay.
    Kept,
}

/// Whether `/etc/machine-id` exists in a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MachineId {
    /// An empty file: the first boot fills it, and systemd does not treat it as a first boot.
    Empty,
    /// No file: systemd treats the first boot as such, and applies presets.
    Absent,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::DeviceNumber;

    #[test]
    fn machine_files_are_removed_and_others_stay() {
        let mut staged = StagedTree::empty();
        for gone in [
            "/etc/machine-id",
            "/etc/hostname",
            "/etc/ssh/ssh_host_rsa_key",
            "/etc/ssh/ssh_host_rsa_key.pub",
            "/var/log/dpkg.log",
            "/var/log/apt/term.log",
            "/var/cache/apt/pkgcache.bin",
            "/var/cache/named/x",
            "/run/x/y",
            "/var/lib/apt/lists/x",
            "/var/lib/dpkg/status-old",
            "/tmp/x",
        ] {
            staged.write(gone, *b"x", 0o644).expect("free");
        }
        let kept = ["/run/kept/by/name", "/var/log/kept"];
        for kept in ["/etc/ssh/ssh_config", "/var/lib/dpkg/status", "/etc/hosts"].iter().chain(&kept) {
            staged.write(kept, *b"x", 0o644).expect("free");
        }
        staged.symlink("/etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf").expect("free");
        let null = DeviceNumber { major: 1, minor: 3 };
        staged.insert(b"/usr/null", NodeKind::CharDevice(null), 0o666).expect("free");
        staged.insert(b"/usr/socket", NodeKind::Socket, 0o666).expect("free");
        remove(&mut staged, DevicePolicy::Kept, MachineId::Empty, &kept).expect("edits");
        assert!(staged.find("/usr/null").is_some() && staged.find("/usr/socket").is_none());
        remove(&mut staged, DevicePolicy::Ignored, MachineId::Empty, &kept).expect("edits");
        let left: Vec<String> = staged
            .descendants("/")
            .into_iter()
            .filter(|(_, id)| staged.tree().node(*id).kind != NodeKind::Directory)
            .map(|(path, _)| String::from_utf8_lossy(&path).into_owned())
            .collect();
        assert_eq!(
            left,
            [
                "/etc/hosts",
                "/etc/machine-id",
                "/etc/resolv.conf",
                "/etc/ssh/ssh_config",
                "/run/kept/by/name",
                "/var/lib/dpkg/status",
                "/var/log/kept"
            ]
        );
        assert!(staged.is_directory("/var/log/apt") && staged.is_directory("/var/cache/named"));
        remove(&mut staged, DevicePolicy::Ignored, MachineId::Absent, &kept).expect("edits");
        assert!(staged.find("/etc/machine-id").is_none());
    }
}
