//! Gives users and groups stable ids, writes `sysusers.d` lines, and removes what depends on the day of the compose.
//!
//! `/etc/passwd` and its companions stay complete: a deployment merges them by entry. The `sysusers.d` lines contain the same
//! accounts, so that a machine whose `/etc` lost an entry gets it back with the same id.

mod ids;
mod table;

use std::collections::{BTreeMap, BTreeSet};

pub(crate) use ids::Renumbering;
pub(crate) use table::AccountTable;

use super::super::staged::StagedTree;
use super::super::treefile::UserCheck;
use super::LayoutError;
use crate::model::{ACL_ACCESS, ACL_DEFAULT, AclSubject, PosixAcl};

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// The file with the lines. It is read before those of packages, which often leave the id open.
pub(crate) const SYSUSERS_FILE: &str = "/usr/lib/sysusers.d/00-sapwood.conf";

/// Ids below this belong to the system.
const SYSTEM_IDS_END: u32 = 1000;

/// The id of `nobody`. This and higher ids count as the system's too.
const NOBODY_ID: u32 = 65_534;

/// Starts a line that reserves the id of a removed name.
const RETIRED_PREFIX: &str = "# retired: ";

/// The account files of the parent commit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ParentUsers {
    /// The text of its `/etc/passwd`.
    pub(crate) passwd: String,
    /// The text of its `/etc/group`.
    pub(crate) group: String,
    pub(crate) sysusers: String,
}

/// The treefile's rules about users and groups.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UserRules<'a> {
    /// `preserve-passwd`: whether ids are kept.
    pub(crate) preserve: bool,
    /// `check-passwd`.
    pub(crate) check_passwd: &'a UserCheck,
    /// `check-groups`.
    pub(crate) check_groups: &'a UserCheck,
    /// `ignore-removed-users`.
    pub(crate) ignore_users: &'a [String],
    /// `ignore-removed-groups`.
    pub(crate) ignore_groups: &'a [String],
}

/// Assigns the ids of users and groups, in the account files and of all entries, and writes [`SYSUSERS_FILE`].
///
/// # Errors
/// [`LayoutError`] for malformed files, missing names, and too few free ids.
pub(crate) fn assign(staged: &mut StagedTree, parent: &ParentUsers, rules: UserRules<'_>) -> Result<(), LayoutError> {
    let (Some(passwd), Some(group)) = (staged.read_text(PASSWD)?, staged.read_text(GROUP)?) else { return Ok(()) };
    let (mut users, mut groups) =
        (AccountTable::parse("/etc/passwd", &passwd)?, AccountTable::parse("/etc/group", &group)?);
    let old_users = AccountTable::parse("the parent's /etc/passwd", &parent.passwd)?;
    let old_groups = AccountTable::parse("the parent's /etc/group", &parent.group)?;
    let mut kept_users = KnownIds::of(&old_users, &parent.sysusers, 'u', rules.preserve);
    let mut kept_groups = KnownIds::of(&old_groups, &parent.sysusers, 'g', rules.preserve);
    check_accounts(
        &users,
        &old_users,
        rules.check_passwd,
        &mut kept_users,
        ("users", rules.ignore_users, "ignore-removed-users"),
    )?;
    check_accounts(
        &groups,
        &old_groups,
        rules.check_groups,
        &mut kept_groups,
        ("groups", rules.ignore_groups, "ignore-removed-groups"),
    )?;
    let uids = ids::plan_renumbering(users.ids(), &kept_users.names, &kept_users.retired)?;
    let gids = ids::plan_renumbering(groups.ids(), &kept_groups.names, &kept_groups.retired)?;
    if !(uids.is_empty() && gids.is_empty()) {
        users.renumber(2, |id| *uids.get(&id).unwrap_or(&id));
        users.renumber(3, |id| *gids.get(&id).unwrap_or(&id));
        groups.renumber(2, |id| *gids.get(&id).unwrap_or(&id));
        staged.write(PASSWD, users.render().into_bytes(), 0o644)?;
        staged.write(GROUP, groups.render().into_bytes(), 0o644)?;
        renumber_owners(staged, &uids, &gids)?;
    }
    clear_password_dates(staged)?;
    let text = render_sysusers(&users, &groups, &kept_users, &kept_groups);
    staged.write(SYSUSERS_FILE, text.into_bytes(), 0o644)?;
    Ok(())
}

/// The ids that are taken, by name.
#[derive(Debug, Default)]
struct KnownIds {
    /// Ids of existing names.
    names: BTreeMap<String, u32>,
    /// Ids of removed names.
    retired: BTreeMap<String, u32>,
}

