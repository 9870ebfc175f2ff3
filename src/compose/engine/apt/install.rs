//! Installs packages with mmdebstrap, in a sandbox and from the cache.
//!
//! *Used by* `Apt`, which resolved and fetched the packages before.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::tool::{make_directory, write_file, write_program};
use super::super::{EngineError, Resolution};
use super::config::{self, AptConfig};
use super::{Apt, debian_arch, exact_spec};
use crate::compose::process::SEARCH_PATH;
use crate::compose::sandbox::{EngineView, SandboxedCommand};
use crate::compose::treefile::Treefile;

/// The longest time that installing may take.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(4 * 3600);

/// The program that mmdebstrap finds as `tar`. The essential packages are unpacked with it, and one of them has `/proc`, which
/// is mounted already and whose owner cannot be set.
const TAR_SCRIPT: &str = "#!/bin/sh\nexec /bin/tar --exclude=./proc \"$@\"\n";

/// The dpkg filters for `documentation: false`; copyright files stay, as licences require.
const DOCUMENTATION_FILTERS: [&str; 8] = [
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/doc-base/*",
    "path-exclude=/usr/share/lintian/*",
    "path-exclude=/usr/share/linda/*",
    "path-exclude=/usr/share/help/*",
];

pub(crate) fn install(
    apt: &Apt<'_>,
    treefile: &Treefile,
    resolution: &Resolution,
    root: &Path,
    time: i64,
) -> Result<(), EngineError> {
    let context = apt.context;
    let packages = resolution.list();
    context.runner.stage(&format!("installing {} packages", packages.len()));
    let config = AptConfig::write(context, treefile, &config::preferences_allowing_only(&packages))?;
    let directory = context.work.join("apt");
    let hook = directory.join("setup");
    write_file(&hook, setup_script(apt, &config, resolution, treefile))?;
    write_program(&directory.join("programs/tar"), TAR_SCRIPT)?;
    make_directory(root)?;
    let mut arguments: Vec<String> = [
        apt.mmdebstrap.to_string_lossy().as_ref(),
        "--mode=root",
        "--format=directory",
        "--variant=essential",
        // The sandbox has mounted `/proc` and the devices in the root.
        "--skip=update,check/signed-by,check/empty,chroot/mount",
        "--aptopt=APT::Sandbox::User \"root\"",
        "--aptopt=APT::Install-Recommends \"false\"",
    ]
    .map(str::to_owned)
    .into();
    arguments.push(format!("--architectures={}", debian_arch(&treefile.arch)));
    arguments.push(format!("--setup-hook=sh {} \"$1\"", hook.display()));
    // The preferences and the source of local packages belong to this compose, not to the new system.
    arguments.push("--customize-hook=rm -f \"$1/etc/apt/preferences.d/sapwood-compose\" \"$1/etc/apt/sources.list.d/sapwood-local.list\" \"$1/etc/apt/apt.conf.d/99mmdebstrap\"".to_owned());
    arguments.extend(path_filters(treefile).into_iter().map(|line| format!("--dpkgopt={line}")));
    arguments.extend(packages.iter().map(|package| format!("--include={}", exact_spec(package))));
    arguments.extend([String::new(), root.to_string_lossy().into_owned()]);
    arguments.extend(config.sources().iter().map(|file| file.to_string_lossy().into_owned()));
    let command: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let view = EngineView {
        root: Some(root.to_owned()),
        readable: readable_files(&config, &directory, apt),
        writable: Vec::new(),
    };
    let sandbox = SandboxedCommand::engine(view, &command)
        .with_variable("PATH", &format!("{}:{SEARCH_PATH}", directory.join("programs").display()))
        .with_variable("SOURCE_DATE_EPOCH", &time.to_string())
        // Kernel packages must not make an initramfs yet: the compose makes it when the root is complete.
        .with_variable("INITRD", "No")
        .with_variable("PYTHONHASHSEED", "0");
    Ok(sandbox.run(context.runner, "installing packages", INSTALL_TIMEOUT)?)
}

/// Returns what mmdebstrap, and therefore scripts of packages, may read. The configuration of apt is not among it: the addresses
/// of proxies have passwords.
fn readable_files(config: &AptConfig, directory: &Path, apt: &Apt<'_>) -> Vec<PathBuf> {
    let own = ["setup", "preferences", "programs"].map(|name| directory.join(name));
    let indices = [config.lists(), config.local_list(), apt.archives_directory()];
    own.into_iter().chain(indices).chain(config.local().map(Path::to_owned)).chain(config.sources().to_vec()).collect()
}

/// Returns the path filters for dpkg: files that are not installed.
pub(super) fn path_filters(treefile: &Treefile) -> Vec<String> {
    let mut lines = Vec::new();
    if !treefile.documentation {
        lines.extend(DOCUMENTATION_FILTERS.map(str::to_owned));
    }
    if !treefile.install_langs.is_empty() {
        lines.push("path-exclude=/usr/share/locale/*".to_owned());
        lines.push("path-include=/usr/share/locale/locale.alias".to_owned());
        for language in &treefile.install_langs {
            lines.push(format!("path-include=/usr/share/locale/{language}/*"));
            // `de_AT` falls back on `de`.
            if let Some((base, _)) = language.split_once(['_', '@']) {
                lines.push(format!("path-include=/usr/share/locale/{base}/*"));
            }
        }
    }
    lines
}

/// Returns a script that prepares the new root before anything is unpacked: it copies the indices that apt verified, the
/// package files and the preferences, and makes the links of a merged `/usr`.
fn setup_script(apt: &Apt<'_>, config: &AptConfig, resolution: &Resolution, treefile: &Treefile) -> String {
    let quote = |path: &Path| format!("'{}'", path.display().to_string().replace('\'', "'\\''"));
    let directory = apt.context.work.join("apt");
    let mut script = format!(
        "set -e\nroot=$1\nmkdir -p \"$root/etc/apt/preferences.d\" \"$root/etc/apt/sources.list.d\" \"$root/var/lib/apt/lists\" \"$root/var/cache/apt/archives\"\n\
         cp -a {}/. \"$root/var/lib/apt/lists/\"\ncp {} \"$root/etc/apt/preferences.d/sapwood-compose\"\n",
        quote(&config.lists()),
        quote(&directory.join("preferences")),
    );
    if config.local().is_some() {
        let list = quote(&config.local_list());
        script.push_str(&format!("cp {list} \"$root/etc/apt/sources.list.d/sapwood-local.list\"\n"));
    }
    script.push_str("cp");
    resolution
        .packages
        .iter()
        .for_each(|resolved| script.push_str(&format!(" {}", quote(&apt.package_file(resolved)))));
    script.push_str(" \"$root/var/cache/apt/archives/\"\n");
    let libraries = match debian_arch(&treefile.arch) {
        "amd64" => "lib32 lib64 libx32",
        "ppc64el" | "loong64" => "lib64",
        "i386" => "lib64 libx32",
        "s390x" => "lib32",
        _ => "",
    };
    script.push_str(&format!(
        "for name in bin sbin lib {libraries}; do mkdir -p \"$root/usr/$name\"; ln -s \"usr/$name\" \"$root/$name\"; done\n"
    ));
    script
}
