//! Installing with mmdebstrap, from the cache, without a network.

use std::path::Path;
use std::time::Duration;

use super::super::tool::write;
use super::super::{EngineError, Resolution};
use super::config::{self, Config};
use super::{Apt, debian_arch, exact};
use crate::compose::sandbox::{Network, Sandbox};
use crate::compose::treefile::Treefile;

/// How long installing may take.
const LIMIT: Duration = Duration::from_secs(4 * 3600);

/// What `documentation: false` leaves out; copyright files stay, as licences ask for.
const DOCUMENTATION: [&str; 8] = [
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/doc-base/*",
    "path-exclude=/usr/share/lintian/*",
    "path-exclude=/usr/share/linda/*",
    "path-exclude=/usr/share/help/*",
];

/// Installs.
///
/// # Errors
/// [`EngineError`].
pub fn install(
    apt: &Apt<'_>,
    treefile: &Treefile,
    resolution: &Resolution,
    root: &Path,
    time: i64,
) -> Result<(), EngineError> {
    let surroundings = apt.surroundings;
    let packages = resolution.list();
    surroundings.runner.stage(&format!("installing {} packages", packages.len()));
    let config = Config::write(surroundings, treefile, &config::exactly(&packages))?;
    let hook = surroundings.work.join("apt/setup");
    write(&hook, setup(apt, &config, resolution, treefile))?;
    let mut arguments: Vec<String> = [
        apt.mmdebstrap.to_string_lossy().as_ref(),
        "--mode=root",
        "--format=directory",
        "--variant=essential",
        "--skip=update,check/signed-by",
        "--aptopt=APT::Sandbox::User \"root\"",
        "--aptopt=APT::Install-Recommends \"false\"",
    ]
    .map(str::to_owned)
    .into();
    arguments.push(format!("--architectures={}", debian_arch(&treefile.arch)));
    arguments.push(format!("--setup-hook=sh {} \"$1\"", hook.display()));
    // Preferences and our sources are this compose's, not the system's.
    arguments.push("--customize-hook=rm -f \"$1/etc/apt/preferences.d/sapwood-compose\" \"$1/etc/apt/sources.list.d/sapwood-local.list\" \"$1/etc/apt/apt.conf.d/99mmdebstrap\"".to_owned());
    arguments.extend(exclusions(treefile).into_iter().map(|line| format!("--dpkgopt={line}")));
    arguments.extend(packages.iter().map(|package| format!("--include={}", exact(package))));
    arguments.extend([String::new(), root.to_string_lossy().into_owned()]);
    arguments.extend(config.sources().iter().map(|file| file.to_string_lossy().into_owned()));
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let sandbox = Sandbox::on_host(&words, Network::None)
        .variable("SOURCE_DATE_EPOCH", &time.to_string())
        // Kernels are not to make an initramfs yet: that comes when everything is there.
        .variable("INITRD", "No")
        .variable("PYTHONHASHSEED", "0")
        .variable("TZ", "UTC")
        .variable("HOME", "/root");
    let mut command = sandbox.command();
    command.current_dir(surroundings.work);
    Ok(surroundings.runner.run("installing packages", &mut command, LIMIT)?)
}

/// What dpkg is to leave out.
fn exclusions(treefile: &Treefile) -> Vec<String> {
    let mut lines = Vec::new();
    if !treefile.documentation {
        lines.extend(DOCUMENTATION.map(str::to_owned));
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

/// A script that lays into the new root what apt needs: the indices it verified, the packages, what it may choose; and
/// the links of a merged `/usr`, before anything is unpacked.
fn setup(apt: &Apt<'_>, config: &Config, resolution: &Resolution, treefile: &Treefile) -> String {
    let quote = |path: &Path| format!("'{}'", path.display().to_string().replace('\'', "'\\''"));
    let parts = apt.surroundings.work.join("apt");
    let mut script = format!(
        "set -e\nroot=$1\nmkdir -p \"$root/etc/apt/preferences.d\" \"$root/etc/apt/sources.list.d\" \"$root/var/lib/apt/lists\" \"$root/var/cache/apt/archives\"\n\
         cp -a {}/. \"$root/var/lib/apt/lists/\"\ncp {} \"$root/etc/apt/preferences.d/sapwood-compose\"\n",
        quote(&config.lists()),
        quote(&parts.join("preferences")),
    );
    if config.local().is_some() {
        let list = quote(&config.local_list());
        script.push_str(&format!("cp {list} \"$root/etc/apt/sources.list.d/sapwood-local.list\"\n"));
    }
    script.push_str("cp");
    resolution.packages.iter().for_each(|resolved| script.push_str(&format!(" {}", quote(&apt.file(resolved)))));
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
