//! Merges the account files `passwd`, `group`, `shadow`, `gshadow`, `subuid` and `subgid` entry by entry.
//!
//! If they were merged as whole files, they would always be in conflict on a machine with local users, and either the local
//! users or a new system user of the commit would be lost.
//!
//! A new system user or group of the defaults whose number is taken here gets the highest number from [`SYSTEM_NUMBERS`] that
//! neither file has; the group of a new user follows. Any other number that is taken is a conflict, and the entry is left out.
//! Entries that share a number in the defaults, too, are meant to, and are added as they are.
//!
//! *Not here*: reading the files. Everything in this file is pure.
//!
//! *Invariants*: a line that the merge does not change keeps its bytes, whatever they are; so does the end of the file.
//!
//! *Used by* `plan`.

use std::collections::{BTreeMap, HashMap, HashSet};

/// The result of merging one account file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountMerge {
    /// The content of the merged file.
    pub text: Vec<u8>,
    /// Descriptions of the conflicts, in which the local version was kept.
    pub conflicts: Vec<String>,
    /// The new entries that have another number than in the defaults, by name.
    pub renumbered: BTreeMap<String, Renumbered>,
}

/// The number of a new entry in the defaults, and the one that it got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renumbered {
    /// The number in the defaults.
    pub from: u32,
    /// The number here.
    pub to: u32,
}

/// The numbers of system users and groups that are given to new entries whose own number is taken, the last first. `adduser` and
/// `systemd-sysusers` use the same ones.
const SYSTEM_NUMBERS: std::ops::RangeInclusive<u32> = 101..=999;

/// The numbers below which an account is one of the system.
const FIRST_USER_NUMBER: u32 = 1000;

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

    /// Returns the user or group id, which must be unique in the file; `None` if the line has none that is a number.
    fn number(self, line: &str) -> Option<u32> {
        match self {
            Self::Passwd | Self::Group => line.split(':').nth(2)?.parse().ok(),
            _ => None,
        }
    }
}

/// Merges one account file.
#[must_use]
pub fn merge(file: AccountFile, old: &[u8], local: &[u8], new: &[u8]) -> AccountMerge {
    merge_with_groups(file, [old, local, new], &BTreeMap::new())
}

/// Merges one account file: the old defaults, the local file and the new defaults. `groups` are the new groups that got another
/// number.
#[must_use]
pub fn merge_with_groups(file: AccountFile, texts: [&[u8]; 3], groups: &BTreeMap<String, Renumbered>) -> AccountMerge {
    let texts = texts.map(text_of);
    let [old, local, new] = [0, 1, 2].map(|side| texts[side].split_terminator('\n').collect::<Vec<_>>());
    let entries = |lines: &[&str]| -> HashMap<String, String> {
        lines.iter().filter_map(|line| Some((file.key(line)?.to_owned(), (*line).to_owned()))).collect()
    };
    let (old_entries, new_entries) = (entries(&old), entries(&new));
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
    let local_keys: HashSet<&str> = local.iter().filter_map(|line| file.key(line)).collect();
    let is_new = |key: &str| !local_keys.contains(key) && !old_entries.contains_key(key);
    let mut additions = Additions::new(file, &result, &new, groups);
    for line in &new {
        if let Some(key) = file.key(line).filter(|key| is_new(key)) {
            additions.add(key, line);
        }
    }
    let Additions { lines: added, renumbered, conflicts: left_out, .. } = additions;
    conflicts.extend(left_out);
    // Lines for NIS stay last, since they apply to everything behind them.
    let end = result.iter().rposition(|line| file.key(line).is_some()).map_or(0, |last| last + 1);
    let is_last_kept = local.last().is_some_and(|last| result.last().is_some_and(|line| line == last));
    let ends_with_addition = end == result.len() && !added.is_empty();
    result.splice(end..end, added);
    let mut text = result.join("\n");
    // Only a local last line without a line end has none in the result.
    let has_no_end = is_last_kept && !ends_with_addition && !texts[1].ends_with('\n');
    if !result.is_empty() && !has_no_end {
        text.push('\n');
    }
    let to_utf8 = |text: &String| String::from_utf8_lossy(&bytes_of(text)).into_owned();
    AccountMerge {
        text: bytes_of(&text),
        conflicts: conflicts.iter().map(to_utf8).collect(),
        renumbered: renumbered.into_iter().map(|(name, number)| (to_utf8(&name), number)).collect(),
    }
}

/// The new entries of the defaults that are added to the local file.
struct Additions<'a> {
    file: AccountFile,
    /// The merged lines, without additions.
    result: &'a [String],
    /// The lines of the new defaults.
    defaults: &'a [&'a str],
    groups: &'a BTreeMap<String, Renumbered>,
    lines: Vec<String>,
    renumbered: BTreeMap<String, Renumbered>,
    conflicts: Vec<String>,
}

