//! Applies the treefile's changes to an installed root on disk: files added and removed, units, scripts, the initramfs.
//!
//! Scripts have to see what they would see on a running system, so these changes are made before the root is laid out as an
//! image.
//!
//! *Invariants*: paths are resolved inside the root, as the root itself would resolve them; a link in it cannot lead out of
//! it, and neither can `..`. What is written is a new file, never one that a package or script made, which could be a device.
//!
//! *Used by* `pipeline`.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};

use super::engine::FileOwners;
use super::layout::leftovers::HOST_FILES;
use super::layout::{LayoutError, kernel};
use super::process::{ProcessError, Runner};
use super::sandbox::SandboxedCommand;
use super::staged::lossy_text;
use super::treefile::{InitramfsKind, Treefile};
use crate::disk;
use crate::model::FileKind;

/// The longest time that a script may run.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(3600);

/// Why a root cannot be changed as the treefile says.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InstalledRootError {
    /// A file in the root cannot be written or removed.
    #[error("cannot {action} {path} in the root")]
    Edit {
        action: &'static str,
        /// The path in the root.
        path: String,
        source: io::Error,
    },
    /// A file that should be added, or the root itself, cannot be read.
    #[error("cannot read {}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    /// A script or a tool failed.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The treefile enables units, and the root has no systemd.
    #[error("'{0}' is set, and there is no systemctl in the root: add 'systemd' to 'packages'")]
    NoSystemd(&'static str),
    /// The program that makes the initramfs is not installed.
    #[error("'initramfs: {0}' is set, and it is not installed: add it to 'packages'")]
    NoGenerator(&'static str),
    /// An expression cannot be compiled.
    #[error("'remove-from-packages': bad expression for {package}")]
    Expression { package: String, source: Box<regex::Error> },
    /// A package in `remove-from-packages` is not installed.
    #[error("'remove-from-packages': {0} is not installed")]
    NotInstalled(String),
    /// The kernel to boot cannot be chosen.
    #[error(transparent)]
    Kernel(#[from] LayoutError),
}

/// Most bytes of such a file that are compared.
const HOST_FILE_MAX: u64 = 64 << 10;

/// Files of the machine that composes, as they are in a root at one time; `None` for a file that is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostFiles([(&'static str, Option<Vec<u8>>); HOST_FILES.len()]);

impl HostFiles {
    /// Returns those that are there and were not the same `before`.
    pub(crate) fn changed_since(&self, before: &Self) -> Vec<&'static str> {
        let both = self.0.iter().zip(&before.0);
        both.filter(|(now, before)| now.1.is_some() && now.1 != before.1).map(|(now, _)| now.0).collect()
    }
}

/// An installed root, open for changes.
pub(crate) struct InstalledRoot<'a> {
    path: &'a Path,
    directory: OwnedFd,
    runner: Runner<'a>,
    time: i64,
}

impl<'a> InstalledRoot<'a> {
    /// Opens the root at `path`. `time` is the `SOURCE_DATE_EPOCH` of the programs that run in it.
    pub(crate) fn open(path: &'a Path, runner: Runner<'a>, time: i64) -> Result<Self, InstalledRootError> {
        let directory =
            disk::open_directory(path).map_err(|source| InstalledRootError::Read { path: path.to_owned(), source })?;
        Ok(Self { path, directory, runner, time })
    }

    /// Returns whether a treefile asks for anything that changes a root.
    pub(crate) fn is_changed_by(treefile: &Treefile) -> bool {
        !(treefile.add_files.is_empty()
            && treefile.remove_files.is_empty()
            && treefile.remove_from_packages.is_empty()
            && treefile.units.is_empty()
            && treefile.default_target.is_none()
            && treefile.scripts.is_empty()
            && matches!(treefile.initramfs, InitramfsKind::None | InitramfsKind::Auto))
    }

    /// Makes all changes but the initramfs, in rpm-ostree's order: removals, additions, units, scripts.
    pub(crate) fn apply_treefile(
        &self,
        treefile: &Treefile,
        file_owners: &FileOwners,
    ) -> Result<(), InstalledRootError> {
        for path in &treefile.remove_files {
            self.remove_path(path)?;
        }
        self.remove_from_packages(&treefile.remove_from_packages, file_owners)?;
        for file in &treefile.add_files {
            self.add_file(&file.source, &file.destination)?;
        }
        self.enable_units(treefile)?;
        for (index, script) in treefile.scripts.iter().enumerate() {
            let what = format!("postprocess script {} of {}", index + 1, treefile.scripts.len());
            self.runner.stage(&what);
            self.run(&what, &SandboxedCommand::script(self.path, script, self.time))?;
        }
        Ok(())
    }

    /// Returns the contents of the files that tools for roots copy from the machine that they run on.
    pub(crate) fn host_files(&self) -> HostFiles {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let read = |path: &str| {
            let path = path.trim_start_matches('/');
            let file = rustix::fs::openat2(&self.directory, path, flags, Mode::empty(), ResolveFlags::IN_ROOT).ok()?;
            let mut bytes = Vec::new();
            File::from(file).take(HOST_FILE_MAX).read_to_end(&mut bytes).ok()?;
            Some(bytes)
        };
        HostFiles(HOST_FILES.map(|path| (path, read(path))))
    }

