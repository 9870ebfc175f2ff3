//! What a run of a package manager leaves behind and what belongs to one machine only: removed.
//!
//! Identities and secrets: machine-id, random seeds, ssh host keys, the host's name and resolver. Traces of the run:
//! logs, caches, lists of packages that could be installed, locks, backup copies. And what no image can hold: devices,
//! sockets, the content of file systems that the kernel provides.

use super::super::draft::{Draft, join};
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
    "/var/backups",
    "/var/cache",
    "/var/tmp",
    "/var/lib/apt",
    "/var/lib/dnf",
    "/var/lib/yum",
    "/var/lib/systemd/catalog",
];

/// Directories that keep their directories and lose their files.
const WITHOUT_FILES: &[&str] = &["/var/log"];

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

/// Files that are removed unless they are links: those lead to where the running system keeps them.
const REMOVED_FILES: &[&str] = &["/etc/hostname", "/etc/resolv.conf"];

/// Removes it all.
///
/// # Errors
/// [`LayoutError::Draft`].
pub fn remove(draft: &mut Draft, devices: Devices, machine_id: MachineId) -> Result<(), LayoutError> {
    for directory in EMPTIED {
        draft.clear(directory);
    }
    for path in REMOVED {
        draft.remove(path);
    }
    for path in REMOVED_FILES {
        if draft.node(path).is_some_and(|node| node.kind.file_kind() == FileKind::Regular) {
            draft.remove(path);
        }
    }
    for name in draft.list("/etc/ssh").iter().map(|name| name.as_bytes().to_vec()) {
        if name.starts_with(b"ssh_host_") && name.windows(4).any(|part| part == b"_key") {
            draft.remove(join(b"/etc/ssh", name));
        }
    }
    for directory in WITHOUT_FILES {
        for (path, id) in draft.below(directory) {
            if draft.tree().node(id).kind != NodeKind::Directory {
                draft.remove(path);
            }
        }
    }
    for (path, id) in draft.below("/") {
        match draft.tree().node(id).kind {
            NodeKind::Socket => _ = draft.remove(path),
            NodeKind::CharDevice(_) | NodeKind::BlockDevice(_) if devices == Devices::Ignored => {
                draft.remove(path);
            }
            _ => {}
        }
    }
    if machine_id == MachineId::Empty {
        draft.write("/etc/machine-id", *b"", 0o444)?;
    }
    Ok(())
}

/// Whether device nodes are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Devices {
    /// They are left out.
    Ignored,
    /// They stay.
    Kept,
}

/// Whether `/etc/machine-id` is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MachineId {
    /// An empty file: the first boot fills it, and is no first boot to systemd.
    Empty,
    /// No file: the first boot is one, presets apply.
    Absent,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::DeviceNumber;

    #[test]
    fn what_belongs_to_the_machine_is_gone_and_the_rest_stays() {
        let mut draft = Draft::empty();
        for gone in [
            "/etc/machine-id",
            "/etc/hostname",
            "/etc/ssh/ssh_host_rsa_key",
            "/etc/ssh/ssh_host_rsa_key.pub",
            "/var/log/dpkg.log",
            "/var/log/apt/term.log",
            "/var/cache/apt/pkgcache.bin",
            "/var/lib/apt/lists/x",
            "/var/lib/dpkg/status-old",
            "/tmp/x",
        ] {
            draft.write(gone, *b"x", 0o644).expect("free");
        }
        for kept in ["/etc/ssh/ssh_config", "/var/lib/dpkg/status", "/etc/hosts"] {
            draft.write(kept, *b"x", 0o644).expect("free");
        }
        draft.symlink("/etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf").expect("free");
        let null = DeviceNumber { major: 1, minor: 3 };
        draft.insert(b"/usr/null", NodeKind::CharDevice(null), 0o666).expect("free");
        draft.insert(b"/usr/socket", NodeKind::Socket, 0o666).expect("free");
        remove(&mut draft, Devices::Kept, MachineId::Empty).expect("edits");
        assert!(draft.find("/usr/null").is_some() && draft.find("/usr/socket").is_none());
        remove(&mut draft, Devices::Ignored, MachineId::Empty).expect("edits");
        let left: Vec<String> = draft
            .below("/")
            .into_iter()
            .filter(|(_, id)| draft.tree().node(*id).kind != NodeKind::Directory)
            .map(|(path, _)| String::from_utf8_lossy(&path).into_owned())
            .collect();
        assert_eq!(
            left,
            ["/etc/hosts", "/etc/machine-id", "/etc/resolv.conf", "/etc/ssh/ssh_config", "/var/lib/dpkg/status"]
        );
        assert!(draft.is_directory("/var/log/apt"));
        remove(&mut draft, Devices::Ignored, MachineId::Absent).expect("edits");
        assert!(draft.find("/etc/machine-id").is_none());
    }
}
