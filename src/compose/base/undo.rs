//! Undoes the layout of an image in a root on disk.
//!
//! Purpose: `/usr/etc` becomes `/etc`, `/var` gets what its `tmpfiles.d` lines make, and the machine's directories are
//! directories again, so that packages are installed as into a root that was never an image.
//!
//! Not here: rpm's database, which stays below `/usr/lib/sysimage` with a link at its old place, as the engine installs it.
//!
//! Invariants: paths are followed from the root without links, so that no link leads out of it.
//!
//! Used by: `BaseCommit`.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

use super::BaseError;
use super::tmpfiles::{self, Line, Made};
use crate::compose::layout::databases::DPKG_DIRECTORY;
use crate::compose::layout::links::{MACHINE_DIRECTORIES, USR_LOCAL, USR_OPT};
use crate::compose::layout::users::AccountTable;
use crate::compose::layout::var::{FACTORY_DIRECTORY, TMPFILES_FILE};
use crate::disk;

/// The largest file that is read.
const FILE_MAX: u64 = 16 << 20;

/// `/opt` and `/usr/local`, with their directories in `/var` and the targets of their links.
const CONDITIONAL_DIRECTORIES: [(&str, &str, &str); 2] =
    [("/opt", "/var/opt", "var/opt"), ("/usr/local", "/var/usrlocal", "../var/usrlocal")];

/// Undoes the layout of the root at `path`.
pub(super) fn undo_layout(path: &Path) -> Result<(), BaseError> {
    let directory = disk::open_directory(path).map_err(failed("open", "/"))?;
    let root = Root { directory };
    // A root that runs as it is, of a commit that no machine boots.
    if root.kind("/usr/etc")?.is_none() {
        return Ok(());
    }
    root.restore_etc()?;
    root.restore_var()?;
    root.restore_directory("/var/lib/dpkg", DPKG_DIRECTORY, "../../usr/lib/sysimage/dpkg")?;
    for (old, new) in MACHINE_DIRECTORIES {
        root.restore_directory(old, new, &new[1..])?;
    }
    for (old, new, target) in CONDITIONAL_DIRECTORIES {
        root.restore_directory(old, new, target)?;
    }
    root.restore_linked("/opt", USR_OPT)?;
    root.restore_linked("/usr/local", USR_LOCAL)?;
    if root.link("/media")?.as_deref() == Some(b"run/media") {
        root.remove("/media")?;
        root.make_directory("/media", 0o755)?;
    }
    Ok(())
}

fn failed<E: Into<io::Error>>(action: &'static str, path: &str) -> impl FnOnce(E) -> BaseError + use<E> {
    let path = path.to_owned();
    move |source| BaseError::Undo { action, path, source: source.into() }
}

/// A root, in which no link is followed.
struct Root {
    directory: OwnedFd,
}

impl Root {
    fn restore_etc(&self) -> Result<(), BaseError> {
        // The directory that the image has in its place is empty.
        if self.kind("/usr/etc")? == Some(FileType::Directory) {
            self.remove_empty_directory("/etc")?;
            self.rename("/usr/etc", "/etc")?;
        }
        Ok(())
    }

