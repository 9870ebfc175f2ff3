//! The keys a treefile may have, and what becomes of each.
//!
//! Names and meanings are those of rpm-ostree's treefiles wherever the concept is the same, so that an existing one
//! mostly works. A key that is in neither list is a mistake; one that rpm-ostree has and we have not says so, rather
//! than being ignored.

/// Keys that do something here, or whose wish is granted without doing anything.
pub const SUPPORTED: &[&str] = &[
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

/// Keys that rpm-ostree has and we have not, with what to do instead.
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

/// What is known of a key that is not supported.
pub fn unsupported(key: &str) -> Option<&'static str> {
    let canonical = canonical(key);
    UNSUPPORTED.iter().find(|(name, _)| *name == key || *name == canonical).map(|(_, instead)| *instead)
}

/// Some keys may be written with underscores, as rpm-ostree allows.
pub fn canonical(key: &str) -> String {
    match key {
        "packages-x86_64" | "bootstrap_packages" | "repo_metadata" => key.to_owned(),
        _ => key.replace('_', "-"),
    }
}

/// The supported key that looks most like `key`, if any does.
pub fn nearest(key: &str) -> Option<&'static str> {
    let (distance, name) = SUPPORTED.iter().map(|name| (distance(key, name), *name)).min()?;
    (distance <= key.len().max(name.len()) / 3).then_some(name)
}

/// The number of letters to add, remove, change or swap with a neighbour to get from one word to the other.
fn distance(a: &str, b: &str) -> usize {
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
    fn the_nearest_key_is_near() {
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
    fn no_key_is_both_supported_and_not() {
        assert!(SUPPORTED.iter().all(|key| unsupported(key).is_none()));
        assert!(SUPPORTED.is_sorted());
        assert!(unsupported("gpg_key").is_some());
    }
}
