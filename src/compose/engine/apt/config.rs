//! Writes the configuration of apt for one treefile. It has directories of its own; of this machine's configuration only the
//! keys and the proxies are used.
//!
//! Package lists and package files are kept in the cache, which several composes may use at the same time; each locks what it
//! writes there. A compose resolves and installs from a copy of the lists in its own directory, so that another compose that
//! refreshes the lists meanwhile does not disturb it.
//!
//! *Used by* the other files of this folder.

use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest as _, Sha256};

use super::super::super::process::clean_environment;
use super::super::tool::{find_program, make_directory, write_file};
use super::super::{EngineContext, EngineError};
use super::{debian_arch, local, query, sources};
use crate::compose::packages::Package;
use crate::compose::treefile::Treefile;

/// The configuration files of one compose.
pub(crate) struct AptConfig {
    /// The directory in the cache for the lists of these sources, kept for later composes.
    cache_directory: PathBuf,
    /// The directory of this compose.
    directory: PathBuf,
    path: PathBuf,
    sources: Vec<PathBuf>,
    local: Option<PathBuf>,
}

impl AptConfig {
    /// Writes the configuration for a treefile. `preferences` is the text of apt's preferences: it limits the packages that
    /// apt may choose.
    ///
    /// # Errors
    /// [`EngineError`] for sources that cannot be used.
    pub(crate) fn write(
        context: EngineContext<'_>,
        treefile: &Treefile,
        preferences: &str,
    ) -> Result<Self, EngineError> {
        let texts = sources::source_texts(treefile, context.runner)?;
        let arch = debian_arch(&treefile.arch);
        let key = Sha256::digest(format!("{arch} {texts:?}").as_bytes());
        let key: String = key[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let directory = context.work.join("apt");
        let config = Self {
            cache_directory: context.cache.join("apt").join(key),
            path: directory.join("apt.conf"),
            sources: (0..texts.len()).map(|index| directory.join(source_file_name(index))).collect(),
            local: local::create_repository(&treefile.local_packages, context)?,
            directory,
        };
        for directory in [config.cache_directory.join("lists/partial"), context.cache.join("apt/archives/partial")] {
            make_directory(&directory)?;
        }
        for name in ["lists/partial", "log", "cache", "etc/trusted.gpg.d"] {
            make_directory(&config.directory.join(name))?;
        }
        for (file, text) in config.sources.iter().zip(&texts) {
            write_file(file, text)?;
        }
        write_file(&config.local_list(), config.local.as_deref().map_or_else(String::new, local::source_line))?;
        write_file(&config.directory.join("preferences"), preferences)?;
        let status = context.base.map(|base| query::status(&base.root)).transpose()?;
        write_file(&config.directory.join("status"), status.unwrap_or_default())?;
        let text = config.render(context.cache, treefile);
        write_file(&config.path, text + &machine_proxies())?;
        Ok(config)
    }

    /// Returns the file for `APT_CONFIG`.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the files with the treefile's sources.
    pub(crate) fn sources(&self) -> &[PathBuf] {
        &self.sources
    }

    /// Returns the directory of the repository of local packages, if there are any.
    pub(crate) fn local(&self) -> Option<&Path> {
        self.local.as_deref()
    }

    /// Returns the sources file that names the repository of local packages; it is empty if there is none.
    pub(crate) fn local_list(&self) -> PathBuf {
        self.directory.join("local.list")
    }

    /// Returns the directory of this compose's verified lists.
    pub(crate) fn lists(&self) -> PathBuf {
        self.directory.join("lists")
    }

    /// Returns the directory of the lists that are kept for later composes.
    pub(crate) fn kept_lists(&self) -> PathBuf {
        self.cache_directory.join("lists")
    }

    /// Returns the lock file that is held while the kept lists are refreshed.
    pub(crate) fn lock(&self) -> PathBuf {
        self.cache_directory.join("lock")
    }

    /// Returns the configuration without the proxies.
    pub(super) fn render(&self, cache: &Path, treefile: &Treefile) -> String {
        let (own, arch) = (self.directory.display(), debian_arch(&treefile.arch));
        let (archives, local) = (cache.join("apt/archives").display().to_string(), self.local_list());
        let local = local.display();
        let recommends = treefile.recommends;
        format!(
            r#"APT::Architecture "{arch}";
APT::Architectures {{ "{arch}"; }};
APT::Install-Recommends "{recommends}";
APT::Install-Suggests "false";
APT::Sandbox::User "root";
APT::Get::AllowUnauthenticated "false";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::ForceHash "SHA256";
Dir "{own}";
Dir::State "{own}";
Dir::State::lists "{own}/lists";
Dir::State::status "{own}/status";
Dir::Cache "{own}/cache";
Dir::Cache::archives "{archives}";
Dir::Etc "{own}/etc";
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::sourcelist "{local}";
Dir::Etc::sourceparts "{own}/sources.list.d";
Dir::Etc::preferences "{own}/preferences";
Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::trusted "/etc/apt/trusted.gpg";
Dir::Etc::trustedparts "/etc/apt/trusted.gpg.d";
Dir::Log "{own}/log";
pkgCacheGen::ForceEssential ",";
DPkg::Use-Pty "false";
quiet::NoProgress "true";
"#
        )
    }
}

/// Returns the name of the file for the source with this number, relative to this compose's directory.
fn source_file_name(index: usize) -> String {
    format!("sources.list.d/{index:02}-compose.sources")
}

/// Returns the proxy settings of this machine's apt, as lines of configuration: how the network is reached depends on the
/// machine.
fn machine_proxies() -> String {
    let Ok(program) = find_program("apt-config", "apt", "") else { return String::new() };
    let mut command = Command::new(program);
    command.arg("dump");
    clean_environment(&mut command);
    let output = command.output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let is_proxy = |line: &&str| line.starts_with("Acquire::") && line.to_lowercase().contains("::proxy");
    text.lines().filter(is_proxy).flat_map(|line| [line, "\n"]).collect()
}

/// Returns preferences under which apt may choose exactly these packages.
pub(crate) fn preferences_allowing_only(packages: &[Package]) -> String {
    let mut text = String::from("Package: *\nPin: release *\nPin-Priority: -1\n");
    for package in packages {
        text.push_str(&format!("\nPackage: {}\nPin: version {}\nPin-Priority: 1001\n", package.name, package.version));
    }
    text
}

/// Returns preferences under which apt does not choose these packages.
pub(crate) fn preferences_excluding<'a>(packages: impl Iterator<Item = &'a str>) -> String {
    packages.map(|name| format!("Package: {name}\nPin: release *\nPin-Priority: -1\n\n")).collect()
}