    /// Makes what the lines of the layout describe, and the directories and links of the packages' own lines.
    fn restore_var(&self) -> Result<(), BaseError> {
        let own = self.read(TMPFILES_FILE)?.unwrap_or_default();
        let mut lines: BTreeMap<Vec<u8>, Line> = BTreeMap::new();
        for directory in ["/usr/lib/tmpfiles.d", "/etc/tmpfiles.d"] {
            for name in self.list(directory)?.into_iter().filter(|name| name.ends_with(".conf")) {
                let text = self.read(&format!("{directory}/{name}"))?.unwrap_or_default();
                let made = tmpfiles::parse(&text).into_iter();
                let made = made.filter(|line| matches!(line.made, Made::Directory | Made::Link(_)));
                lines.extend(made.map(|line| (line.path.clone(), line)));
            }
        }
        let is_comment = |line: &&str| line.trim().is_empty() || line.starts_with('#');
        let own_lines = tmpfiles::parse(&own);
        if own_lines.len() != own.lines().filter(|line| !is_comment(line)).count() {
            let what = "a line of it is not understood; this program is too old, or the file was changed";
            return Err(failed("read", TMPFILES_FILE)(io::Error::other(what)));
        }
        lines.extend(own_lines.into_iter().map(|line| (line.path.clone(), line)));
        let passwd = self.read("/etc/passwd")?.unwrap_or_default();
        let group = self.read("/etc/group")?.unwrap_or_default();
        let table = |file, text: &str| {
            AccountTable::parse(file, text).map_err(|error| failed("read", file)(io::Error::other(error.to_string())))
        };
        let (users, groups) = (table("/etc/passwd", &passwd)?, table("/etc/group", &group)?);
        for line in lines.values() {
            self.make(line, &users, &groups)?;
        }
        if self.kind(TMPFILES_FILE)?.is_some() {
            self.remove(TMPFILES_FILE)?;
        }
        self.remove_empty_directories(&format!("{FACTORY_DIRECTORY}/var"))?;
        self.remove_if_empty(FACTORY_DIRECTORY)
    }

