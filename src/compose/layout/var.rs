//! `/var` becomes lines of `tmpfiles.d` and is emptied: it belongs to the machine, which makes what is missing at boot.
//!
//! | in the root | becomes |
//! | --- | --- |
//! | a directory | `d PATH MODE USER GROUP - -` |
//! | a symbolic link | `L PATH - - - - TARGET` |
//! | an empty file | `f PATH MODE USER GROUP - -` |
//! | a file | `C PATH - - - - /usr/share/factory/var/…`, and the file is there |
//! | a fifo, a device | `p`, `c`, `b` |
//!
//! A path for which a package has a line of its own gets none from here.

use std::collections::BTreeSet;

use super::super::draft::{Draft, words};
use super::LayoutError;
use super::users::Table;
use crate::model::{Metadata, NodeKind};

/// The file with the lines.
pub const TMPFILES: &str = "/usr/lib/tmpfiles.d/sapwood-var.conf";

/// Where files are copied from.
const FACTORY: &str = "/usr/share/factory";

/// Writes the lines and empties `/var`.
///
/// # Errors
/// [`LayoutError`].
pub fn empty(draft: &mut Draft) -> Result<(), LayoutError> {
    let names = Names::read(draft)?;
    let declared = declared(draft)?;
    let mut lines = BTreeSet::new();
    for (path, id) in draft.below("/var") {
        if declared.contains(&path) {
            continue;
        }
        let node = draft.tree().node(id);
        let (metadata, shown) = (&node.metadata, escape(&path));
        let owned = |letter: &str| format!("{letter} {shown} {} - -", names.owned(metadata));
        let line = match &node.kind {
            NodeKind::Directory => owned("d"),
            NodeKind::Symlink(target) => format!("L {shown} - - - - {}", escape(target)),
            NodeKind::Regular(content) if content.size == 0 => owned("f"),
            NodeKind::Regular(_) => {
                let factory = [FACTORY.as_bytes(), &path].concat();
                let line = format!("C {shown} - - - - {}", escape(&factory));
                draft.rename(&path, &factory)?;
                line
            }
            NodeKind::Fifo => owned("p"),
            NodeKind::CharDevice(device) => {
                format!("c {shown} {} - {}:{}", names.owned(metadata), device.major, device.minor)
            }
            NodeKind::BlockDevice(device) => {
                format!("b {shown} {} - {}:{}", names.owned(metadata), device.major, device.minor)
            }
            NodeKind::Socket => continue,
        };
        lines.insert((path, line));
    }
    draft.clear("/var");
    if !lines.is_empty() {
        let mut text = String::from("# Written by sapwood compose: what packages put into /var.\n");
        lines.iter().for_each(|(_, line)| text.extend([line, "\n"]));
        draft.write(TMPFILES, text.into_bytes(), 0o644)?;
    }
    Ok(())
}

/// The names behind numbers.
struct Names {
    users: Table,
    groups: Table,
}

impl Names {
    fn read(draft: &Draft) -> Result<Self, LayoutError> {
        let text = |path| draft.text(path).map(Option::unwrap_or_default);
        Ok(Self {
            users: Table::parse("/etc/passwd", &text("/etc/passwd")?)?,
            groups: Table::parse("/etc/group", &text("/etc/group")?)?,
        })
    }

    fn owned(&self, metadata: &Metadata) -> String {
        let name = |table: &Table, id: u32| table.name(id).map_or_else(|| id.to_string(), str::to_owned);
        let (user, group) = (name(&self.users, metadata.uid), name(&self.groups, metadata.gid));
        format!("{:04o} {user} {group}", metadata.permissions)
    }
}

/// The paths that packages have lines for.
fn declared(draft: &Draft) -> Result<BTreeSet<Vec<u8>>, LayoutError> {
    let mut paths = BTreeSet::new();
    for directory in ["/usr/lib/tmpfiles.d", "/etc/tmpfiles.d"] {
        for name in draft.list(directory) {
            let file = [directory.as_bytes(), b"/", name.as_bytes()].concat();
            if !file.ends_with(b".conf") || draft.link_target(&file).is_some() {
                continue;
            }
            let bytes = draft.read(&file)?.unwrap_or_default();
            for line in words(&bytes).lines() {
                let mut fields = line.split_whitespace();
                let (Some(kind), Some(path)) = (fields.next(), fields.next()) else { continue };
                // Lines that only clean up or adjust make nothing.
                if kind.starts_with(['d', 'D', 'v', 'q', 'Q', 'f', 'F', 'L', 'C', 'p']) {
                    paths.insert(path.trim_end_matches('/').as_bytes().to_vec());
                }
            }
        }
    }
    Ok(paths)
}

/// A path as a field of tmpfiles.d: `%` starts a specifier, blanks end a field.
fn escape(path: &[u8]) -> String {
    let mut text = String::new();
    for byte in path {
        match byte {
            b'%' => text.push_str("%%"),
            b'!'..=b'~' if !matches!(byte, b'\\' | b'"' | b'\'') => text.push(char::from(*byte)),
            _ => text.push_str(&format!("\\x{byte:02x}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn var_is_empty_and_its_lines_say_what_was_there() {
        let mut draft = Draft::empty();
        draft.write("/etc/passwd", *b"root:x:0:0::/:\nman:x:6:12::/:\n", 0o644).expect("free");
        draft.write("/etc/group", *b"root:x:0:\n", 0o644).expect("free");
        draft
            .write("/usr/lib/tmpfiles.d/var.conf", *b"# x\nd /var/log 0755 - - -\nz /var/other\n", 0o644)
            .expect("free");
        let cache = draft.directory("/var/cache/man", 0o2755).expect("free");
        draft.metadata_mut(cache).uid = 6;
        draft.metadata_mut(cache).gid = 12;
        draft.directory("/var/log", 0o755).expect("free");
        draft.directory("/var/other", 0o755).expect("free");
        draft.symlink("/var/run", "/run").expect("free");
        draft.write("/var/lib/x/a b%", *b"content", 0o600).expect("free");
        draft.write("/var/lib/x/empty", *b"", 0o640).expect("free");
        empty(&mut draft).expect("edits");
        assert!(draft.list("/var").is_empty() && draft.is_directory("/var"));
        let lines = draft.text(TMPFILES).expect("a file").expect("there");
        let expected = "\
# Written by sapwood compose: what packages put into /var.
d /var/cache 0755 root root - -
d /var/cache/man 2755 man 12 - -
d /var/lib 0755 root root - -
d /var/lib/x 0755 root root - -
C /var/lib/x/a\\x20b%% - - - - /usr/share/factory/var/lib/x/a\\x20b%%
f /var/lib/x/empty 0640 root root - -
d /var/other 0755 root root - -
L /var/run - - - - /run
";
        assert_eq!(lines, expected);
        assert_eq!(draft.read("/usr/share/factory/var/lib/x/a b%").expect("a file"), Some(b"content".to_vec()));
        assert_eq!(draft.node("/usr/share/factory/var/lib/x/a b%").expect("there").metadata.permissions, 0o600);
    }

    #[test]
    fn an_empty_var_needs_no_lines() {
        let mut draft = Draft::empty();
        draft.directory("/var", 0o755).expect("free");
        empty(&mut draft).expect("edits");
        assert!(draft.find(TMPFILES).is_none());
    }
}
