//! Users and groups: stable numbers, `sysusers.d` lines, and nothing that depends on the day.
//!
//! `/etc/passwd` and its companions stay whole: a deployment merges them by entry. `sysusers.d` says the same once more,
//! so that a machine whose `/etc` lost an entry gets it back with the same number.

mod ids;
mod table;

use std::collections::{BTreeMap, BTreeSet};

pub use ids::Renumbering;
pub use table::Table;

use super::super::draft::Draft;
use super::super::treefile::UserCheck;
use super::LayoutError;
use crate::model::{ACL_ACCESS, ACL_DEFAULT, AclSubject, PosixAcl};

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// The file with the lines; read before those of packages, whose numbers are often left open.
pub const SYSUSERS: &str = "/usr/lib/sysusers.d/00-sapwood.conf";

/// Numbers below this are the system's.
const SYSTEM_MAX: u32 = 1000;

/// The number of nobody; those from it on are nobody's.
const NOBODY: u32 = 65_534;

/// Starts a line that remembers a number whose name went.
const RETIRED: &str = "# retired: ";

/// What the parent commit says of users.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ParentUsers {
    /// Its `/etc/passwd`.
    pub passwd: String,
    /// Its `/etc/group`.
    pub group: String,
    /// Its [`SYSUSERS`].
    pub sysusers: String,
}

/// What the treefile says of users.
#[derive(Debug, Clone, Copy)]
pub struct UserRules<'a> {
    /// Whether numbers are kept.
    pub preserve: bool,
    /// `check-passwd`.
    pub check_passwd: &'a UserCheck,
    /// `check-groups`.
    pub check_groups: &'a UserCheck,
    /// `ignore-removed-users`.
    pub ignore_users: &'a [String],
    /// `ignore-removed-groups`.
    pub ignore_groups: &'a [String],
}

/// Gives users and groups their numbers, everywhere, and writes [`SYSUSERS`].
///
/// # Errors
/// [`LayoutError`] for files that are none, missing names, and too few numbers.
pub fn settle(draft: &mut Draft, parent: &ParentUsers, rules: UserRules<'_>) -> Result<(), LayoutError> {
    let (Some(passwd), Some(group)) = (draft.text(PASSWD)?, draft.text(GROUP)?) else { return Ok(()) };
    let (mut users, mut groups) = (Table::parse("/etc/passwd", &passwd)?, Table::parse("/etc/group", &group)?);
    let old_users = Table::parse("the parent's /etc/passwd", &parent.passwd)?;
    let old_groups = Table::parse("the parent's /etc/group", &parent.group)?;
    let mut kept_users = Kept::of(&old_users, &parent.sysusers, 'u', rules.preserve);
    let mut kept_groups = Kept::of(&old_groups, &parent.sysusers, 'g', rules.preserve);
    check(
        &users,
        &old_users,
        rules.check_passwd,
        &mut kept_users,
        ("users", rules.ignore_users, "ignore-removed-users"),
    )?;
    check(
        &groups,
        &old_groups,
        rules.check_groups,
        &mut kept_groups,
        ("groups", rules.ignore_groups, "ignore-removed-groups"),
    )?;
    let uids = ids::assign(users.ids(), &kept_users.names, &kept_users.retired)?;
    let gids = ids::assign(groups.ids(), &kept_groups.names, &kept_groups.retired)?;
    if !(uids.is_empty() && gids.is_empty()) {
        users.renumber(2, |id| *uids.get(&id).unwrap_or(&id));
        users.renumber(3, |id| *gids.get(&id).unwrap_or(&id));
        groups.renumber(2, |id| *gids.get(&id).unwrap_or(&id));
        draft.write(PASSWD, users.render().into_bytes(), 0o644)?;
        draft.write(GROUP, groups.render().into_bytes(), 0o644)?;
        renumber_owners(draft, &uids, &gids)?;
    }
    forget_days(draft)?;
    let text = sysusers(&users, &groups, &kept_users, &kept_groups);
    draft.write(SYSUSERS, text.into_bytes(), 0o644)?;
    Ok(())
}

/// Numbers that are spoken for.
#[derive(Debug, Default)]
struct Kept {
    /// Of names there are.
    names: BTreeMap<String, u32>,
    /// Of names that went.
    retired: BTreeMap<String, u32>,
}

impl Kept {
    fn of(old: &Table, sysusers: &str, letter: char, preserve: bool) -> Self {
        if !preserve {
            return Self::default();
        }
        let names = old.ids().map(|(name, id)| (name.to_owned(), id)).collect();
        let retired = sysusers.lines().filter_map(|line| {
            let mut words = line.strip_prefix(RETIRED)?.split_whitespace();
            let (kind, name, id) = (words.next()?, words.next()?, words.next()?);
            (kind.chars().eq([letter])).then_some((name.to_owned(), id.parse().ok()?))
        });
        Self { names, retired: retired.collect() }
    }
}

