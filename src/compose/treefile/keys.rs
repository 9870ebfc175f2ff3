//! The keys that a treefile may have, and rpm-ostree's keys that are not supported.
//!
//! Names and meanings are those of rpm-ostree's treefiles wherever the concept is the same, so that an existing treefile
//! mostly works.
//!
//! *Invariants*: a key that is in neither list is an error and never ignored; for a key that only rpm-ostree supports
//! the error says what to do instead.
//!
//! *Used by* `raw`.

/// Supported keys, including those whose effect is already the only behaviour.
pub(crate) const SUPPORTED: &[&str] = &[
    "add-commit-metadata",
    "add-files",
    "apt-sources",
    "arch-include",
    "automatic-version-prefix",
    "automatic-version-suffix",
    "boot-location",
    "check-groups",
    "check-passwd",
    "conditional-include",
    "container",
    "default-target",
    "distribution",
    "documentation",
    "edition",
    "engine",
    "etc-group-members",
    "exclude-packages",
    "ignore-devices",
    "ignore-removed-groups",
    "ignore-removed-users",
    "include",
    "initramfs",
    "initramfs-args",
    "install-langs",
    "keep-identities",
    "kernel",
    "machineid-compat",
    "metadata",
    "mutate-os-release",
    "no-initramfs",
    "opt-usrlocal",
    "packages",
    "packages-aarch64",
    "packages-armhfp",
    "packages-i386",
    "packages-ppc64le",
    "packages-riscv64",
    "packages-s390x",
    "packages-x86_64",
    "postprocess",
    "postprocess-script",
    "preserve-passwd",
    "readonly-executables",
    "recommends",
    "ref",
    "releasever",
    "remove-files",
    "remove-from-packages",
    "repos",
    "rpmdb",
    "rpmdb-normalize",
    "selinux",
    "selinux-label-version",
    "tmp-is-dir",
    "units",
    "unsigned-repos",
    "variables",
    "variant",
];

/// Keys of rpm-ostree that are not supported, each with what to do instead.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("bootstrap_packages", "put them into 'packages'"),
    ("cliwrap", "programs are never replaced by wrappers"),
    ("cliwrap-binaries", "programs are never replaced by wrappers"),
    ("container-cmd", "commits are not container images"),
    ("ex-jigdo-spec", "it is not supported"),
    ("gpg-key", "commits are signed when they are published: sapwood publish --sign KEY"),
    ("ima", "IMA signatures are not copied"),
    ("lockfile-repos", "list the repositories in 'repos'"),
    ("ostree-layers", "commits are not layered; use 'packages' or 'add-files'"),
    ("ostree-override-layers", "commits are not layered; use 'packages' or 'add-files'"),
    ("platform-module", "modules are not supported"),
    ("modules", "modules are not supported"),
    ("repo-packages", "pin versions in 'packages' or use a lock"),
    ("repo_metadata", "the list of packages is always in the commit"),
    ("repovars", "write the values into the .repo file"),
    ("rojig", "it is not supported"),
    ("sysusers", "sysusers.d lines are always written"),
];

/// Returns what to do instead of a key of rpm-ostree that is not supported.
pub(crate) fn unsupported(key: &str) -> Option<&'static str> {
    let canonical = canonical(key);
    UNSUPPORTED.iter().find(|(name, _)| *name == key || *name == canonical).map(|(_, instead)| *instead)
}

/// Returns the usual spelling of a key: some may be written with underscores, as rpm-ostree allows.
pub(crate) fn canonical(key: &str) -> String {
    match key {
        "packages-x86_64" | "bootstrap_packages" | "repo_metadata" => key.to_owned(),
        _ => key.replace('_', "-"),
    }
}

/// Returns the supported key that is spelled most like `key`, if one is similar enough.
pub(crate) fn nearest(key: &str) -> Option<&'static str> {
    let (distance, name) = SUPPORTED.iter().map(|name| (edit_distance(key, name), *name)).min()?;
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
    fn no_key_is_both_supported_and_unsupported() {
        assert!(SUPPORTED.iter().all(|key| unsupported(key).is_none()));
        assert!(SUPPORTED.is_sorted());
        assert!(unsupported("gpg_key").is_some());
    }
}
