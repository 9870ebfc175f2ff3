//! Lays out the top of the tree: the machine's directories become links into `/var`, mount points are empty directories.

use super::super::staged::{StagedTree, join, lossy_text};
use super::super::treefile::OptUsrLocal;
use super::LayoutError;
use crate::model::NodeKind;

/// Directories that belong to the machine: their path, and their path in `/var`.
pub(crate) const MACHINE_DIRECTORIES: [(&str, &str); 4] =
    [("/home", "/var/home"), ("/root", "/var/roothome"), ("/srv", "/var/srv"), ("/mnt", "/var/mnt")];

/// Directories that are mount points, or that a deployment fills, with their modes.
const MOUNT_POINTS: [(&str, u16); 7] = [
    ("/boot", 0o755),
    ("/dev", 0o755),
    ("/proc", 0o555),
    ("/run", 0o755),
    ("/sys", 0o555),
    ("/sysroot", 0o755),
    ("/var", 0o755),
];

/// The other names that may be at the top.
const KNOWN_NAMES: [&str; 14] = [
    "bin", "sbin", "lib", "lib32", "lib64", "libx32", "libo32", "usr", "etc", "tmp", "opt", "media", "sapwood",
    "ostree",
];

/// The directory in a commit for what packages install in `/opt`.
pub(crate) const USR_OPT: &str = "/usr/lib/opt";

/// The directory in a commit for the files in `/usr/local`.
pub(crate) const USR_LOCAL: &str = "/usr/lib/usrlocal";

/// Lays out the top. The content of the machine's directories moves to `/var`. Returns the names at the top that are kept
/// although a deployed machine does not show them.
pub(crate) fn lay_out(staged: &mut StagedTree, opt: OptUsrLocal, tmp: TmpKind) -> Result<Vec<String>, LayoutError> {
    for (old, new) in MACHINE_DIRECTORIES {
        move_to_var(staged, old, new, &new[1..])?;
    }
    if opt == OptUsrLocal::Var {
        move_opt_to_usr(staged)?;
        move_local_to_usr(staged)?;
    }
    if opt != OptUsrLocal::Root {
        move_to_var(staged, "/opt", "/var/opt", "var/opt")?;
        move_to_var(staged, "/usr/local", "/var/usrlocal", "../var/usrlocal")?;
    }
    staged.symlink("/media", "run/media")?;
    staged.symlink("/sapwood", "sysroot/sapwood")?;
    for (path, mode) in MOUNT_POINTS {
        if !staged.is_directory(path) {
            staged.remove(path);
        }
        let id = staged.ensure_directory(path, mode)?;
        // Its own time would be that of the last entry made in it, for example a device, which only root can make.
        let mtime = staged.edit_time();
        let metadata = staged.metadata_mut(id);
        (metadata.permissions, metadata.mtime) = (mode, mtime);
    }
    staged.remove("/tmp");
    match tmp {
        TmpKind::Directory => _ = staged.ensure_directory("/tmp", 0o1777)?,
        TmpKind::Link => staged.symlink("/tmp", "sysroot/tmp")?,
    }
    let is_known = |name: &str| {
        let path = format!("/{name}");
        KNOWN_NAMES.contains(&name)
            || MACHINE_DIRECTORIES.iter().any(|(old, _)| *old == path)
            || MOUNT_POINTS.iter().any(|(old, _)| *old == path)
    };
    let names = staged.list("/").into_iter().map(|name| lossy_text(name.as_bytes()));
    Ok(names.filter(|name| !is_known(name)).collect())
}

/// What `/tmp` is in a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TmpKind {
    /// A directory on which a tmpfs is mounted.
    Directory,
    /// A link to the directory of that name on the machine's disk.
    Link,
}

fn move_to_var(staged: &mut StagedTree, old: &str, new: &str, target: &str) -> Result<(), LayoutError> {
    match staged.node(old).map(|node| &node.kind) {
        // The packages have made a link of their own.
        Some(NodeKind::Symlink(_)) => {}
        Some(NodeKind::Directory) => {
            if staged.is_directory(new) {
                // Packages ship an empty /var/opt as well.
                for name in staged.list(old) {
                    staged.rename(join(old.as_bytes(), name.as_bytes()), join(new.as_bytes(), name.as_bytes()))?;
                }
            } else {
                staged.rename(old, new)?;
            }
            staged.symlink(old, target)?;
        }
        _ => {
            staged.remove(old);
            staged.ensure_directory(new, if old == "/root" { 0o700 } else { 0o755 })?;
            staged.symlink(old, target)?;
        }
    }
    Ok(())
}

/// Moves what packages ship in `/opt` to `/usr`, since it changes with the packages, and leaves links in `/var/opt`. Where a package
/// has its state in the directory of the same name there, that stays a directory, and what the package has in it becomes links.
fn move_opt_to_usr(staged: &mut StagedTree) -> Result<(), LayoutError> {
    let mut pending = vec![Vec::new()];
    while let Some(directory) = pending.pop() {
        for name in staged.list([b"/opt", &directory[..]].concat()) {
            let below = join(&directory, name.as_bytes());
            let [old, shown, new] = ["/opt", "/var/opt", USR_OPT].map(|top| [top.as_bytes(), &below].concat());
            if staged.is_directory(&old) && staged.is_directory(&shown) {
                pending.push(below);
            } else if staged.find(&shown).is_some() {
                return Err(LayoutError::BothOpt { opt: lossy_text(&old), var: lossy_text(&shown) });
            } else {
                staged.rename(&old, &new)?;
                staged.symlink(&shown, relative_link(&shown, &new))?;
            }
        }
    }
    staged.clear("/opt");
    Ok(())
}

