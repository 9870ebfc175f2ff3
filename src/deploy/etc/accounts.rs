//! Merges the account files `passwd`, `group`, `shadow`, `gshadow`, `subuid` and `subgid` entry by entry.
//!
//! If they were merged as whole files, they would always be in conflict on a machine with local users, and either the local
//! users or a new system user of the commit would be lost.
//!
//! *Not here*: reading the files. Everything in this file is pure.
//!
//! *Used by* `plan`.

use std::collections::HashMap;

/// The result of merging one account file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountMerge {
    /// The content of the merged file.
    pub text: Vec<u8>,
    /// Descriptions of the conflicts, in which the local version was kept.
    pub(crate) conflicts: Vec<String>,
}

/// The kind of an account file, which determines the meaning of its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountFile {
    /// `passwd`: the third field must be unique.
    Passwd,
    /// `group`: the third field must be unique, the fourth is a list of members.
    Group,
    /// `shadow`.
    Shadow,
    /// `gshadow`: the third and fourth fields are lists.
    GroupShadow,
    /// `subuid` and `subgid`: a name may have several lines.
    Ranges,
}

impl AccountFile {
    /// Returns the kind of the file at this path of `/etc`; `None` if it is not an account file.
    #[must_use]
    pub fn at(path: &[u8]) -> Option<Self> {
        match path {
            b"passwd" => Some(Self::Passwd),
            b"group" => Some(Self::Group),
            b"shadow" => Some(Self::Shadow),
            b"gshadow" => Some(Self::GroupShadow),
            b"subuid" | b"subgid" => Some(Self::Ranges),
            _ => None,
        }
    }

    /// Returns the key that identifies an entry; `None` for a line that is not an entry, or that includes entries of NIS.
    fn key(self, line: &str) -> Option<&str> {
        let name = line.split_once(':')?.0;
        let is_name = !name.is_empty() && !name.starts_with(['+', '-', '#']);
        match self {
            _ if !is_name => None,
            Self::Ranges => Some(line),
            _ => Some(name),
        }
    }

    /// Returns whether a field is a list of names.
    const fn is_list(self, field: usize) -> bool {
        matches!((self, field), (Self::Group, 3) | (Self::GroupShadow, 2 | 3))
    }

    /// Returns the user or group id, which must be unique in the file.
    fn number(self, line: &str) -> Option<&str> {
        match self {
            Self::Passwd | Self::Group => line.split(':').nth(2),
            _ => None,
        }
    }
}

/// Merges one account file.
#[must_use]
pub fn merge(file: AccountFile, old: &[u8], local: &[u8], new: &[u8]) -> AccountMerge {
    let texts = [old, local, new].map(text_of);
    let [old, local, new] = [0, 1, 2].map(|side| texts[side].split_terminator('\n').collect::<Vec<_>>());
    let entries = |lines: &[&str]| -> HashMap<String, String> {
        lines.iter().filter_map(|line| Some((file.key(line)?.to_owned(), (*line).to_owned()))).collect()
    };
    let (old_entries, new_entries) = (entries(&old), entries(&new));
    let local_keys: Vec<&str> = local.iter().filter_map(|line| file.key(line)).collect();
    let mut conflicts = Vec::new();
    let mut result: Vec<String> = Vec::new();
    for line in &local {
        let Some(key) = file.key(line) else {
            result.push((*line).to_owned());
            continue;
        };
        let base = old_entries.get(key).map(String::as_str);
        match (base, new_entries.get(key).map(String::as_str)) {
            (Some(base), new) if base == *line => result.extend(new.map(str::to_owned)),
            (_, None) => result.push((*line).to_owned()),
            (base, Some(new)) => result.push(merge_fields(file, key, base, line, new, &mut conflicts)),
        }
    }
    // Lines for NIS stay last, since they apply to everything behind them.
    let end = result.iter().rposition(|line| file.key(line).is_some()).map_or(0, |last| last + 1);
    let mut added = Vec::new();
    for line in &new {
        let Some(key) = file.key(line).filter(|key| !local_keys.contains(key) && !old_entries.contains_key(*key))
        else {
            continue;
        };
        let holder =
            file.number(line).and_then(|number| result.iter().find(|other| file.number(other) == Some(number)));
        match holder.and_then(|other| file.key(other)) {
            Some(other) => conflicts.push(format!(
                "'{key}' of the new defaults has number {}, which '{other}' has here: it was left out",
                file.number(line).unwrap_or_default()
            )),
            None => added.push((*line).to_owned()),
        }
    }
    result.splice(end..end, added);
    let mut text = result.join("\n");
    if !text.is_empty() {
        text.push('\n');
    }
    let to_utf8 = |conflict: &String| String::from_utf8_lossy(&bytes_of(conflict)).into_owned();
    AccountMerge { text: bytes_of(&text), conflicts: conflicts.iter().map(to_utf8).collect() }
}

/// Returns one character for each byte, so that text which is not UTF-8, such as the name of a user, is preserved.
fn text_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// Reverses [`text_of`].
fn bytes_of(text: &str) -> Vec<u8> {
    text.chars().map(|character| u8::try_from(character).unwrap_or(b'?')).collect()
}

