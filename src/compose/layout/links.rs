//! The top of the tree: what belongs to the machine becomes a link into `/var`, mount points are empty directories.

use super::super::draft::{Draft, join, words};
use super::super::treefile::OptUsrLocal;
use super::LayoutError;
use crate::model::NodeKind;

/// Directories of the machine: where they were, where in `/var` they are.
const MACHINE: [(&str, &str); 4] =
    [("/home", "/var/home"), ("/root", "/var/roothome"), ("/srv", "/var/srv"), ("/mnt", "/var/mnt")];

/// Directories that something is mounted on, or that a deployment fills, with their modes.
const EMPTY: [(&str, u16); 7] = [
    ("/boot", 0o755),
    ("/dev", 0o755),
    ("/proc", 0o555),
    ("/run", 0o755),
    ("/sys", 0o555),
    ("/sysroot", 0o755),
    ("/var", 0o755),
];

/// Everything else that may be at the top.
const KNOWN: [&str; 14] = [
    "bin", "sbin", "lib", "lib32", "lib64", "libx32", "libo32", "usr", "etc", "tmp", "opt", "media", "sapwood",
    "ostree",
];

/// Where packages that ship something in `/opt` have it in a commit.
const USR_OPT: &str = "/usr/lib/opt";

/// Lays the top out. What was in the directories of the machine is in `/var` afterwards. Returns the names at the top that
/// are kept although a deployed machine will not show them.
///
/// # Errors
/// [`LayoutError::Draft`].
pub fn lay_out(draft: &mut Draft, opt: OptUsrLocal, tmp: Tmp) -> Result<Vec<String>, LayoutError> {
    for (old, new) in MACHINE {
        to_var(draft, old, new, &new[1..])?;
    }
    if opt == OptUsrLocal::Var {
        move_opt(draft)?;
        to_var(draft, "/opt", "/var/opt", "var/opt")?;
        to_var(draft, "/usr/local", "/var/usrlocal", "../var/usrlocal")?;
    }
    draft.symlink("/media", "run/media")?;
    draft.symlink("/sapwood", "sysroot/sapwood")?;
    for (path, mode) in EMPTY {
        if !draft.is_directory(path) {
            draft.remove(path);
        }
        let id = draft.directory(path, mode)?;
        // Its own time is when something was last made in it: a device, by those who can make one.
        let mtime = draft.time();
        let metadata = draft.metadata_mut(id);
        (metadata.permissions, metadata.mtime) = (mode, mtime);
    }
    draft.remove("/tmp");
    match tmp {
        Tmp::Directory => _ = draft.directory("/tmp", 0o1777)?,
        Tmp::Link => draft.symlink("/tmp", "sysroot/tmp")?,
    }
    let is_known = |name: &str| {
        let path = format!("/{name}");
        KNOWN.contains(&name)
            || MACHINE.iter().any(|(old, _)| *old == path)
            || EMPTY.iter().any(|(old, _)| *old == path)
    };
    let names = draft.list("/").into_iter().map(|name| words(name.as_bytes()));
    Ok(names.filter(|name| !is_known(name)).collect())
}

/// What `/tmp` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tmp {
    /// A directory that a tmpfs is mounted on.
    Directory,
    /// A link to the directory of that name on the machine's disk.
    Link,
}

fn to_var(draft: &mut Draft, old: &str, new: &str, target: &str) -> Result<(), LayoutError> {
    match draft.node(old).map(|node| &node.kind) {
        // Somebody has thought of it.
        Some(NodeKind::Symlink(_)) => {}
        Some(NodeKind::Directory) => {
            if draft.is_directory(new) {
                // Packages ship an empty /var/opt as well.
                for name in draft.list(old) {
                    draft.rename(join(old.as_bytes(), name.as_bytes()), join(new.as_bytes(), name.as_bytes()))?;
                }
            } else {
                draft.rename(old, new)?;
            }
            draft.symlink(old, target)?;
        }
        _ => {
            draft.remove(old);
            draft.directory(new, if old == "/root" { 0o700 } else { 0o755 })?;
            draft.symlink(old, target)?;
        }
    }
    Ok(())
}

/// What packages ship in `/opt` changes with them, so it belongs to `/usr`; a link is in its place.
fn move_opt(draft: &mut Draft) -> Result<(), LayoutError> {
    if !draft.is_directory("/opt") {
        return Ok(());
    }
    for name in draft.list("/opt") {
        let (path, target) = (join(b"/opt", name.as_bytes()), join(USR_OPT.as_bytes(), name.as_bytes()));
        draft.rename(&path, &target)?;
        draft.symlink(&path, [b"../..".as_slice(), &target].concat())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_directories_are_links_and_keep_what_was_there() {
        let mut draft = Draft::empty();
        draft.write("/root/.profile", *b"x", 0o644).expect("free");
        draft.write("/opt/app/bin/run", *b"x", 0o755).expect("free");
        draft.directory("/usr/local/bin", 0o2775).expect("free");
        draft.directory("/var/opt", 0o755).expect("free");
        draft.directory("/data", 0o755).expect("free");
        draft.symlink("/home", "elsewhere").expect("free");
        let strange = lay_out(&mut draft, OptUsrLocal::Var, Tmp::Directory).expect("edits");
        assert_eq!(strange, ["data"]);
        for (link, target) in [
            ("/home", "elsewhere"),
            ("/root", "var/roothome"),
            ("/srv", "var/srv"),
            ("/opt", "var/opt"),
            ("/usr/local", "../var/usrlocal"),
            ("/var/opt/app", "../../usr/lib/opt/app"),
            ("/media", "run/media"),
        ] {
            assert_eq!(draft.link_target(link).map(words).as_deref(), Some(target), "{link}");
        }
        for there in ["/var/roothome/.profile", "/var/usrlocal/bin", "/usr/lib/opt/app/bin/run", "/sysroot", "/proc"] {
            assert!(draft.find(there).is_some(), "{there}");
        }
        assert_eq!(draft.node("/tmp").expect("there").metadata.permissions, 0o1777);
        let again = lay_out(&mut draft, OptUsrLocal::Var, Tmp::Link).expect("nothing is done twice");
        assert_eq!((again.len(), draft.link_target("/tmp").map(words).as_deref()), (1, Some("sysroot/tmp")));
    }

    #[test]
    fn opt_may_stay() {
        let mut draft = Draft::empty();
        draft.write("/opt/app", *b"x", 0o755).expect("free");
        lay_out(&mut draft, OptUsrLocal::Root, Tmp::Directory).expect("edits");
        assert!(draft.find("/opt/app").is_some());
    }
}