/// Moves the files in `/usr/local` to `/usr`, and leaves links: so they change with the commit, and a machine can have files of its
/// own in the same directories.
fn move_local_to_usr(staged: &mut StagedTree) -> Result<(), LayoutError> {
    for (path, id) in staged.descendants("/usr/local") {
        if matches!(staged.tree().node(id).kind, NodeKind::Directory | NodeKind::Symlink(_)) {
            continue;
        }
        let below = &path["/usr/local".len()..];
        let [shown, new] = ["/var/usrlocal", USR_LOCAL].map(|top| [top.as_bytes(), below].concat());
        staged.rename(&path, &new)?;
        staged.symlink(&path, relative_link(&shown, &new))?;
    }
    Ok(())
}

/// Returns the target of a link at `from` that leads to `to`, both from the top.
fn relative_link(from: &[u8], to: &[u8]) -> Vec<u8> {
    let depth = from.iter().filter(|byte| **byte == b'/').count() - 1;
    ["../".repeat(depth).as_bytes(), &to[1..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_directories_become_links_and_keep_content() {
        let mut staged = StagedTree::empty();
        staged.write("/root/.profile", *b"x", 0o644).expect("free");
        staged.write("/opt/app/bin/run", *b"x", 0o755).expect("free");
        staged.ensure_directory("/usr/local/bin", 0o2775).expect("free");
        staged.ensure_directory("/var/opt", 0o755).expect("free");
        staged.ensure_directory("/data", 0o755).expect("free");
        staged.symlink("/home", "elsewhere").expect("free");
        let unknown_names = lay_out(&mut staged, OptUsrLocal::Var, TmpKind::Directory).expect("edits");
        assert_eq!(unknown_names, ["data"]);
        for (link, target) in [
            ("/home", "elsewhere"),
            ("/root", "var/roothome"),
            ("/srv", "var/srv"),
            ("/opt", "var/opt"),
            ("/usr/local", "../var/usrlocal"),
            ("/var/opt/app", "../../usr/lib/opt/app"),
            ("/media", "run/media"),
        ] {
            assert_eq!(staged.link_target(link).map(lossy_text).as_deref(), Some(target), "{link}");
        }
        for there in ["/var/roothome/.profile", "/var/usrlocal/bin", "/usr/lib/opt/app/bin/run", "/sysroot", "/proc"] {
            assert!(staged.find(there).is_some(), "{there}");
        }
        assert_eq!(staged.node("/tmp").expect("there").metadata.permissions, 0o1777);
        let again = lay_out(&mut staged, OptUsrLocal::Var, TmpKind::Link).expect("nothing is done twice");
        assert_eq!((again.len(), staged.link_target("/tmp").map(lossy_text).as_deref()), (1, Some("sysroot/tmp")));
    }

    #[test]
    fn state_below_opt_stays_and_programs_become_links() {
        let mut staged = StagedTree::empty();
        for file in ["/opt/acme/bin/run", "/opt/acme/conf/a", "/var/opt/acme/conf/state", "/var/opt/acme/db", "/opt/b"]
        {
            staged.write(file, *b"x", 0o644).expect("free");
        }
        lay_out(&mut staged, OptUsrLocal::Var, TmpKind::Link).expect("edits");
        for (link, target) in [
            ("/opt", "var/opt"),
            ("/var/opt/acme/bin", "../../../usr/lib/opt/acme/bin"),
            ("/var/opt/acme/conf/a", "../../../../usr/lib/opt/acme/conf/a"),
            ("/var/opt/b", "../../usr/lib/opt/b"),
        ] {
            assert_eq!(staged.link_target(link).map(lossy_text).as_deref(), Some(target), "{link}");
        }
        for kept in ["/var/opt/acme/db", "/var/opt/acme/conf/state", "/usr/lib/opt/acme/bin/run"] {
            assert!(staged.find(kept).is_some(), "{kept}");
        }
        let mut staged = StagedTree::empty();
        staged.write("/opt/acme/x", *b"program", 0o644).expect("free");
        staged.write("/var/opt/acme/x", *b"state", 0o644).expect("free");
        let error = lay_out(&mut staged, OptUsrLocal::Var, TmpKind::Link).expect_err("both are files");
        assert!(matches!(error, LayoutError::BothOpt { .. }), "{error}");
    }

    #[test]
    fn files_in_usr_local_follow_the_commit_or_are_copied() {
        let local = || {
            let mut staged = StagedTree::empty();
            staged.write("/usr/local/bin/tool", *b"x", 0o4755).expect("free");
            staged.symlink("/usr/local/man", "share/man").expect("free");
            staged
        };
        let mut staged = local();
        lay_out(&mut staged, OptUsrLocal::Var, TmpKind::Link).expect("edits");
        let target = staged.link_target("/var/usrlocal/bin/tool").map(lossy_text);
        assert_eq!(target.as_deref(), Some("../../../usr/lib/usrlocal/bin/tool"));
        assert_eq!(staged.link_target("/var/usrlocal/man").map(lossy_text).as_deref(), Some("share/man"));
        let moved = staged.node("/usr/lib/usrlocal/bin/tool").expect("moved");
        assert_eq!(moved.metadata.permissions, 0o4755);
        let mut staged = local();
        lay_out(&mut staged, OptUsrLocal::Machine, TmpKind::Link).expect("edits");
        assert!(staged.link_target("/var/usrlocal/bin/tool").is_none());
        assert!(staged.find("/var/usrlocal/bin/tool").is_some());
    }

    #[test]
    fn opt_stays_in_the_commit_if_asked_for() {
        let mut staged = StagedTree::empty();
        staged.write("/opt/app", *b"x", 0o755).expect("free");
        lay_out(&mut staged, OptUsrLocal::Root, TmpKind::Directory).expect("edits");
        assert!(staged.find("/opt/app").is_some());
    }
}
