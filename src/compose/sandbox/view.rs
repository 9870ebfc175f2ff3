//! Makes what a command sees as `/`.
//!
//! *Invariants*: mounts on directories of the root under construction are made after the change of root, so that no link in it
//! leads them elsewhere. A process that may not write a file of this machine cannot do so through any of these mounts, and
//! mounts of this machine are read-only besides.
//!
//! *Used by* `stages`.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::error::{StageError, system_error};
use super::ids::FIRST_ID;
use super::{EngineView, View};
use crate::sys::{self, MountAttributes};

/// The devices that a sandbox has in `/dev`.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// The parts of `/proc` that change settings of the whole machine.
const MACHINE_SETTINGS: [&str; 8] = ["sys", "irq", "bus", "sysrq-trigger", "acpi", "fs", "scsi", "pressure"];

/// The files of `/proc` that tell of the machine's memory, keys and other programs.
const HIDDEN_FILES: [&str; 6] = ["kcore", "keys", "kmsg", "timer_list", "latency_stats", "sched_debug"];

/// The directories beside `/usr` that have programs and libraries, where they are no links into it.
const PROGRAM_DIRECTORIES: [&str; 6] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"];

/// What engines need of `/etc`: their own configuration, and that of the programs and libraries they use. Nothing else is
/// shown, since a file there may have secrets.
const ENGINE_SETTINGS: [&str; 16] = [
    "alternatives",
    "debian_version",
    "dnf",
    "dpkg",
    "group",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "nsswitch.conf",
    "os-release",
    "passwd",
    "perl",
    "pki",
    "python3",
    "rpm",
    "ssl/certs",
];

/// The size limit of a sandbox's `/run` and of the directory that holds an engine's view.
const SMALL_TMPFS: &str = "mode=755,size=64m";

/// Gives this process the view as `/`. `ids` is the user namespace through which the files of the root are shown, if it is not
/// this process's own.
pub(super) fn enter(view: &View, ids: Option<BorrowedFd<'_>>) -> Result<(), StageError> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(system_error("keep mounts private"))?;
    match view {
        View::Root(root) => enter_root(root, ids),
        View::Engine(view) => enter_engine(view, ids),
    }
}

fn enter_root(root: &Path, ids: Option<BorrowedFd<'_>>) -> Result<(), StageError> {
    make_mount_points(root, &["proc", "dev", "run", "tmp"])?;
    let parts = SystemParts::open()?;
    let tree = Unplaced::open(root, Access::Write, ids)?;
    move_mount(&tree.mount, "", CWD, root, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(system_error("mount the root"))?;
    change_root(root)?;
    // This precedes the unmount of the old root: a user namespace may mount `/proc` only while another one is fully
    // visible.
    mount_proc("/proc", parts.hidden)?;
    umount2(".", MntFlags::MNT_DETACH).map_err(system_error("leave the old root"))?;
    mount_tmpfs("/run", SMALL_TMPFS, ids)?;
    mount_tmpfs("/tmp", "mode=1777", ids)?;
    mount_devices("/dev", parts.devices, ids)?;
    for (link, target) in [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")] {
        symlink(target, Path::new("/dev").join(link)).map_err(system_error("link a device"))?;
    }
    Ok(())
}

fn enter_engine(view: &EngineView, ids: Option<BorrowedFd<'_>>) -> Result<(), StageError> {
    if let Some(root) = &view.root {
        make_mount_points(root, &["proc", "dev"])?;
    }
    let (parts, root_parts) = (SystemParts::open()?, SystemParts::open()?);
    let mut links = Vec::new();
    let mut mounts = vec![Unplaced::open_host("/usr")?];
    for name in PROGRAM_DIRECTORIES {
        let path = Path::new("/").join(name);
        match fs::read_link(&path) {
            Ok(target) => links.push((path, target)),
            Err(_) if path.is_dir() => mounts.push(Unplaced::open_host(path)?),
            Err(_) => {}
        }
    }
    let settings = ENGINE_SETTINGS.map(|name| Path::new("/etc").join(name));
    for path in settings.iter().filter(|path| path.exists()) {
        mounts.push(Unplaced::open_host(path)?);
    }
    let shown = view.readable.iter().map(|path| (path, Access::Read));
    let shown = shown.chain(view.writable.iter().chain(&view.root).map(|path| (path, Access::Write)));
    let shown: Vec<Unplaced> =
        shown.map(|(path, access)| Unplaced::open(path, access, ids)).collect::<Result<_, _>>()?;

    mount_tmpfs("/tmp", SMALL_TMPFS, ids)?;
    change_root(Path::new("/tmp"))?;
    for name in ["/proc", "/run", "/tmp", "/dev", "/root", "/etc"] {
        make_directory(name, ids)?;
    }
    for (path, target) in links {
        symlink(target, path).map_err(system_error("link a directory of programs"))?;
    }
    mount_proc("/proc", parts.hidden)?;
    mount_tmpfs("/run", SMALL_TMPFS, ids)?;
    mount_tmpfs("/tmp", "mode=1777", ids)?;
    mount_devices("/dev", parts.devices, ids)?;
    mounts.into_iter().chain(shown).try_for_each(Unplaced::place)?;
    if let Some(root) = &view.root {
        mount_proc(root.join("proc"), root_parts.hidden)?;
        mount_devices(root.join("dev"), root_parts.devices, ids)?;
    }
    umount2(".", MntFlags::MNT_DETACH).map_err(system_error("leave the old root"))
}

/// Makes `directory`, which is a mount, the root directory. The old root stays mounted on top of it.
fn change_root(directory: &Path) -> Result<(), StageError> {
    nix::unistd::chdir(directory).map_err(system_error("enter the root"))?;
    nix::unistd::pivot_root(".", ".").map_err(system_error("change the root"))
}

/// Makes directories in a root. A link with such a name stays, and the mount on it fails.
fn make_mount_points(root: &Path, names: &[&str]) -> Result<(), StageError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(root, flags, Mode::empty()).map_err(system_error("open the root"))?;
    for name in names {
        match rustix::fs::mkdirat(&directory, *name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(system_error("make mount points")(error)),
        }
    }
    Ok(())
}