/// Compares with what is asked for; numbers that are given by the treefile are kept as well.
fn check(
    new: &Table,
    old: &Table,
    check: &UserCheck,
    kept: &mut Kept,
    (what, ignored, key): (&'static str, &[String], &'static str),
) -> Result<(), LayoutError> {
    let expected: BTreeMap<String, u32> = match check {
        UserCheck::None => return Ok(()),
        UserCheck::Previous => old.ids().map(|(name, id)| (name.to_owned(), id)).collect(),
        UserCheck::File(text) => {
            Table::parse("the file to check with", text)?.ids().map(|(name, id)| (name.to_owned(), id)).collect()
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

/// Changes the owners of everything, also those in access control lists.
fn renumber_owners(draft: &mut Draft, uids: &Renumbering, gids: &Renumbering) -> Result<(), LayoutError> {
    let mut seen = BTreeSet::new();
    let entries = draft.below("/");
    for (path, id) in entries {
        if !seen.insert(id) {
            continue;
        }
        let metadata = draft.metadata_mut(id);
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
fn forget_days(draft: &mut Draft) -> Result<(), LayoutError> {
    let path = "/etc/shadow";
    let Some(text) = draft.text(path)? else { return Ok(()) };
    let line = |line: &str| {
        let mut fields: Vec<&str> = line.split(':').collect();
        if let Some(day) = fields.get_mut(2) {
            *day = "";
        }
        fields.join(":") + "\n"
    };
    let new: String = text.lines().map(line).collect();
    if new != text {
        draft.write(path, new.into_bytes(), 0o640)?;
    }
    Ok(())
}

fn sysusers(users: &Table, groups: &Table, old_users: &Kept, old_groups: &Kept) -> String {
    let is_system = |id: u32| !(SYSTEM_MAX..NOBODY).contains(&id);
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
            text.push_str(&format!("{RETIRED}{letter} {name} {id}\n"));
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

    fn draft(passwd: &str, group: &str) -> Draft {
        let mut draft = Draft::empty();
        draft.write(PASSWD, passwd.as_bytes(), 0o644).expect("free");
        draft.write(GROUP, group.as_bytes(), 0o644).expect("free");
        draft.write("/etc/shadow", *b"root:*:19700:0:99999:7:::\n", 0o640).expect("free");
        draft
    }

    fn settled(draft: &mut Draft, parent: &ParentUsers) -> ParentUsers {
        settle(draft, parent, RULES).expect("numbers");
        let text = |path: &str| draft.text(path).expect("a file").expect("there");
        ParentUsers { passwd: text(PASSWD), group: text(GROUP), sysusers: text(SYSUSERS) }
    }

    #[test]
    fn numbers_survive_another_order_of_installation() {
        let mut first = draft(
            "root:x:0:0:root:/root:/bin/sh\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\nmail:x:101:101:mail, \"x\":/:\n",
            "root:x:0:\nmail:x:101:sshd\nold:x:102:\n",
        );
        let parent = settled(&mut first, &ParentUsers::default());
        assert!(parent.sysusers.contains("u sshd 100:65534 - /run/sshd /usr/sbin/nologin\n"), "{}", parent.sysusers);
        assert!(parent.sysusers.contains("u mail 101:101 \"mail, \\\"x\\\"\" / -\n"), "{}", parent.sysusers);
        assert!(parent.sysusers.contains("g mail 101\n") && parent.sysusers.contains("m sshd mail\n"));
        let mut second = draft(
            "root:x:0:0:root:/root:/bin/sh\nmail:x:100:100::/:\nsshd:x:101:65534::/:\nnew:x:102:102::/:\n",
            "root:x:0:\nmail:x:100:\nnew:x:102:\n",
        );
        second.write("/usr/mailbox", *b"x", 0o644).expect("free");
        let id = second.find("/usr/mailbox").expect("there");
        second.metadata_mut(id).uid = 100;
        second.metadata_mut(id).gid = 102;
        let again = settled(&mut second, &parent);
        let users = Table::parse("", &again.passwd).expect("a table");
        assert_eq!((users.id("sshd"), users.id("mail"), users.id("new")), (Some(100), Some(101), Some(102)));
        let groups = Table::parse("", &again.group).expect("a table");
        assert_eq!((groups.id("mail"), groups.id("new")), (Some(101), Some(103)), "102 belonged to a group that went");
        let metadata = &second.node("/usr/mailbox").expect("there").metadata;
        assert_eq!((metadata.uid, metadata.gid), (101, 103));
        assert!(again.sysusers.ends_with("# retired: g old 102\n"), "{}", again.sysusers);
        let mut third = draft(&again.passwd, "root:x:0:\nold:x:104:\n");
        let third = settled(&mut third, &again);
        assert_eq!(Table::parse("", &third.group).expect("a table").id("old"), Some(102));
    }

    #[test]
    fn the_day_of_the_compose_is_nowhere() {
        let mut draft = draft("root:x:0:0::/:\n", "root:x:0:\n");
        settled(&mut draft, &ParentUsers::default());
        assert_eq!(draft.text("/etc/shadow").expect("a file").as_deref(), Some("root:*::0:99999:7:::\n"));
    }

    #[test]
    fn missing_users_are_an_error_where_that_is_asked_for() {
        let parent = ParentUsers { passwd: "gone:x:100:100::/:\n".to_owned(), ..ParentUsers::default() };
        let rules = |ignore_users| UserRules { check_passwd: &UserCheck::Previous, ignore_users, ..RULES };
        let mut draft = draft("root:x:0:0::/:\n", "root:x:0:\n");
        let message = settle(&mut draft, &parent, rules(&[])).expect_err("missing").to_string();
        assert!(message.contains("gone") && message.contains("ignore-removed-users"), "{message}");
        settle(&mut draft, &parent, rules(&["gone".to_owned()])).expect("ignored");
        let bad = ParentUsers { passwd: "x:y\n".to_owned(), ..ParentUsers::default() };
        assert!(settle(&mut draft, &bad, RULES).is_err());
    }
}
