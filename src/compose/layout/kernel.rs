//! Kernel and initramfs move to `/usr/lib/modules/<version>/{vmlinuz,initramfs.img}`, where whoever deploys a commit
//! looks for them; `/boot` belongs to the machine.

use std::collections::BTreeSet;

use super::super::draft::{Draft, join, words};
use super::LayoutError;

const MODULES: &str = "/usr/lib/modules";

/// What becomes of other files of `/boot`, such as boot loaders that packages ship.
const REST: &str = "/usr/lib/sapwood/boot";

/// The versions of the kernels in a root, in ascending order.
#[must_use]
pub fn versions(draft: &Draft) -> Vec<String> {
    let mut found = BTreeSet::new();
    for name in draft.list("/boot") {
        let name = words(name.as_bytes());
        for prefix in ["vmlinuz-", "vmlinux-", "Image-"] {
            found.extend(name.strip_prefix(prefix).filter(|version| !version.is_empty()).map(str::to_owned));
        }
    }
    for version in draft.list(MODULES) {
        let version = words(version.as_bytes());
        if draft.find(format!("{MODULES}/{version}/vmlinuz")).is_some() {
            found.insert(version);
        }
    }
    found.into_iter().collect()
}

/// The one kernel that a commit boots: the only one, or the one that is wanted; a version or the start of one.
///
/// # Errors
/// [`LayoutError::ManyKernels`] and [`LayoutError::NoKernel`].
pub fn choose(found: &[String], wanted: Option<&str>) -> Result<Option<String>, LayoutError> {
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

/// Moves the kernel `version` and what belongs to it; other kernels in `/boot` go.
///
/// # Errors
/// [`LayoutError::Draft`].
pub fn place(draft: &mut Draft, version: Option<&str>) -> Result<(), LayoutError> {
    for name in draft.list("/boot") {
        let path = join(b"/boot", name.as_bytes());
        let name = words(name.as_bytes());
        let belongs = version.and_then(|version| Some((version, role(&name, version)?)));
        let is_kernel_file = ["vmlinu", "Image-", "initrd.img", "initramfs-", "System.map-", "config-", "symvers-"]
            .iter()
            .any(|prefix| name.starts_with(prefix));
        if let Some((version, role)) = belongs {
            let target = format!("{MODULES}/{version}/{role}");
            // The same file may be there already: rpm's kernels are in both places.
            if draft.find(&target).is_none() {
                draft.rename(&path, &target)?;
            }
        } else if !is_kernel_file && draft.link_target(&path).is_none_or(|target| target.contains(&b'/')) {
            let is_empty_directory = draft.is_directory(&path) && draft.list(&path).is_empty();
            if !is_empty_directory {
                draft.rename(&path, format!("{REST}/{name}"))?;
            }
        }
    }
    if let Some(version) = version {
        let old = format!("{MODULES}/{version}/initrd");
        if draft.find(format!("{MODULES}/{version}/initramfs.img")).is_none() {
            draft.rename(old, format!("{MODULES}/{version}/initramfs.img"))?;
        }
    }
    draft.clear("/boot");
    Ok(())
}

/// What a file of `/boot` is called beside the modules.
fn role(name: &str, version: &str) -> Option<&'static str> {
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
    fn the_kernel_moves_beside_its_modules() {
        let mut draft = Draft::empty();
        for file in ["vmlinuz-6.1", "initrd.img-6.1", "System.map-6.1", "config-6.1", "vmlinuz-5.9", "grub/grub.cfg"] {
            draft.write(format!("/boot/{file}"), file.as_bytes(), 0o644).expect("free");
        }
        draft.write("/usr/lib/modules/6.1/modules.dep", *b"x", 0o644).expect("free");
        draft.directory("/boot/efi", 0o700).expect("free");
        draft.symlink("/boot/vmlinuz", "vmlinuz-6.1").expect("free");
        assert_eq!(versions(&draft), ["5.9", "6.1"]);
        place(&mut draft, Some("6.1")).expect("edits");
        let names: Vec<_> = draft.below("/").into_iter().map(|(path, _)| words(&path)).collect();
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
    fn one_kernel_is_chosen_or_none_is_there() {
        let found = ["6.1.0-9-amd64", "6.12.1-cloud"].map(str::to_owned);
        assert_eq!(choose(&[], None).expect("none"), None);
        assert_eq!(choose(&found[..1], None).expect("one").as_deref(), Some("6.1.0-9-amd64"));
        assert_eq!(choose(&found, Some("6.12")).expect("one").as_deref(), Some("6.12.1-cloud"));
        assert!(choose(&found, None).expect_err("two").to_string().contains("6.12.1-cloud"));
        assert!(choose(&found, Some("7")).is_err());
    }
}