/// Whether a mount may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

/// A mount that is not placed yet.
struct Unplaced {
    mount: OwnedFd,
    path: PathBuf,
    is_directory: bool,
}

impl Unplaced {
    /// Opens a part of this machine, with the mounts below it, to be shown read-only.
    fn open_host(path: impl AsRef<Path>) -> Result<Self, StageError> {
        let path = path.as_ref();
        let error = |source: io::Error| StageError::Show { path: path.to_owned(), source };
        let unplaced = Self::clone_tree(path, OpenTreeFlags::AT_RECURSIVE).map_err(error)?;
        let attributes = MountAttributes { read_only: true, recursive: true, id_map: None };
        sys::set_mount_attributes(unplaced.mount.as_fd(), attributes).map_err(error)?;
        Ok(unplaced)
    }

    /// Opens a file or directory of the compose. With `ids`, its files have the ids inside the sandbox that they have on disk.
    fn open(path: &Path, access: Access, ids: Option<BorrowedFd<'_>>) -> Result<Self, StageError> {
        let error = |source: io::Error| StageError::Show { path: path.to_owned(), source };
        let unplaced = Self::clone_tree(path, OpenTreeFlags::empty()).map_err(error)?;
        let attributes = MountAttributes { read_only: access == Access::Read, recursive: false, id_map: ids };
        match sys::set_mount_attributes(unplaced.mount.as_fd(), attributes) {
            Ok(()) => Ok(unplaced),
            Err(source) if ids.is_some() && source.raw_os_error() == Some(libc::EINVAL) => match access {
                Access::Write => Err(StageError::IdMap { path: path.to_owned() }),
                // What other users may read there can be read without the mapping, too.
                Access::Read => {
                    let plain = MountAttributes { id_map: None, ..attributes };
                    sys::set_mount_attributes(unplaced.mount.as_fd(), plain).map_err(error)?;
                    Ok(unplaced)
                }
            },
            Err(source) => Err(error(source)),
        }
    }

