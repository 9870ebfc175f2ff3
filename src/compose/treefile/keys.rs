//! The keys that a treefile may have: the form of the value, and whether the key is used, has no effect, or is refused.
//!
//! Names and meanings are those of rpm-ostree's treefiles wherever the concept is the same, so that an existing treefile is read
//! as it is.
//!
//! *Not here*: reading values (`forms`).
//!
//! *Invariants*: each key of the documentation of rpm-ostree is in the table. A key is used, told in a note, or refused with what
//! to do instead; none is ignored silently.
//!
//! *Used by* `forms`.

use super::value_form::Form;

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Its value is used.
    Used,
    /// It has no effect, for this reason, and a note says so.
    Noted(&'static str),
    /// It is an error; this is what to do instead.
    Refused(&'static str),
}

use Effect::{Noted, Refused, Used};

/// All keys but `packages-ARCH`.
const KEYS: &[(&str, Form, Effect)] = &[
    ("add-commit-metadata", Form::Mapping, Used),
    ("add-files", Form::Pairs, Used),
    ("apt-sources", Form::TextOrList, Used),
    ("arch-include", Form::ArchInclude, Used),
    ("automatic-version-prefix", Form::Text, Used),
    ("automatic-version-suffix", Form::Text, Used),
    ("base", Form::Text, Used),
    ("boot-location", Form::Any, Noted("the kernel is always in /usr/lib/modules")),
    ("bootstrap-packages", Form::List, Used),
    ("check-groups", Form::Check, Used),
    ("check-passwd", Form::Check, Used),
    ("cliwrap", Form::Any, Noted("programs are never replaced by wrappers")),
    ("cliwrap-binaries", Form::Any, Noted("programs are never replaced by wrappers")),
    ("conditional-include", Form::Conditional, Used),
    ("container", Form::Bool, Used),
    ("container-cmd", Form::Any, Noted("a commit is no container image")),
    ("default-target", Form::Text, Used),
    ("distribution", Form::Text, Used),
    ("documentation", Form::Bool, Used),
    ("edition", Form::Any, Noted("there is one set of defaults")),
    ("engine", Form::Text, Used),
    ("etc-group-members", Form::Any, Noted("groups for people are always in /etc/group")),
    ("ex-jigdo-spec", Form::Any, Noted("no package is made of the commit")),
    ("exclude-packages", Form::List, Used),
    ("extensions", Form::Any, Refused("compose a commit of its own with these packages")),
    ("gpg-key", Form::Any, Noted("commits are signed when they are published: sapwood publish --sign KEY")),
    ("groups", Form::Any, Refused("name the packages of the group in 'packages'")),
    ("ignore-devices", Form::Bool, Used),
    ("ignore-removed-groups", Form::List, Used),
    ("ignore-removed-users", Form::List, Used),
    ("ima", Form::Any, Refused("IMA signatures are not copied")),
    ("include", Form::Include, Used),
    ("initramfs", Form::Text, Used),
    ("initramfs-args", Form::List, Used),
    ("install-langs", Form::List, Used),
    ("keep-identities", Form::List, Used),
    ("kernel", Form::Text, Used),
    (
        "lockfile-repos",
        Form::Any,
        Noted("a lock names exact packages; list these repositories in 'repos' to install from them"),
    ),
    ("machineid-compat", Form::Bool, Used),
    ("metadata", Form::Any, Noted("it is for other programs")),
    ("modules", Form::Any, Refused("module streams cannot be enabled; use a repository without modules")),
    ("mutate-os-release", Form::Text, Used),
    ("no-initramfs", Form::Bool, Used),
    ("opt-usrlocal", Form::Text, Used),
    ("opt-usrlocal-overlays", Form::Any, Noted("'opt-usrlocal' says where /opt and /usr/local are")),
    ("ostree-layers", Form::Any, Refused("put the files into a package, or name them in 'add-files'")),
    ("ostree-override-layers", Form::Any, Refused("put the files into a package, or name them in 'add-files'")),
    ("packages", Form::List, Used),
    ("platform-module", Form::Any, Noted("no module is enabled")),
    ("postprocess", Form::List, Used),
    ("postprocess-script", Form::Text, Used),
    ("preserve-passwd", Form::Bool, Used),
    ("readonly-executables", Form::Bool, Used),
    ("recommends", Form::Bool, Used),
    ("ref", Form::Text, Used),
    ("releasever", Form::Text, Used),
    ("remove-files", Form::List, Used),
    ("remove-from-packages", Form::Lists, Used),
    ("repo-metadata", Form::Any, Noted("the list of packages is always in the commit")),
    ("repo-packages", Form::RepoPackages, Used),
    ("repos", Form::List, Used),
    ("repovars", Form::Any, Refused("write the values into the .repo file")),
    ("rojig", Form::Any, Noted("no package is made of the commit")),
    ("rpmdb", Form::Any, Noted("the database has the form that the installed rpm writes")),
    ("rpmdb-normalize", Form::Any, Noted("the database is always normalised")),
    ("selinux", Form::Bool, Used),
    ("selinux-label-version", Form::Any, Noted("files in /usr/etc always have the labels of /etc")),
    ("sysusers", Form::Any, Noted("lines of sysusers.d are always written")),
    ("tmp-is-dir", Form::Bool, Used),
    ("units", Form::List, Used),
    ("unsigned-repos", Form::List, Used),
    ("variables", Form::Variables, Used),
    ("variant", Form::Text, Used),
];

/// Returns the form and the effect of a key in its usual spelling.
pub(super) fn find(key: &str) -> Option<(Form, Effect)> {
    KEYS.iter().find(|(name, ..)| *name == key).map(|(_, form, effect)| (*form, *effect))
}

/// Returns whether a word can be the name of an architecture, as in `packages-x86_64`.
pub(super) fn is_arch_name(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_lowercase())
        && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// Returns the usual spelling of a key: some may be written with underscores, as rpm-ostree allows.
pub(super) fn canonical(key: &str) -> String {
    if key.starts_with("packages-") { key.to_owned() } else { key.replace('_', "-") }
}

/// Returns the key that is used and is spelled most like `key`, if one is similar enough.
pub(super) fn nearest(key: &str) -> Option<&'static str> {
    let used = KEYS.iter().filter(|(_, _, effect)| *effect == Used);
    let (distance, name) = used.map(|(name, ..)| (edit_distance(key, name), *name)).min()?;
    (distance <= key.len().max(name.len()) / 3).then_some(name)
}

/// Returns the edit distance of two words: the letters to add, remove, change or swap with a neighbour.
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + change);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_finds_only_similar_keys() {
        for (wrong, right) in [
            ("package", Some("packages")),
            ("pakcages", Some("packages")),
            ("postproces", Some("postprocess")),
            ("exclude_package", Some("exclude-packages")),
            ("unit", Some("units")),
            ("frobnicate", None),
        ] {
            assert_eq!(nearest(wrong), right, "{wrong}");
        }
    }

    #[test]
    fn keys_are_sorted_and_in_their_usual_spelling() {
        assert!(KEYS.is_sorted_by_key(|(name, ..)| *name));
        assert!(KEYS.iter().all(|(name, ..)| canonical(name) == *name && !name.starts_with("packages-")));
        assert!(find(&canonical("gpg_key")).is_some());
    }

    #[test]
    fn names_of_architectures_are_single_words() {
        assert!(["x86_64", "ppc64", "i686", "loongarch64"].into_iter().all(is_arch_name));
        assert!(!["", "64", "x86-64", "X86"].into_iter().any(is_arch_name));
    }
}