    /// Makes the initramfs of the kernel that the commit boots.
    pub(crate) fn make_initramfs(&self, treefile: &Treefile) -> Result<(), InstalledRootError> {
        let Some(version) = kernel::choose(&self.kernel_versions(), treefile.kernel.as_deref())? else { return Ok(()) };
        let has = |program: &str| ["usr/bin", "usr/sbin"].iter().any(|place| self.has(&format!("{place}/{program}")));
        let target = format!("/usr/lib/modules/{version}/initramfs.img");
        let mut arguments: Vec<&str> = treefile.initramfs_args.iter().map(String::as_str).collect();
        let command = match (treefile.initramfs, has("dracut"), has("mkinitramfs")) {
            (InitramfsKind::None, ..) => return Ok(()),
            (InitramfsKind::Dracut | InitramfsKind::Auto, true, _) => {
                if !arguments.iter().any(|argument| argument.contains("hostonly")) {
                    arguments.push("--no-hostonly");
                }
                let fixed = ["dracut", "--force", "--reproducible", "--no-hostonly-cmdline", "--kver", &version];
                [&fixed[..], &arguments, &[target.as_str()]].concat()
            }
            (InitramfsKind::InitramfsTools | InitramfsKind::Auto, _, true) => {
                [&["mkinitramfs"][..], &arguments, &["-o", &target, &version]].concat()
            }
            (InitramfsKind::Dracut, false, _) => return Err(InstalledRootError::NoGenerator("dracut")),
            (InitramfsKind::InitramfsTools, ..) => return Err(InstalledRootError::NoGenerator("initramfs-tools")),
            (InitramfsKind::Auto, false, false) => {
                self.runner.note("there is a kernel and nothing that makes an initramfs: the commit has none");
                return Ok(());
            }
        };
        self.runner.stage(&format!("making the initramfs of {version}"));
        // Device nodes come from devtmpfs; ordinary users cannot make them.
        let sandbox = SandboxedCommand::in_root(self.path, &command, self.time).with_variable("DRACUT_NO_MKNOD", "1");
        self.run("making the initramfs", &sandbox)
    }

    fn run(&self, what: &str, sandbox: &SandboxedCommand) -> Result<(), InstalledRootError> {
        Ok(sandbox.run(self.runner, what, SCRIPT_TIMEOUT)?)
    }

    fn kernel_versions(&self) -> Vec<String> {
        let boot = self.names("boot").into_iter().filter_map(|name| name.strip_prefix("vmlinuz-").map(str::to_owned));
        let beside = self.names("usr/lib/modules").into_iter();
        let beside = beside.filter(|version| self.has(&format!("usr/lib/modules/{version}/vmlinuz")));
        let mut versions: Vec<String> = boot.chain(beside).collect();
        versions.sort();
        versions.dedup();
        versions
    }

    fn enable_units(&self, treefile: &Treefile) -> Result<(), InstalledRootError> {
        let has_systemd = self.has("usr/bin/systemctl");
        if !treefile.units.is_empty() {
            if !has_systemd {
                return Err(InstalledRootError::NoSystemd("units"));
            }
            let units: Vec<&str> = treefile.units.iter().map(String::as_str).collect();
            let command = [&["systemctl", "enable"][..], &units].concat();
            self.run("enabling units", &SandboxedCommand::in_root(self.path, &command, self.time))?;
        }
        if let Some(target) = &treefile.default_target {
            if !has_systemd {
                return Err(InstalledRootError::NoSystemd("default-target"));
            }
            self.run(
                "setting the default target",
                &SandboxedCommand::in_root(self.path, &["systemctl", "set-default", target], self.time),
            )?;
        }
        Ok(())
    }

