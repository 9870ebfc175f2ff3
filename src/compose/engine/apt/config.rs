//! The configuration of apt for one treefile: directories of its own, nothing of this machine's but keys and proxies.
//!
//! Package lists and package files are kept in the cache, which several composes may use at once; each locks what it
//! writes there. What a compose resolves and installs from is a copy of the lists in its own directory: another that
//! refreshes them meanwhile does not take them away.

use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest as _, Sha256};

use super::super::super::process::clean_environment;
use super::super::tool::{find, make_directory, write};
use super::super::{EngineError, Surroundings};
use super::{debian_arch, local, sources};
use crate::compose::packages::Package;
use crate::compose::treefile::Treefile;

/// A configuration that was written.
pub struct Config {
    /// The lists of these sources that are kept for the next compose.
    kept: PathBuf,
    /// This compose's own directory.
    parts: PathBuf,
    path: PathBuf,
    sources: Vec<PathBuf>,
    local: Option<PathBuf>,
}

impl Config {
    /// Writes the configuration for a treefile. `preferences` say which packages may be chosen.
    ///
    /// # Errors
    /// [`EngineError`] for sources that cannot be used.
    pub fn write(surroundings: Surroundings<'_>, treefile: &Treefile, preferences: &str) -> Result<Self, EngineError> {
        let texts = sources::texts(treefile, surroundings.runner)?;
        let arch = debian_arch(&treefile.arch);
        let key = Sha256::digest(format!("{arch} {texts:?}").as_bytes());
        let key: String = key[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let parts = surroundings.work.join("apt");
        let config = Self {
            kept: surroundings.cache.join("apt").join(key),
            path: parts.join("apt.conf"),
            sources: (0..texts.len()).map(|index| parts.join(source_name(index, texts[index].1))).collect(),
            local: local::repository(&treefile.local_packages, surroundings)?,
            parts,
        };
        for directory in [config.kept.join("lists/partial"), surroundings.cache.join("apt/archives/partial")] {
            make_directory(&directory)?;
        }
        for name in ["lists/partial", "log", "cache", "etc/trusted.gpg.d"] {
            make_directory(&config.parts.join(name))?;
        }
        for (file, (text, _)) in config.sources.iter().zip(&texts) {
            write(file, text)?;
        }
        write(&config.local_list(), config.local.as_deref().map_or_else(String::new, local::line))?;
        write(&config.parts.join("preferences"), preferences)?;
        write(&config.parts.join("status"), "")?;
        write(&config.path, config.text(surroundings.cache, treefile))?;
        Ok(config)
    }

    /// The file for `APT_CONFIG`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files with the treefile's sources.
    pub fn sources(&self) -> &[PathBuf] {
        &self.sources
    }

    /// The repository of local packages, if there are any.
    pub fn local(&self) -> Option<&Path> {
        self.local.as_deref()
    }

    /// The file that names that repository to apt; empty if there is none.
    pub fn local_list(&self) -> PathBuf {
        self.parts.join("local.list")
    }

    /// Where the verified lists of this compose are.
    pub fn lists(&self) -> PathBuf {
        self.parts.join("lists")
    }

    /// Where those are that the next compose finds again.
    pub fn kept_lists(&self) -> PathBuf {
        self.kept.join("lists")
    }

    /// What is locked by whoever refreshes them.
    pub fn lock(&self) -> PathBuf {
        self.kept.join("lock")
    }

    fn text(&self, cache: &Path, treefile: &Treefile) -> String {
        let (own, arch) = (self.parts.display(), debian_arch(&treefile.arch));
        let (archives, local) = (cache.join("apt/archives").display().to_string(), self.local_list());
        let local = local.display();
        let recommends = treefile.recommends;
        let proxies = proxies();
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
{proxies}"#
        )
    }
}

/// Where the source with this number is, below this compose's own directory.
fn source_name(index: usize, suffix: &str) -> String {
    format!("sources.list.d/{index:02}-compose.{suffix}")
}

/// How this machine reaches the network is this machine's business.
fn proxies() -> String {
    let Ok(program) = find("apt-config", "apt", "") else { return String::new() };
    let mut command = Command::new(program);
    command.arg("dump");
    clean_environment(&mut command);
    let output = command.output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let is_proxy = |line: &&str| line.starts_with("Acquire::") && line.to_lowercase().contains("::proxy");
    text.lines().filter(is_proxy).flat_map(|line| [line, "\n"]).collect()
}

/// Preferences under which apt may choose these packages and no others.
pub fn exactly(packages: &[Package]) -> String {
    let mut text = String::from("Package: *\nPin: release *\nPin-Priority: -1\n");
    for package in packages {
        text.push_str(&format!("\nPackage: {}\nPin: version {}\nPin-Priority: 1001\n", package.name, package.version));
    }
    text
}

/// Preferences under which apt does not choose these packages.
pub fn without<'a>(packages: impl Iterator<Item = &'a str>) -> String {
    packages.map(|name| format!("Package: {name}\nPin: release *\nPin-Priority: -1\n\n")).collect()
}
