//! The configuration of apt for one treefile: directories of its own, nothing of this machine's but keys and proxies.

use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest as _, Sha256};

use super::super::tool::{find, make_directory, write};
use super::super::{EngineError, Surroundings};
use super::{debian_arch, local, sources};
use crate::compose::packages::Package;
use crate::compose::treefile::Treefile;

/// A configuration that was written.
pub struct Config {
    /// Where apt keeps its state for these sources.
    directory: PathBuf,
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
        let directory = surroundings.cache.join("apt").join(key);
        for name in ["lists/partial", "log", "cache", "dpkg", "etc/trusted.gpg.d"] {
            make_directory(&directory.join(name))?;
        }
        make_directory(&surroundings.cache.join("apt/archives/partial"))?;
        let parts = surroundings.work.join("apt");
        let mut files = Vec::new();
        for (index, (text, suffix)) in texts.iter().enumerate() {
            let file = parts.join(format!("sources.list.d/{index:02}-compose.{suffix}"));
            write(&file, text)?;
            files.push(file);
        }
        let local = local::repository(&treefile.local_packages, surroundings)?;
        if let Some(local) = &local {
            write(&parts.join("sources.list.d/sapwood-local.list"), local::line(local))?;
        }
        write(&parts.join("preferences"), preferences)?;
        write(&directory.join("dpkg/status"), "")?;
        let config = Self { path: parts.join("apt.conf"), directory, sources: files, local };
        write(&config.path, config.text(surroundings.cache, &parts, treefile))?;
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

    /// Where the verified indices are.
    pub fn lists(&self) -> PathBuf {
        self.directory.join("lists")
    }

    fn text(&self, cache: &Path, parts: &Path, treefile: &Treefile) -> String {
        let (own, arch) = (self.directory.display(), debian_arch(&treefile.arch));
        let (cache, parts) = (cache.join("apt").display().to_string(), parts.display());
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
Dir::State::status "{own}/dpkg/status";
Dir::Cache "{own}/cache";
Dir::Cache::archives "{cache}/archives";
Dir::Etc "{own}/etc";
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "{parts}/sources.list.d";
Dir::Etc::preferences "{parts}/preferences";
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

/// How this machine reaches the network is this machine's business.
fn proxies() -> String {
    let Ok(program) = find("apt-config", "apt", "") else { return String::new() };
    let output = Command::new(program).arg("dump").env_remove("APT_CONFIG").output();
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