    fn make(&self, line: &Line, users: &AccountTable, groups: &AccountTable) -> Result<(), BaseError> {
        let path = path_text(&line.path)?;
        let (parent, name) = split(&path);
        let parent = match self.open(parent) {
            Ok(parent) => parent,
            // A path of a package through a link, as below /var/run, or below what nothing makes.
            Err(Errno::LOOP | Errno::NOTDIR | Errno::NOENT) => return Ok(()),
            Err(error) => return Err(failed("open", parent)(error)),
        };
        let error = |errno: Errno| failed("make", &path)(errno);
        let mode = line.mode.unwrap_or(if line.made == Made::Directory { 0o755 } else { 0o644 });
        let made = match &line.made {
            Made::Directory => rustix::fs::mkdirat(&parent, name, Mode::RWXU),
            Made::EmptyFile => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                rustix::fs::openat(&parent, name, flags, Mode::RUSR).map(drop)
            }
            Made::Fifo => rustix::fs::mknodat(&parent, name, FileType::Fifo, Mode::RUSR, 0),
            Made::Link(target) => match rustix::fs::symlinkat(target.as_slice(), &parent, name) {
                Err(Errno::EXIST) => return Ok(()),
                made => return made.map_err(error),
            },
            Made::FactoryFile => return self.rename(&format!("{FACTORY_DIRECTORY}{path}"), &path),
        };
        match made {
            Err(Errno::EXIST) => return Ok(()),
            made => made.map_err(error)?,
        }
        let id = |table: &AccountTable, name: &str| table.id(name).or_else(|| name.parse().ok()).unwrap_or(0);
        let (uid, gid) = (Uid::from_raw(id(users, &line.user)), Gid::from_raw(id(groups, &line.group)));
        rustix::fs::chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(error)?;
        rustix::fs::chmodat(&parent, name, Mode::from_raw_mode(mode), AtFlags::empty()).map_err(error)
    }

    /// Puts a directory of `/var` back to where a link leads to it.
    fn restore_directory(&self, old: &str, new: &str, target: &str) -> Result<(), BaseError> {
        if self.link(old)?.as_deref() != Some(target.as_bytes()) {
            return Ok(());
        }
        self.remove(old)?;
        match self.kind(new)? {
            Some(FileType::Directory) => self.rename(new, old),
            _ => self.make_directory(old, if old == "/root" { 0o700 } else { 0o755 }),
        }
    }

    /// Puts what is in `/usr`, and what links in a directory lead to, back to the places of the links.
    fn restore_linked(&self, directory: &str, kept: &str) -> Result<(), BaseError> {
        for name in self.list(kept)? {
            let (shown, place) = (format!("{directory}/{name}"), format!("{kept}/{name}"));
            if self.link(&shown)?.is_some_and(|target| target.ends_with(place.as_bytes())) {
                self.remove(&shown)?;
                self.rename(&place, &shown)?;
            } else if self.kind(&place)? == Some(FileType::Directory) {
                self.restore_linked(&shown, &place)?;
            }
        }
        self.remove_if_empty(kept)
    }

    fn open(&self, path: &str) -> Result<OwnedFd, Errno> {
        let path = path.trim_start_matches('/');
        let path = if path.is_empty() { "." } else { path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let follow = ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
        rustix::fs::openat2(&self.directory, path, flags, Mode::empty(), follow)
    }

    fn parent<'a>(&self, path: &'a str) -> Result<(OwnedFd, &'a str), Errno> {
        let (parent, name) = split(path);
        Ok((self.open(parent)?, name))
    }

    /// Returns the kind of what is at a path; `None` if nothing is.
    fn kind(&self, path: &str) -> Result<Option<FileType>, BaseError> {
        let stat =
            self.parent(path).and_then(|(parent, name)| rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW));
        match stat {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(failed("read", path)(error)),
        }
    }

    /// Returns the target of a link; `None` if there is none.
    fn link(&self, path: &str) -> Result<Option<Vec<u8>>, BaseError> {
        if self.kind(path)? != Some(FileType::Symlink) {
            return Ok(None);
        }
        let target = self.parent(path).and_then(|(parent, name)| rustix::fs::readlinkat(&parent, name, Vec::new()));
        target.map(|target| Some(target.into_bytes())).map_err(failed("read", path))
    }

    /// Returns the names in a directory that are UTF-8; none if there is no such directory.
    fn list(&self, path: &str) -> Result<Vec<String>, BaseError> {
        match self.open(path) {
            Ok(directory) => {
                let entries = disk::list(&directory).map_err(failed("list", path))?;
                Ok(entries.into_iter().filter_map(|entry| String::from_utf8(entry.name.to_vec()).ok()).collect())
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(Vec::new()),
            Err(error) => Err(failed("list", path)(error)),
        }
    }

    /// Returns the text of a regular file; `None` if there is none.
    fn read(&self, path: &str) -> Result<Option<String>, BaseError> {
        if self.kind(path)? != Some(FileType::RegularFile) {
            return Ok(None);
        }
        let (parent, name) = self.parent(path).map_err(failed("open", path))?;
        let file = disk::open_file_at(&parent, name.as_bytes()).map_err(failed("open", path))?;
        let mut bytes = Vec::new();
        file.take(FILE_MAX).read_to_end(&mut bytes).map_err(failed("read", path))?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), BaseError> {
        let (old, old_name) = self.parent(from).map_err(failed("find", from))?;
        let (new, new_name) = self.parent(to).map_err(failed("find", to))?;
        rustix::fs::renameat(&old, old_name, &new, new_name).map_err(failed("move", from))
    }

    fn remove(&self, path: &str) -> Result<(), BaseError> {
        let (parent, name) = self.parent(path).map_err(failed("find", path))?;
        rustix::fs::unlinkat(&parent, name, AtFlags::empty()).map_err(failed("remove", path))
    }

    fn remove_empty_directory(&self, path: &str) -> Result<(), BaseError> {
        let removed =
            self.parent(path).and_then(|(parent, name)| rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR));
        match removed {
            Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY) => Ok(()),
            Err(error) => Err(failed("remove", path)(error)),
        }
    }

    fn remove_if_empty(&self, path: &str) -> Result<(), BaseError> {
        match self.kind(path)? {
            Some(FileType::Directory) if self.list(path)?.is_empty() => self.remove_empty_directory(path),
            _ => Ok(()),
        }
    }

    /// Removes a directory and those below it that have no files.
    fn remove_empty_directories(&self, path: &str) -> Result<(), BaseError> {
        for name in self.list(path)? {
            let below = format!("{path}/{name}");
            if self.kind(&below)? == Some(FileType::Directory) {
                self.remove_empty_directories(&below)?;
            }
        }
        self.remove_if_empty(path)
    }

    fn make_directory(&self, path: &str, mode: u32) -> Result<(), BaseError> {
        let (parent, name) = self.parent(path).map_err(failed("find", path))?;
        rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(mode)).map_err(failed("make", path))
    }
}

