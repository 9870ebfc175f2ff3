//! Converts `/var` to lines of `tmpfiles.d` and empties it: `/var` belongs to the machine, which makes what is missing at
//! boot.
//!
//! | in the root | becomes |
//! | --- | --- |
//! | a directory | `d PATH MODE USER GROUP - -` |
//! | a symbolic link | `L PATH - - - - TARGET` |
//! | an empty file | `f PATH MODE USER GROUP - -` |
//! | a file | `C PATH - - - - /usr/share/factory/var/…`, and the file moves there |
//! | a fifo, a device | `p`, `c`, `b` |
//!
//! A path for which a package has a line of its own gets no line here. A directory in a directory that belongs to another user than
//! root or its own is copied as a whole (`C`): tmpfiles makes nothing below it, since that user could exchange it meanwhile.

use std::collections::BTreeSet;

use super::super::staged::{StagedTree, lossy_text};
use super::LayoutError;
use super::users::AccountTable;
use crate::model::{Metadata, NodeKind};

/// The file with the lines.
pub(crate) const TMPFILES_FILE: &str = "/usr/lib/tmpfiles.d/sapwood-var.conf";

/// The directory from which tmpfiles.d copies files.
pub(crate) const FACTORY_DIRECTORY: &str = "/usr/share/factory";

/// The fields for mode, user and group of what has none of its own.
const NO_OWNER: &str = "- - -";

/// Writes the lines and empties `/var`.
pub(crate) fn convert_to_tmpfiles(staged: &mut StagedTree) -> Result<(), LayoutError> {
    let names = AccountNames::read(staged)?;
    let declared = declared_paths(staged)?;
    let mut lines: BTreeSet<(Vec<u8>, Vec<u8>)> = BTreeSet::new();
    for (path, id) in staged.descendants("/var") {
        // What is below a directory that is copied is no longer there.
        let is_below_copied = staged.find(&path).is_none();
        if is_below_copied || declared.contains(&path) {
            continue;
        }
        let is_copied = is_unsafe_directory(staged, &path);
        let node = staged.tree().node(id);
        let (metadata, shown) = (&node.metadata, quote_path(&path)?);
        let owned = |letter| (letter, names.mode_and_owner(metadata), "-".to_owned());
        let (letter, owner, argument) = match &node.kind {
            NodeKind::Directory if !is_copied => owned("d"),
            NodeKind::Symlink(target) => ("L", NO_OWNER.to_owned(), escape_argument(target)),
            NodeKind::Regular(content) if content.size == 0 => owned("f"),
            NodeKind::Directory | NodeKind::Regular(_) => {
                let factory = [FACTORY_DIRECTORY.as_bytes(), &path].concat();
                let argument = escape_argument(&factory);
                staged.rename(&path, &factory)?;
                ("C", NO_OWNER.to_owned(), argument)
            }
            NodeKind::Fifo => owned("p"),
            NodeKind::CharDevice(device) => {
                ("c", names.mode_and_owner(metadata), format!("{}:{}", device.major, device.minor))
            }
            NodeKind::BlockDevice(device) => {
                ("b", names.mode_and_owner(metadata), format!("{}:{}", device.major, device.minor))
            }
            NodeKind::Socket => continue,
        };
        let line =
            [letter.as_bytes(), b" ", &shown, b" ", owner.as_bytes(), b" - ", argument.as_bytes(), b"\n"].concat();
        lines.insert((path, line));
    }
    staged.clear("/var");
    if !lines.is_empty() {
        let mut text = Vec::from("# Written by sapwood compose: what packages put into /var.\n");
        lines.iter().for_each(|(_, line)| text.extend(line));
        staged.write(TMPFILES_FILE, text, 0o644)?;
    }
    Ok(())
}

/// Returns whether a path is a directory with entries whose parent belongs to a user who is neither root nor its owner.
fn is_unsafe_directory(staged: &StagedTree, path: &[u8]) -> bool {
    let parent = path.iter().rposition(|byte| *byte == b'/').and_then(|at| staged.node(&path[..at]));
    let (Some(parent), Some(node)) = (parent, staged.node(path)) else { return false };
    let is_other = parent.metadata.uid != 0 && parent.metadata.uid != node.metadata.uid;
    is_other && node.kind == NodeKind::Directory && !staged.list(path).is_empty()
}

/// The names of users and groups by id.
struct AccountNames {
    users: AccountTable,
    groups: AccountTable,
}

impl AccountNames {
    fn read(staged: &StagedTree) -> Result<Self, LayoutError> {
        let text = |path| staged.read_text(path).map(Option::unwrap_or_default);
        Ok(Self {
            users: AccountTable::parse("/etc/passwd", &text("/etc/passwd")?)?,
            groups: AccountTable::parse("/etc/group", &text("/etc/group")?)?,
        })
    }

