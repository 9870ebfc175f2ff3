//! Moves kernel and initramfs to `/usr/lib/modules/<version>/{vmlinuz,initramfs.img}`, where a deployment looks for them;
//! `/boot` belongs to the machine.

use std::collections::BTreeSet;

use super::super::staged::{StagedTree, join, lossy_text};
use super::LayoutError;

const MODULES: &str = "/usr/lib/modules";

/// The directory for other files of `/boot`, such as boot loaders that packages ship.
const OTHER_BOOT_FILES: &str = "/usr/lib/sapwood/boot";

/// Returns the versions of the kernels in a root, in ascending order.
pub(crate) fn installed_versions(staged: &StagedTree) -> Vec<String> {
    let mut found = BTreeSet::new();
    for name in staged.list("/boot") {
        let name = lossy_text(name.as_bytes());
        for prefix in ["vmlinuz-", "vmlinux-", "Image-"] {
            found.extend(name.strip_prefix(prefix).filter(|version| !version.is_empty()).map(str::to_owned));
        }
    }
    for version in staged.list(MODULES) {
        let version = lossy_text(version.as_bytes());
        if staged.find(format!("{MODULES}/{version}/vmlinuz")).is_some() {
            found.insert(version);
        }
    }
    found.into_iter().collect()
}

/// Chooses the kernel that a commit boots: the only one, or the one that `wanted` names by its version or the beginning of
/// it. Returns `None` if there is no kernel and none is wanted.
pub(crate) fn choose(found: &[String], wanted: Option<&str>) -> Result<Option<String>, LayoutError> {
    let Some(wanted) = wanted else {
        return match found {
            [] => Ok(None),
            [one] => Ok(Some(one.clone())),
            many => Err(LayoutError::ManyKernels(many.to_vec())),
        };
    };
    let exact = found.iter().find(|version| *version == wanted);
    let last = found.iter().rfind(|version| version.starts_with(wanted));
    match exact.or(last) {
        Some(version) => Ok(Some(version.clone())),
        None => Err(LayoutError::NoKernel { wanted: wanted.to_owned(), found: found.to_vec() }),
    }
}

/// Moves the kernel `version` and its files out of `/boot`; other kernels in `/boot` are removed.
pub(crate) fn relocate(staged: &mut StagedTree, version: Option<&str>) -> Result<(), LayoutError> {
    for name in staged.list("/boot") {
        let path = join(b"/boot", name.as_bytes());
        let name = lossy_text(name.as_bytes());
        let belongs = version.and_then(|version| Some((version, installed_name(&name, version)?)));
        let is_kernel_file = ["vmlinu", "Image-", "initrd.img", "initramfs-", "System.map-", "config-", "symvers-"]
            .iter()
            .any(|prefix| name.starts_with(prefix));
        if let Some((version, role)) = belongs {
            let target = format!("{MODULES}/{version}/{role}");
            // The file may be there already: rpm's kernels are in both places.
            if staged.find(&target).is_none() {
                staged.rename(&path, &target)?;
            }
        } else if !is_kernel_file && staged.link_target(&path).is_none_or(|target| target.contains(&b'/')) {
            let is_empty_directory = staged.is_directory(&path) && staged.list(&path).is_empty();
            if !is_empty_directory {
                staged.rename(&path, format!("{OTHER_BOOT_FILES}/{name}"))?;
            }
        }
    }
    if let Some(version) = version {
        let old = format!("{MODULES}/{version}/initrd");
        if staged.find(format!("{MODULES}/{version}/initramfs.img")).is_none() {
            staged.rename(old, format!("{MODULES}/{version}/initramfs.img"))?;
        }
    }
    staged.clear("/boot");
    Ok(())
}

/// Returns the name that a file of `/boot` gets in the directory of its modules, if it belongs to the kernel `version`.
fn installed_name(name: &str, version: &str) -> Option<&'static str> {
    let is = |prefix: &str, suffix: &str| {
        name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(suffix)).is_some_and(|rest| rest == version)
    };
    [
        (is("vmlinuz-", "") || is("vmlinux-", "") || is("Image-", ""), "vmlinuz"),
        (is("initrd.img-", "") || is("initramfs-", ".img") || is("initrd-", ""), "initramfs.img"),
        (is("System.map-", ""), "System.map"),
        (is("config-", ""), "config"),
        (is("symvers-", ".gz") || is("symvers-", ".xz"), "symvers"),
    ]
    .into_iter()
    .find_map(|(fits, role)| fits.then_some(role))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_moves_beside_its_modules() {
        let mut staged = StagedTree::empty();
        for file in ["vmlinuz-6.1", "initrd.img-6.1", "System.map-6.1", "config-6.1", "vmlinuz-5.9", "grub/grub.cfg"] {
            staged.write(format!("/boot/{file}"), file.as_bytes(), 0o644).expect("free");
        }
        staged.write("/usr/lib/modules/6.1/modules.dep", *b"x", 0o644).expect("free");
        staged.ensure_directory("/boot/efi", 0o700).expect("free");
        staged.symlink("/boot/vmlinuz", "vmlinuz-6.1").expect("free");
        assert_eq!(installed_versions(&staged), ["5.9", "6.1"]);
        relocate(&mut staged, Some("6.1")).expect("edits");
        let names: Vec<_> = staged.descendants("/").into_iter().map(|(path, _)| lossy_text(&path)).collect();
        let expected = [
            "/boot",
            "/usr",
            "/usr/lib",
            "/usr/lib/modules",
            "/usr/lib/sapwood",
            "/usr/lib/modules/6.1",
            "/usr/lib/modules/6.1/System.map",
            "/usr/lib/modules/6.1/config",
            "/usr/lib/modules/6.1/initramfs.img",
            "/usr/lib/modules/6.1/modules.dep",
            "/usr/lib/modules/6.1/vmlinuz",
            "/usr/lib/sapwood/boot",
            "/usr/lib/sapwood/boot/grub",
            "/usr/lib/sapwood/boot/grub/grub.cfg",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn choose_takes_the_only_or_the_wanted_kernel() {
        let found = ["6.1.0-9-amd64", "6.12.1-cloud"].map(str::to_owned);
        assert_eq!(choose(&[], None).expect("none"), None);
        assert_eq!(choose(&found[..1], None).expect("one").as_deref(), Some("6.1.0-9-amd64"));
        assert_eq!(choose(&found, Some("6.12")).expect("one").as_deref(), Some("6.12.1-cloud"));
        assert!(choose(&found, None).expect_err("two").to_string().contains("6.12.1-cloud"));
        assert!(choose(&found, Some("7")).is_err());
    }
}