/// Splits a path into that of a directory and a name in it.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn path_text(path: &[u8]) -> Result<String, BaseError> {
    String::from_utf8(path.to_vec())
        .map_err(|error| failed("make", &String::from_utf8_lossy(path))(io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        disk::make_directories(path.parent().expect("it has one")).expect("writable");
        disk::replace(&path, text.as_bytes()).expect("writable");
    }

    #[test]
    fn layout_is_undone_and_links_do_not_lead_out() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (root, outside) = (directory.path().join("root"), directory.path().join("outside"));
        fs::create_dir(&outside).expect("writable");
        write(&root, "usr/etc/passwd", "root:x:0:0::/:\n");
        write(&root, "usr/lib/opt/app/run", "x");
        write(&root, "usr/lib/opt/mixed/bin/run", "x");
        write(&root, "usr/lib/usrlocal/bin/tool", "x");
        write(&root, "usr/share/factory/var/lib/a/state", "state");
        let own = nix::unistd::getuid();
        write(
            &root,
            "usr/lib/tmpfiles.d/sapwood-var.conf",
            &format!(
                "# Written by sapwood compose: what packages put into /var.\nd /var/lib 0755 {own} {own} - -\n\
                 d /var/lib/a 0750 {own} {own} - -\nC /var/lib/a/state - - - - /usr/share/factory/var/lib/a/state\n\
                 d /var/opt 0755 {own} {own} - -\nL /var/opt/app - - - - ../../usr/lib/opt/app\n\
                 d /var/opt/mixed 0755 {own} {own} - -\nL /var/opt/mixed/bin - - - - ../../../usr/lib/opt/mixed/bin\n\
                 d /var/usrlocal 0755 {own} {own} - -\nd /var/usrlocal/bin 0755 {own} {own} - -\n\
                 L /var/usrlocal/bin/tool - - - - ../../../usr/lib/usrlocal/bin/tool\n\
                 L /var/out - - - - {}\nd /var/roothome 0700 {own} {own} - -\nd /var/out/x 0755 {own} {own} - -\n",
                outside.display()
            ),
        );
        for made in ["etc", "var"] {
            fs::create_dir(root.join(made)).expect("writable");
        }
        for (link, target) in
            [("opt", "var/opt"), ("root", "var/roothome"), ("home", "var/home"), ("media", "run/media")]
        {
            symlink(target, root.join(link)).expect("writable");
        }
        symlink("../var/usrlocal", root.join("usr/local")).expect("writable");
        undo_layout(&root).expect("undone");
        assert_eq!(fs::read_to_string(root.join("etc/passwd")).expect("moved"), "root:x:0:0::/:\n");
        assert_eq!(fs::read_to_string(root.join("var/lib/a/state")).expect("moved"), "state");
        assert_eq!(fs::metadata(root.join("var/lib/a")).expect("made").permissions().mode() & 0o7777, 0o750);
        for moved in ["opt/app/run", "opt/mixed/bin/run", "usr/local/bin/tool"] {
            assert_eq!(fs::read_to_string(root.join(moved)).expect(moved), "x");
        }
        for gone in [
            "usr/lib/usrlocal",
            "usr/etc",
            "usr/share/factory",
            "usr/lib/opt",
            "usr/lib/tmpfiles.d/sapwood-var.conf",
            "var/opt",
        ] {
            assert!(fs::symlink_metadata(root.join(gone)).is_err(), "{gone}");
        }
        for made in ["root", "home", "media", "opt"] {
            assert!(fs::symlink_metadata(root.join(made)).expect("there").is_dir(), "{made}");
        }
        assert_eq!(fs::read_dir(&outside).expect("listable").count(), 0, "a link leads out");
    }

    #[test]
    fn a_line_that_is_not_understood_is_an_error() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        write(directory.path(), "usr/lib/tmpfiles.d/sapwood-var.conf", "x /var/lib\n");
        write(directory.path(), "usr/etc/passwd", "root:x:0:0::/:\n");
        let error = undo_layout(directory.path()).expect_err("refused");
        assert!(error.to_string().contains("sapwood-var.conf"), "{error}");
    }
}
