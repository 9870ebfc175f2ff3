//! Reads bytes as each of the small texts by which a machine is composed, booted and configured. Shared by the fuzz target and
//! the test over its seeds.
//!
//! *Invariants*: a reader may return an error, since the texts may be anything; it must not panic or hang, and a text that was
//! read and written again must read as the same: otherwise reading a boot menu would change it.

#[path = "menus.rs"]
pub mod menus;

use std::io::Write as _;

use sapwood::compose::lock::LockFile;
use sapwood::compose::packages::{self, PackageList};
use sapwood::compose::treefile;
use sapwood::deploy::config::SysrootConfig;
use sapwood::deploy::etc::{AccountFile, MergeRules, TextMerge, merge_accounts, merge_texts, text_difference};
use sapwood::deploy::kargs::{KargEdit, Kargs};
use sapwood::deploy::origin::DeploymentOrigin;
use sapwood::remote::RemoteConfig;
use sapwood::store::Config;
use sapwood::trust::LastSeen;

/// The name of a kind of input, and its reader.
type Kind = (&'static str, fn(&[u8]));

/// Kinds of input, in the order of their first byte.
pub const KINDS: [Kind; 17] = [
    ("treefile", treefile),
    ("entry", menus::entry),
    ("grubenv", menus::grubenv),
    ("extlinux", menus::extlinux),
    ("command-line", command_line),
    ("suggestion", suggestion),
    ("rules", rules),
    ("accounts", accounts),
    ("merge", merge),
    ("origin", origin),
    ("lock", lock),
    ("grub", menus::grub),
    ("made-entry", menus::made),
    ("remote", remote),
    ("seen", seen),
    ("packages", package_list),
    ("repository", repository),
];

/// The id of the sysroot whose boot menu is read.
const ID: &str = "0123abcd";

/// Separates the texts where a reader takes several.
const SEPARATOR: u8 = 0xff;

/// Reads a text as its first byte says.
pub fn exercise(data: &[u8]) {
    if let Some((kind, bytes)) = data.split_first() {
        KINDS[usize::from(*kind) % KINDS.len()].1(bytes);
    }
}

fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// Reads a treefile from a file, since files that it names are searched beside it.
fn treefile(bytes: &[u8]) {
    thread_local! {
        static FILE: tempfile::NamedTempFile = tempfile::NamedTempFile::new().expect("there is room in /tmp");
    }
    FILE.with(|file| {
        let mut out = std::fs::File::create(file.path()).expect("it was just made");
        out.write_all(bytes).expect("there is room in /tmp");
        if let Ok(read) = treefile::load(file.path(), "x86_64") {
            assert!(read.packages.iter().all(|package| !package.is_empty()));
        }
    });
}

/// Reads a command line, a change of it, and two that a commit suggests.
fn command_line(bytes: &[u8]) {
    let texts: Vec<_> = bytes.split(|byte| *byte == SEPARATOR).map(text).collect();
    let line = |at: usize| Kargs::parse(texts.get(at).map_or("", |text| text));
    let mut own = line(0);
    assert_eq!(Kargs::parse(&own.to_string()), own, "one line, two meanings");
    let argument = texts.get(1).map_or_else(String::new, ToString::to_string);
    for change in [KargEdit::Append, KargEdit::AppendIfMissing, KargEdit::Replace, KargEdit::Delete] {
        if own.edit(&change(argument.clone())).is_ok() {
            assert_eq!(Kargs::parse(&own.to_string()), own, "a change that is read as another");
        }
    }
    let merged = Kargs::merge(&line(2), &own, &line(3)).result;
    assert_eq!(Kargs::parse(&merged.to_string()), merged);
    assert_eq!(Kargs::merge(&line(2), &own, &line(2)).result, own, "nothing new, and yet something changed");
    let _ = Kargs::of_running_kernel(&own.to_string());
}

fn suggestion(bytes: &[u8]) {
    if let Ok(suggested) = Kargs::of_suggestion(&text(bytes), "x86_64") {
        assert_eq!(Kargs::parse(&suggested.to_string()), suggested);
    }
}

/// Reads rules, and a path to which they may apply.
fn rules(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == SEPARATOR);
    let (rules, path) = (parts.next().unwrap_or_default(), parts.next().unwrap_or(b"ssh/sshd_config"));
    if let Ok(rules) = MergeRules::parse(&text(rules)) {
        let _ = rules.rule_for(path);
    }
}

/// Returns the three texts that are merged.
fn three(bytes: &[u8]) -> [&[u8]; 3] {
    let mut parts = bytes.splitn(3, |byte| *byte == SEPARATOR);
    [(); 3].map(|()| parts.next().unwrap_or_default())
}

fn accounts(bytes: &[u8]) {
    let [old, local, new] = three(bytes);
    for path in [&b"passwd"[..], b"group", b"shadow", b"gshadow", b"subuid"] {
        let file = AccountFile::at(path).expect("it is one");
        let merged = merge_accounts(file, old, local, new).text;
        // Unchanged lines stay, and a second merge finds nothing to do.
        assert_eq!(merge_accounts(file, new, &merged, new).text, merged);
    }
}

fn merge(bytes: &[u8]) {
    let [old, local, new] = three(bytes);
    if let TextMerge::Clean(merged) = merge_texts(old, local, old) {
        assert_eq!(merged, local, "only one side changed");
    }
    let _ = merge_texts(old, local, new);
    let _ = text_difference(("a", old), ("b", new));
}

fn origin(bytes: &[u8]) {
    if let Ok(origin) = DeploymentOrigin::parse(&text(bytes)) {
        assert_eq!(DeploymentOrigin::parse(&origin.render()).expect("own form"), origin);
    }
    if let Ok(config) = SysrootConfig::parse(&text(bytes)) {
        assert_eq!(SysrootConfig::parse(&config.render()).expect("own form").render(), config.render());
    }
}

fn lock(bytes: &[u8]) {
    if let Ok(lock) = LockFile::parse(&text(bytes)) {
        assert_eq!(LockFile::parse(&lock.render()).expect("own form").render(), lock.render());
    }
}

/// Reads the file of a remote.
fn remote(bytes: &[u8]) {
    if let Ok(remote) = RemoteConfig::parse(&text(bytes)) {
        let again = RemoteConfig::parse(&remote.render()).expect("own form");
        assert_eq!((again.render(), &again.transport), (remote.render(), &remote.transport));
        let _ = (remote.trust(), remote.local_paths());
    }
}

fn seen(bytes: &[u8]) {
    if let Ok(seen) = LastSeen::parse(&text(bytes)) {
        assert_eq!(LastSeen::parse(&seen.render()), Ok(seen));
    }
}

/// Reads the list of packages of a commit: as it is, and as the text that is compressed there.
fn package_list(bytes: &[u8]) {
    let packed = zstd::bulk::compress(bytes, 1).expect("memory");
    for text in [text(bytes).into_owned(), packages::base64::encode(&packed)] {
        let Ok(list) = PackageList::decode(&text) else { continue };
        assert_eq!(PackageList::decode(&list.encode()).as_ref(), Ok(&list));
        let nothing = PackageList::new(list.format, Vec::new());
        let _ = packages::diff(&nothing, &list);
        assert_eq!(packages::diff(&list, &list), []);
    }
}

/// Reads the settings of a repository.
fn repository(bytes: &[u8]) {
    if let Ok(config) = Config::parse(&text(bytes)) {
        assert_eq!(Config::parse(&config.render()).expect("own form"), config);
    }
}