    fn clone_tree(path: &Path, flags: OpenTreeFlags) -> io::Result<Self> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | flags;
        let is_directory = fs::metadata(path)?.is_dir();
        Ok(Self { mount: open_tree(CWD, path, flags)?, path: std::path::absolute(path)?, is_directory })
    }

    /// Mounts it under its path, which is made.
    fn place(self) -> Result<(), StageError> {
        let placed = (|| {
            if self.is_directory {
                fs::create_dir_all(&self.path)?;
            } else {
                self.path.parent().map_or(Ok(()), fs::create_dir_all)?;
                fs::File::create(&self.path)?;
            }
            Ok(move_mount(&self.mount, "", CWD, &self.path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
        })();
        placed.map_err(|source: io::Error| StageError::Show { path: self.path.clone(), source })
    }
}

/// Devices of this machine, and what hides files of `/proc`.
struct SystemParts {
    devices: Vec<(&'static str, OwnedFd)>,
    hidden: Vec<(&'static str, OwnedFd)>,
}

impl SystemParts {
    fn open() -> Result<Self, StageError> {
        let clone = |device: &str| {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            open_tree(CWD, Path::new("/dev").join(device), flags).map_err(system_error("find a device"))
        };
        let devices = DEVICES.iter().map(|name| Ok((*name, clone(name)?))).collect::<Result<_, StageError>>()?;
        let hide = |name: &&'static str| {
            let mount = clone("null")?;
            // The mount has no device nodes: it cannot be opened at all.
            let attributes = MountAttributes { read_only: true, ..MountAttributes::default() };
            sys::set_mount_attributes(mount.as_fd(), attributes).map_err(system_error("hide files of /proc"))?;
            Ok((*name, mount))
        };
        let hidden = HIDDEN_FILES.iter().map(hide).collect::<Result<_, StageError>>()?;
        Ok(Self { devices, hidden })
    }
}

/// Mounts a tmpfs that belongs to the sandbox's user 0.
fn mount_tmpfs(target: impl AsRef<Path>, options: &str, ids: Option<BorrowedFd<'_>>) -> Result<(), StageError> {
    let owner = if ids.is_some() { format!(",uid={FIRST_ID},gid={FIRST_ID}") } else { String::new() };
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let options = format!("{options}{owner}");
    mount(Some("tmpfs"), target.as_ref(), Some("tmpfs"), flags, Some(options.as_str()))
        .map_err(system_error("mount a tmpfs"))
}

fn make_directory(path: &str, ids: Option<BorrowedFd<'_>>) -> Result<(), StageError> {
    let owner = ids.map(|_| FIRST_ID);
    fs::create_dir(path).and_then(|()| chown(path, owner, owner)).map_err(system_error("make a directory"))
}

/// Mounts a tmpfs with the devices at `target`.
fn mount_devices(
    target: impl AsRef<Path>,
    devices: Vec<(&'static str, OwnedFd)>,
    ids: Option<BorrowedFd<'_>>,
) -> Result<(), StageError> {
    let target = target.as_ref();
    mount_tmpfs(target, "mode=755,size=1m", ids)?;
    for (name, device) in devices {
        let path = target.join(name);
        fs::File::create(&path).map_err(system_error("place a device"))?;
        move_mount(device, "", CWD, &path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(system_error("place a device"))?;
    }
    let shared = target.join("shm");
    fs::create_dir(&shared)
        .and_then(|()| fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)))
        .map_err(system_error("make /dev/shm"))
}

fn mount_proc(target: impl AsRef<Path>, hidden: Vec<(&'static str, OwnedFd)>) -> Result<(), StageError> {
    let target = target.as_ref();
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), target, Some("proc"), flags, None::<&str>).map_err(system_error("mount /proc"))?;
    make_settings_read_only(target).map_err(system_error("make the machine's settings in /proc read-only"))?;
    for (name, null) in hidden {
        match move_mount(null, "", CWD, target.join(name), MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH) {
            // This kernel does not have the file.
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(system_error("hide files of /proc")(error)),
        }
    }
    Ok(())
}

/// Makes those parts of a `/proc` read-only that change settings of the whole machine. The kernel lets user 0 write them
/// without any capability.
pub(in crate::compose) fn make_settings_read_only(proc: &Path) -> nix::Result<()> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    let kept = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    for name in MACHINE_SETTINGS {
        let path = &proc.join(name);
        match mount(Some(path), path, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>) {
            // This kernel does not have the file.
            Err(nix::errno::Errno::ENOENT) => continue,
            bound => bound?,
        }
        mount(None::<&str>, path, None::<&str>, flags | kept, None::<&str>)?;
    }
    Ok(())
}