    fn remove_from_packages(
        &self,
        removals: &[(String, Vec<String>)],
        file_owners: &FileOwners,
    ) -> Result<(), InstalledRootError> {
        let mut files: BTreeMap<&str, Vec<&[u8]>> = BTreeMap::new();
        for (path, owners) in &file_owners.owners {
            owners.iter().for_each(|owner| files.entry(owner).or_default().push(path));
        }
        for (package, expressions) in removals {
            let owned = files.get(package.as_str()).ok_or_else(|| InstalledRootError::NotInstalled(package.clone()))?;
            for expression in expressions {
                let regex = regex::bytes::Regex::new(expression).map_err(|error| InstalledRootError::Expression {
                    package: package.clone(),
                    source: Box::new(error),
                })?;
                for path in owned.iter().filter(|path| regex.is_match(path)) {
                    // A directory may belong to several packages.
                    let path = lossy_text(path);
                    if !matches!(self.open_directory(&path), Ok(Some(_))) {
                        self.remove_path(&path)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn add_file(&self, source: &Path, destination: &str) -> Result<(), InstalledRootError> {
        let read_error = |error| InstalledRootError::Read { path: source.to_owned(), source: error };
        let mut file = disk::open_regular_file(source).map_err(read_error)?;
        let mode = file.metadata().map_err(read_error)?.permissions().mode() & 0o777;
        let edit = |error| InstalledRootError::Edit { action: "write", path: destination.to_owned(), source: error };
        let (parent, name) = split(destination).map_err(edit)?;
        let directory = self.open_or_make(parent).map_err(edit)?;
        check_replaceable(&directory, name).map_err(edit)?;
        let written = disk::replace_at(&directory, name.as_bytes(), |temporary| {
            let mut new = disk::create_file_at(&directory, temporary)?;
            io::copy(&mut file, &mut new)?;
            new.set_permissions(Permissions::from_mode(mode))?;
            Ok(Some(new))
        });
        written.map_err(edit)
    }

    fn remove_path(&self, path: &str) -> Result<(), InstalledRootError> {
        let edit = |source| InstalledRootError::Edit { action: "remove", path: path.to_owned(), source };
        let (parent, name) = split(path).map_err(edit)?;
        let Some(directory) = self.open_directory(parent).map_err(edit)? else { return Ok(()) };
        // The path goes through the open directory: the meaning of its name may have changed meanwhile.
        let path_by_fd = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
        match fs::symlink_metadata(&path_by_fd) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(edit(error)),
            Ok(metadata) if metadata.is_dir() => disk::remove_directory(&path_by_fd).map_err(edit),
            Ok(_) => fs::remove_file(&path_by_fd).map_err(edit),
        }
    }

    /// Returns whether something is at a path.
    fn has(&self, path: &str) -> bool {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        rustix::fs::openat2(&self.directory, path, flags, Mode::empty(), ResolveFlags::IN_ROOT).is_ok()
    }

    /// Returns the names in a directory; none if there is no such directory.
    fn names(&self, directory: &str) -> Vec<String> {
        let Ok(Some(directory)) = self.open_directory(directory) else { return Vec::new() };
        disk::list(&directory).unwrap_or_default().iter().map(|entry| lossy_text(&entry.name)).collect()
    }

    fn open_directory(&self, path: &str) -> io::Result<Option<OwnedFd>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path = if path.is_empty() { "." } else { path };
        match rustix::fs::openat2(&self.directory, path, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
            Ok(fd) => Ok(Some(fd)),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn open_or_make(&self, path: &str) -> io::Result<OwnedFd> {
        if let Some(found) = self.open_directory(path)? {
            return Ok(found);
        }
        let (parent, name) = split(path)?;
        let parent = self.open_or_make(parent)?;
        rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
        self.open_directory(path)?.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// Splits a path into that of a directory and a name in it.
fn split(path: &str) -> io::Result<(&str, &str)> {
    let path = path.trim_matches('/');
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    match name {
        "" | "." | ".." => Err(io::Error::other("the last part of the path is no name")),
        _ => Ok((parent, name)),
    }
}

/// Fails unless a new file may take the place of what is there: nothing, or a regular file.
fn check_replaceable(directory: &OwnedFd, name: &str) -> io::Result<()> {
    let stat = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        other => other?,
    };
    match FileKind::from_mode(stat.st_mode) {
        Some(FileKind::Regular) => Ok(()),
        kind => {
            let kind = kind.map_or("something unknown", FileKind::word);
            Err(io::Error::other(format!("what lies there is no file but a {kind} ('remove-files' can remove it)")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::process::ComposeLog;
    use super::*;

    #[test]
    fn links_in_the_root_do_not_lead_out_of_it() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (root, outside) = (directory.path().join("root"), directory.path().join("outside"));
        fs::create_dir_all(root.join("usr/lib")).expect("writable");
        fs::create_dir(&outside).expect("writable");
        let source = directory.path().join("source");
        disk::replace(&source, b"text").expect("writable");
        std::os::unix::fs::symlink(&outside, root.join("link")).expect("writable");
        std::os::unix::fs::symlink("usr/lib", root.join("lib")).expect("writable");
        std::os::unix::fs::symlink(outside.join("x"), root.join("usr/file")).expect("writable");
        let log = ComposeLog::create(&directory.path().join("log")).expect("writable");
        let open = InstalledRoot::open(&root, Runner { log: &log, report: &|_| {} }, 0).expect("a root");
        open.add_file(&source, "/lib/new/deep/file").expect("writable");
        assert_eq!(fs::read(root.join("usr/lib/new/deep/file")).expect("readable"), b"text");
        assert!(open.add_file(&source, "/usr/file").is_err(), "a link in the last place");
        let _ = open.add_file(&source, "/link/file");
        assert_eq!(fs::read_dir(&outside).expect("listable").count(), 0);
        open.remove_path("/lib/new").expect("removable");
        assert!(!root.join("usr/lib/new").exists() && root.join("lib").exists());
        open.remove_path("/none/at/all").expect("nothing to do");
        disk::replace(&outside.join("kept"), b"x").expect("writable");
        open.remove_path("/link").expect("removable");
        assert!(outside.join("kept").exists());
    }
}