impl KnownIds {
    fn of(old: &AccountTable, sysusers: &str, letter: char, preserve: bool) -> Self {
        if !preserve {
            return Self::default();
        }
        let names = old.ids().map(|(name, id)| (name.to_owned(), id)).collect();
        let retired = sysusers.lines().filter_map(|line| {
            let mut words = line.strip_prefix(RETIRED_PREFIX)?.split_whitespace();
            let (kind, name, id) = (words.next()?, words.next()?, words.next()?);
            (kind.chars().eq([letter])).then_some((name.to_owned(), id.parse().ok()?))
        });
        Self { names, retired: retired.collect() }
    }
}

/// Checks that the expected names exist; ids that the treefile gives are kept as well.
fn check_accounts(
    new: &AccountTable,
    old: &AccountTable,
    check: &UserCheck,
    kept: &mut KnownIds,
    (what, ignored, key): (&'static str, &[String], &'static str),
) -> Result<(), LayoutError> {
    let expected: BTreeMap<String, u32> = match check {
        UserCheck::None => return Ok(()),
        UserCheck::Previous => old.ids().map(|(name, id)| (name.to_owned(), id)).collect(),
        UserCheck::File(text) => {
            AccountTable::parse("the file to check with", text)?.ids().map(|(name, id)| (name.to_owned(), id)).collect()
        }
        UserCheck::Data(entries) => entries.iter().map(|(name, (id, _))| (name.clone(), *id)).collect(),
    };
    let is_ignored = |name: &String| ignored.iter().any(|pattern| pattern == "*" || pattern == name);
    let missing: Vec<String> =
        expected.keys().filter(|name| new.id(name).is_none() && !is_ignored(name)).cloned().collect();
    if !missing.is_empty() {
        return Err(LayoutError::Removed { what, names: missing, key });
    }
    kept.names.extend(expected);
    Ok(())
}

/// Changes the owners of all entries, also those in access control lists.
fn renumber_owners(staged: &mut StagedTree, uids: &Renumbering, gids: &Renumbering) -> Result<(), LayoutError> {
    let mut seen = BTreeSet::new();
    let entries = staged.descendants("/");
    for (path, id) in entries {
        if !seen.insert(id) {
            continue;
        }
        let metadata = staged.metadata_mut(id);
        metadata.uid = *uids.get(&metadata.uid).unwrap_or(&metadata.uid);
        metadata.gid = *gids.get(&metadata.gid).unwrap_or(&metadata.gid);
        for attribute in [ACL_ACCESS, ACL_DEFAULT] {
            let Some(Ok(acl)) = metadata.xattrs.get(attribute).map(PosixAcl::from_xattr) else { continue };
            let number = |subject, id| match subject {
                AclSubject::User => *uids.get(&id).unwrap_or(&id),
                AclSubject::Group => *gids.get(&id).unwrap_or(&id),
            };
            let value = acl.renumbered(&number).to_xattr();
            metadata
                .xattrs
                .set(attribute, &value)
                .map_err(|source| LayoutError::Xattr { path: String::from_utf8_lossy(&path).into_owned(), source })?;
        }
    }
    Ok(())
}

/// Empties the day of the last change of each password: it is the day of the compose, and means nothing.
fn clear_password_dates(staged: &mut StagedTree) -> Result<(), LayoutError> {
    let path = "/etc/shadow";
    let Some(text) = staged.read_text(path)? else { return Ok(()) };
    let line = |line: &str| {
        let mut fields: Vec<&str> = line.split(':').collect();
        if let Some(day) = fields.get_mut(2) {
            *day = "";
        }
        fields.join(":") + "\n"
    };
    let new: String = text.lines().map(line).collect();
    if new != text {
        staged.write(path, new.into_bytes(), 0o640)?;
    }
    Ok(())
}