impl<'a> Additions<'a> {
    fn new(
        file: AccountFile,
        result: &'a [String],
        defaults: &'a [&'a str],
        groups: &'a BTreeMap<String, Renumbered>,
    ) -> Self {
        let (lines, renumbered, conflicts) = (Vec::new(), BTreeMap::new(), Vec::new());
        Self { file, result, defaults, groups, lines, renumbered, conflicts }
    }

    /// Adds a line of the new defaults, if necessary with another number.
    fn add(&mut self, key: &str, line: &str) {
        let line = self.with_group(line);
        let Some(number) = self.file.number(&line) else { return self.lines.push(line) };
        let Some(holder) = self.holder(number) else { return self.lines.push(line) };
        let free = SYSTEM_NUMBERS.rev().find(|number| !self.is_taken(*number));
        match free.filter(|_| number < FIRST_USER_NUMBER) {
            Some(free) => {
                self.lines.push(with_field(&line, 2, &free.to_string()));
                self.renumbered.insert(key.to_owned(), Renumbered { from: number, to: free });
            }
            None => self.conflicts.push(format!(
                "'{key}' of the new defaults has number {number}, which '{holder}' has here: it was left out"
            )),
        }
    }

    /// Returns a line of `passwd` with the number that its group got here.
    fn with_group(&self, line: &str) -> String {
        let own = (self.file == AccountFile::Passwd).then(|| line.split(':').nth(3)?.parse::<u32>().ok()).flatten();
        match self.groups.values().find(|group| Some(group.from) == own) {
            Some(group) => with_field(line, 3, &group.to.to_string()),
            None => line.to_owned(),
        }
    }

    /// Returns the local entry that has a number, unless it shares that number with others in the defaults, too.
    fn holder(&self, number: u32) -> Option<&'a str> {
        let has_number = |line: &&str| self.file.number(line) == Some(number);
        let is_shared = |key: &str| {
            self.defaults.iter().filter(|line| has_number(line)).any(|line| self.file.key(line) == Some(key))
        };
        let mut holders =
            self.result.iter().map(String::as_str).filter(has_number).filter_map(|line| self.file.key(line));
        holders.find(|key| !is_shared(key))
    }

    fn is_taken(&self, number: u32) -> bool {
        let lines = self.result.iter().chain(&self.lines).map(String::as_str).chain(self.defaults.iter().copied());
        lines.into_iter().any(|line| self.file.number(line) == Some(number))
    }
}

/// Returns a line with another value of one field.
fn with_field(line: &str, index: usize, value: &str) -> String {
    let fields = line.split(':').enumerate().map(|(at, field)| if at == index { value } else { field });
    fields.collect::<Vec<_>>().join(":")
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
        // the number is taken: of the system, it gets a free one; of a user, it is left out
        let mine = "mine:x:101:1::/:/bin/sh";
        let moved = "svc:x:999:101::/:/bin/false";
        check(Passwd, [root, &join(&[root, mine]), &join(&[root, svc])], &join(&[root, mine, moved]), 0);
        let you = "you:x:1000:1000::/home/you:/bin/sh";
        check(Passwd, [root, &join(&[root, me]), &join(&[root, you])], &join(&[root, me]), 1);
        // a number that is shared in the defaults
        let alias = "toor:x:0:0::/root:/bin/sh";
        check(Passwd, [root, root, &join(&[root, alias])], &join(&[root, alias]), 0);
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
    fn new_user_follows_its_group_to_another_number() {
        let group = merge(AccountFile::Group, b"", b"mine:x:101:\n", b"svc:x:101:\nother:x:102:\n");
        assert_eq!(group.text, b"mine:x:101:\nsvc:x:999:\nother:x:102:\n");
        assert_eq!(group.renumbered["svc"], Renumbered { from: 101, to: 999 });
        let texts: [&[u8]; 3] = [b"", b"", b"svc:x:105:101:::\nother:x:102:102:::\n"];
        let users = merge_with_groups(AccountFile::Passwd, texts, &group.renumbered);
        assert_eq!(users.text, b"svc:x:105:999:::\nother:x:102:102:::\n");
    }

    #[test]
    fn merge_keeps_local_lines_that_are_no_entries() {
        check(AccountFile::Passwd, ["", "#x:y garbage", "a:x:1:1:::"], "a:x:1:1::: #x:y garbage", 0);
        check(AccountFile::Passwd, ["", "", ""], "", 0);
        let odd = b"me:x:1:1:Andr\xe9 J\xc3\xb6:/home/me:/bin/sh\r\r\n";
        assert_eq!(merge(AccountFile::Passwd, b"", odd, b"").text, odd);
        let clash = merge(AccountFile::Passwd, b"", b"a:x:1001:1:::\n", "ö:x:1001:1:::\n".as_bytes());
        assert!(clash.conflicts[0].starts_with("'ö' of the new defaults"), "{:?}", clash.conflicts);
        let open = b"root:x:0:0::/:\n\nme:x:1:1:::";
        assert_eq!(merge(AccountFile::Passwd, b"", open, b"root:x:0:0::/:\n").text, open, "no line end");
        let longer = merge(AccountFile::Passwd, b"", open, b"new:x:2:1:::").text;
        assert_eq!(longer, [&open[..], b"\nnew:x:2:1:::\n"].concat());
    }
}