    /// Returns the fields `MODE USER GROUP`; an id without a name stays a number.
    fn mode_and_owner(&self, metadata: &Metadata) -> String {
        let name = |table: &AccountTable, id: u32| table.name(id).map_or_else(|| id.to_string(), str::to_owned);
        let (user, group) = (name(&self.users, metadata.uid), name(&self.groups, metadata.gid));
        format!("{:04o} {user} {group}", metadata.permissions)
    }
}

/// Returns the paths for which packages have lines.
fn declared_paths(staged: &StagedTree) -> Result<BTreeSet<Vec<u8>>, LayoutError> {
    let mut paths = BTreeSet::new();
    for directory in ["/usr/lib/tmpfiles.d", "/etc/tmpfiles.d"] {
        for name in staged.list(directory) {
            let file = [directory.as_bytes(), b"/", name.as_bytes()].concat();
            if !file.ends_with(b".conf") || staged.link_target(&file).is_some() {
                continue;
            }
            let bytes = staged.read(&file)?.unwrap_or_default();
            for line in String::from_utf8_lossy(&bytes).lines() {
                let mut fields = line.split_whitespace();
                let (Some(kind), Some(path)) = (fields.next(), fields.next()) else { continue };
                // Lines of other types only adjust or remove; they make nothing.
                if kind.starts_with(['d', 'D', 'v', 'q', 'Q', 'f', 'F', 'L', 'C', 'p']) {
                    paths.insert(path.trim_end_matches('/').as_bytes().to_vec());
                }
            }
        }
    }
    Ok(paths)
}

/// Returns a path as the second field of a line. Until systemd 253 a backslash there only takes the meaning from the next byte,
/// later `\x20` is a blank; `\\` and `\"` between quotes are the same to both. `%` would start a specifier.
fn quote_path(path: &[u8]) -> Result<Vec<u8>, LayoutError> {
    if path.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        return Err(LayoutError::UnwritableName(lossy_text(path)));
    }
    let mut quoted = Vec::from(b"\"");
    for byte in path {
        match byte {
            b'%' => quoted.extend(b"%%"),
            b'\\' | b'"' => quoted.extend([b'\\', *byte]),
            _ => quoted.push(*byte),
        }
    }
    quoted.push(b'"');
    let is_plain = path.iter().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'"' | b'\''));
    Ok(if is_plain { quoted[1..quoted.len() - 1].to_vec() } else { quoted })
}

/// Returns a path as the last field of a line, in which escapes are as in C. `%` would start a specifier.
fn escape_argument(path: &[u8]) -> String {
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
    fn var_is_emptied_and_tmpfiles_lines_recreate_it() {
        let mut staged = StagedTree::empty();
        staged.write("/etc/passwd", *b"root:x:0:0::/:\nman:x:6:12::/:\n", 0o644).expect("free");
        staged.write("/etc/group", *b"root:x:0:\n", 0o644).expect("free");
        staged
            .write("/usr/lib/tmpfiles.d/var.conf", *b"# x\nd /var/log 0755 - - -\nz /var/other\n", 0o644)
            .expect("free");
        let cache = staged.ensure_directory("/var/cache/man", 0o2755).expect("free");
        staged.metadata_mut(cache).uid = 6;
        staged.metadata_mut(cache).gid = 12;
        staged.ensure_directory("/var/log", 0o755).expect("free");
        staged.ensure_directory("/var/other", 0o755).expect("free");
        staged.symlink("/var/run", "/run").expect("free");
        staged.write("/var/lib/x/a b%", *b"content", 0o600).expect("free");
        staged.write("/var/lib/x/empty", *b"", 0o640).expect("free");
        staged.write("/var/cache/man/of root/file", *b"", 0o640).expect("free");
        convert_to_tmpfiles(&mut staged).expect("edits");
        assert!(staged.list("/var").is_empty() && staged.is_directory("/var"));
        let lines = staged.read_text(TMPFILES_FILE).expect("a file").expect("there");
        let expected = "\
# Written by sapwood compose: what packages put into /var.
d /var/cache 0755 root root - -
d /var/cache/man 2755 man 12 - -
C \"/var/cache/man/of root\" - - - - /usr/share/factory/var/cache/man/of\\x20root
d /var/lib 0755 root root - -
d /var/lib/x 0755 root root - -
C \"/var/lib/x/a b%%\" - - - - /usr/share/factory/var/lib/x/a\\x20b%%
f /var/lib/x/empty 0640 root root - -
d /var/other 0755 root root - -
L /var/run - - - - /run
";
        assert_eq!(lines, expected);
        assert_eq!(staged.read("/usr/share/factory/var/lib/x/a b%").expect("a file"), Some(b"content".to_vec()));
        assert_eq!(staged.node("/usr/share/factory/var/lib/x/a b%").expect("there").metadata.permissions, 0o600);
    }

    #[test]
    fn empty_var_gets_no_tmpfiles_lines() {
        let mut staged = StagedTree::empty();
        staged.ensure_directory("/var", 0o755).expect("free");
        convert_to_tmpfiles(&mut staged).expect("edits");
        assert!(staged.find(TMPFILES_FILE).is_none());
    }
}