fn render_sysusers(users: &AccountTable, groups: &AccountTable, old_users: &KnownIds, old_groups: &KnownIds) -> String {
    let is_system = |id: u32| !(SYSTEM_IDS_END..NOBODY_ID).contains(&id);
    let mut text =
        String::from("# Written by sapwood compose: the users and groups of this commit and their numbers.\n");
    for (name, id) in groups.ids().filter(|(_, id)| is_system(*id)) {
        text.push_str(&format!("g {name} {id}\n"));
    }
    for (name, uid) in users.ids().filter(|(_, id)| is_system(*id)) {
        let fields = users.line(name).unwrap_or_default();
        let field = |index: usize| fields.get(index).map_or("", String::as_str);
        let quote =
            |text: &str| if text.is_empty() { "-".to_owned() } else { format!("\"{}\"", text.replace('"', "\\\"")) };
        let plain = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        let (gid, comment, home, shell) = (field(3), quote(field(4)), plain(field(5)), plain(field(6)));
        text.push_str(&format!("u {name} {uid}:{gid} {comment} {home} {shell}\n"));
    }
    for (group, members) in groups.field(3) {
        for member in members.split(',').filter(|member| users.id(member).is_some_and(is_system)) {
            text.push_str(&format!("m {member} {group}\n"));
        }
    }
    for (letter, table, old) in [('u', users, old_users), ('g', groups, old_groups)] {
        let gone = old.names.iter().chain(&old.retired).filter(|(name, _)| table.id(name).is_none());
        let gone: BTreeMap<_, _> = gone.collect();
        for (name, id) in gone {
            text.push_str(&format!("{RETIRED_PREFIX}{letter} {name} {id}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: UserRules<'_> = UserRules {
        preserve: true,
        check_passwd: &UserCheck::None,
        check_groups: &UserCheck::None,
        ignore_users: &[],
        ignore_groups: &[],
    };

    fn staged(passwd: &str, group: &str) -> StagedTree {
        let mut staged = StagedTree::empty();
        staged.write(PASSWD, passwd.as_bytes(), 0o644).expect("free");
        staged.write(GROUP, group.as_bytes(), 0o644).expect("free");
        staged.write("/etc/shadow", *b"root:*:19700:0:99999:7:::\n", 0o640).expect("free");
        staged
    }

    fn assigned(staged: &mut StagedTree, parent: &ParentUsers) -> ParentUsers {
        assign(staged, parent, RULES).expect("numbers");
        let text = |path: &str| staged.read_text(path).expect("a file").expect("there");
        ParentUsers { passwd: text(PASSWD), group: text(GROUP), sysusers: text(SYSUSERS_FILE) }
    }

    #[test]
    fn ids_survive_another_order_of_installation() {
        let mut first = staged(
            "root:x:0:0:root:/root:/bin/sh\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\nmail:x:101:101:mail, \"x\":/:\n",
            "root:x:0:\nmail:x:101:sshd\nold:x:102:\n",
        );
        let parent = assigned(&mut first, &ParentUsers::default());
        assert!(parent.sysusers.contains("u sshd 100:65534 - /run/sshd /usr/sbin/nologin\n"), "{}", parent.sysusers);
        assert!(parent.sysusers.contains("u mail 101:101 \"mail, \\\"x\\\"\" / -\n"), "{}", parent.sysusers);
        assert!(parent.sysusers.contains("g mail 101\n") && parent.sysusers.contains("m sshd mail\n"));
        let mut second = staged(
            "root:x:0:0:root:/root:/bin/sh\nmail:x:100:100::/:\nsshd:x:101:65534::/:\nnew:x:102:102::/:\n",
            "root:x:0:\nmail:x:100:\nnew:x:102:\n",
        );
        second.write("/usr/mailbox", *b"x", 0o644).expect("free");
        let id = second.find("/usr/mailbox").expect("there");
        second.metadata_mut(id).uid = 100;
        second.metadata_mut(id).gid = 102;
        let again = assigned(&mut second, &parent);
        let users = AccountTable::parse("", &again.passwd).expect("a table");
        assert_eq!((users.id("sshd"), users.id("mail"), users.id("new")), (Some(100), Some(101), Some(102)));
        let groups = AccountTable::parse("", &again.group).expect("a table");
        assert_eq!((groups.id("mail"), groups.id("new")), (Some(101), Some(103)), "102 belonged to a group that went");
        let metadata = &second.node("/usr/mailbox").expect("there").metadata;
        assert_eq!((metadata.uid, metadata.gid), (101, 103));
        assert!(again.sysusers.ends_with("# retired: g old 102\n"), "{}", again.sysusers);
        let mut third = staged(&again.passwd, "root:x:0:\nold:x:104:\n");
        let third = assigned(&mut third, &again);
        assert_eq!(AccountTable::parse("", &third.group).expect("a table").id("old"), Some(102));
    }

    #[test]
    fn password_dates_are_emptied() {
        let mut staged = staged("root:x:0:0::/:\n", "root:x:0:\n");
        assigned(&mut staged, &ParentUsers::default());
        assert_eq!(staged.read_text("/etc/shadow").expect("a file").as_deref(), Some("root:*::0:99999:7:::\n"));
    }

    #[test]
    fn missing_users_are_an_error_if_checked() {
        let parent = ParentUsers { passwd: "gone:x:100:100::/:\n".to_owned(), ..ParentUsers::default() };
        let rules = |ignore_users| UserRules { check_passwd: &UserCheck::Previous, ignore_users, ..RULES };
        let mut staged = staged("root:x:0:0::/:\n", "root:x:0:\n");
        let message = assign(&mut staged, &parent, rules(&[])).expect_err("missing").to_string();
        assert!(message.contains("gone") && message.contains("ignore-removed-users"), "{message}");
        assign(&mut staged, &parent, rules(&["gone".to_owned()])).expect("ignored");
        let bad = ParentUsers { passwd: "x:y\n".to_owned(), ..ParentUsers::default() };
        assert!(assign(&mut staged, &bad, RULES).is_err());
    }
}