/// Merges an entry that the administrator and the new defaults both changed, field by field.
fn merge_fields(
    file: AccountFile,
    key: &str,
    old: Option<&str>,
    local: &str,
    new: &str,
    conflicts: &mut Vec<String>,
) -> String {
    if old == Some(new) || local == new {
        return local.to_owned();
    }
    let split = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
    let (local_fields, new_fields) = (split(local), split(new));
    let base = old.map(split).filter(|base| base.len() == local_fields.len());
    if local_fields.len() != new_fields.len() {
        conflicts.push(format!("'{key}' was changed here and in the new defaults"));
        return local.to_owned();
    }
    let mut merged = Vec::with_capacity(local_fields.len());
    for (field, (local, new)) in local_fields.iter().zip(&new_fields).enumerate() {
        let base = base.as_ref().map(|base| &base[field]);
        merged.push(if file.is_list(field) {
            merge_members(base.map_or("", String::as_str), local, new)
        } else if Some(local) == base {
            new.clone()
        } else {
            if local != new && Some(new) != base {
                conflicts.push(format!("field {} of '{key}' was changed here and in the new defaults", field + 1));
            }
            local.clone()
        });
    }
    merged.join(":")
}

/// Merges lists of names as sets: a name that either side added is in the result, a name that either side removed is not.
fn merge_members(old: &str, local: &str, new: &str) -> String {
    let list = |text: &str| text.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    let (old, local, new) = (list(old), list(local), list(new));
    let mut merged: Vec<String> =
        local.iter().filter(|name| new.contains(name) || !old.contains(name)).cloned().collect();
    merged.extend(new.iter().filter(|name| !old.contains(name) && !local.contains(name)).cloned());
    merged.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(file: AccountFile, [old, local, new]: [&str; 3], expected: &str, conflicts: usize) {
        let text = |lines: &str| {
            lines.split(' ').filter(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect::<String>()
        };
        let merged = merge(file, text(old).as_bytes(), text(local).as_bytes(), text(new).as_bytes());
        assert_eq!(String::from_utf8_lossy(&merged.text), text(expected), "{old} | {local} | {new}");
        assert_eq!(merged.conflicts.len(), conflicts, "{:?}", merged.conflicts);
    }

    #[test]
    fn merge_keeps_local_users_and_adds_system_users() {
        use AccountFile::{Group, GroupShadow, Passwd, Ranges, Shadow};
        let root = "root:x:0:0::/root:/bin/sh";
        let (me, svc) = ("me:x:1000:1000::/home/me:/bin/sh", "svc:x:101:101::/:/bin/false");
        let join = |parts: &[&str]| parts.join(" ");
        check(Passwd, [root, &join(&[root, me]), &join(&[root, svc])], &join(&[root, me, svc]), 0);
        // before the lines for NIS
        check(
            Passwd,
            [root, &join(&[root, me, "+::::::"]), &join(&[root, svc])],
            &join(&[root, me, svc, "+::::::"]),
            0,
        );
        // each side changed another field
        let zsh = "root:x:0:0::/root:/bin/zsh";
        let home = "root:x:0:0::/var/roothome:/bin/sh";
        check(Passwd, [root, zsh, home], "root:x:0:0::/var/roothome:/bin/zsh", 0);
        check(Passwd, [root, zsh, "root:x:0:0::/root:/bin/bash"], zsh, 1);
        // deleted locally: stays deleted, also if the default changed it; removed by the default and unchanged locally: removed
        check(Passwd, [&join(&[root, svc]), root, &join(&[root, "svc:x:101:101::/srv:/bin/false"])], root, 0);
        check(Passwd, [&join(&[root, svc]), &join(&[root, svc, me]), root], &join(&[root, me]), 0);
        // the same number twice
        check(
            Passwd,
            [root, &join(&[root, "mine:x:101:1::/:/bin/sh"]), &join(&[root, svc])],
            &join(&[root, "mine:x:101:1::/:/bin/sh"]),
            1,
        );
        check(Group, ["adm:x:4:", "adm:x:4:me", "adm:x:4:syslog"], "adm:x:4:me,syslog", 0);
        check(Group, ["adm:x:4:a,b", "adm:x:4:b,me", "adm:x:4:a,b,c"], "adm:x:4:b,me,c", 0);
        check(GroupShadow, ["adm:*::", "adm:*:boss:me", "adm:*::syslog"], "adm:*:boss:me,syslog", 0);
        check(
            Shadow,
            ["root:*:1:::::::", "root:$6$x:2:::::::", "root:*:1::::::: svc:!:3:::::::"],
            "root:$6$x:2::::::: svc:!:3:::::::",
            0,
        );
        check(Ranges, ["", "me:100000:65536", "svc:200000:65536"], "me:100000:65536 svc:200000:65536", 0);
        check(Ranges, ["a:1:1 a:2:1", "a:1:1 a:2:1 me:5:1", "a:1:1"], "a:1:1 me:5:1", 0);
    }

    #[test]
    fn merge_keeps_local_lines_that_are_no_entries() {
        check(AccountFile::Passwd, ["", "#x:y garbage", "a:x:1:1:::"], "a:x:1:1::: #x:y garbage", 0);
        check(AccountFile::Passwd, ["", "", ""], "", 0);
        let odd = b"me:x:1:1:Andr\xe9 J\xc3\xb6:/home/me:/bin/sh\r\r\n";
        assert_eq!(merge(AccountFile::Passwd, b"", odd, b"").text, odd);
        let clash = merge(AccountFile::Passwd, b"", odd, "ö:x:1:1:::\n".as_bytes());
        assert!(clash.conflicts[0].starts_with("'ö' of the new defaults"), "{:?}", clash.conflicts);
    }
}
