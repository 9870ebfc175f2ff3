//! apt: Debian and its relatives.
//!
//! apt itself resolves and fetches, with directories of its own in the cache and the keys of this machine; mmdebstrap
//! installs. What mmdebstrap is given are the very packages that were resolved, an apt that may choose no others, and no
//! network. So what is committed is what the resolution said, and scripts of packages fetch nothing.

mod config;
mod install;
mod local;
pub mod output;
pub mod query;
mod resolve;
mod sources;

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use self::config::Config;
use super::tool::{find, io_error, sha256};
use super::{Bound, Engine, EngineError, Ownership, Resolution, Resolved, Surroundings, difference};
use crate::compose::packages::Package;
use crate::compose::treefile::Treefile;
use crate::disk::{Lock, Wait};

/// How long fetching may take.
const FETCH_LIMIT: Duration = Duration::from_secs(4 * 3600);

/// apt with mmdebstrap.
pub struct Apt<'a> {
    surroundings: Surroundings<'a>,
    apt_get: PathBuf,
    mmdebstrap: PathBuf,
}

impl<'a> Apt<'a> {
    /// The engine.
    ///
    /// # Errors
    /// [`EngineError::Missing`] when a program is not there.
    pub fn new(surroundings: Surroundings<'a>) -> Result<Self, EngineError> {
        find("dpkg-deb", "dpkg", "it reads packages")?;
        Ok(Self {
            surroundings,
            apt_get: find("apt-get", "apt", "it resolves and fetches packages")?,
            mmdebstrap: find("mmdebstrap", "mmdebstrap", "it installs packages into a root")?,
        })
    }

    /// Where package files are kept.
    fn archives(&self) -> PathBuf {
        self.surroundings.cache.join("apt/archives")
    }

    /// The file of a package: one that the treefile names is this compose's own, the others are in the cache.
    fn file(&self, resolved: &Resolved) -> PathBuf {
        let local = self.surroundings.work.join("apt/local").join(&resolved.file);
        if local.is_file() { local } else { self.archives().join(&resolved.file) }
    }

    /// Waits until no other compose writes to `path`'s surroundings, and keeps others from it.
    fn lock(&self, path: &Path, what: &str) -> Result<Lock, EngineError> {
        let runner = self.surroundings.runner;
        // Its number would be that of another pid namespace.
        let announce = |_: &str| runner.note(&format!("waiting for another compose, which {what}"));
        Ok(Lock::exclusive(path, Wait::Announced(&announce))?)
    }

    fn apt_get(&self, config: &Config) -> Command {
        let mut command = Command::new(&self.apt_get);
        command.env("APT_CONFIG", config.path()).env("LC_ALL", "C.UTF-8").env("LANGUAGE", "C").arg("-y");
        command
    }
}

impl Engine for Apt<'_> {
    fn resolve(&self, treefile: &Treefile, bound: Option<&Bound>) -> Result<Resolution, EngineError> {
        resolve::resolve(self, treefile, bound)
    }

    fn fetch(&self, treefile: &Treefile, resolution: &Resolution) -> Result<i64, EngineError> {
        let runner = self.surroundings.runner;
        let config = Config::write(self.surroundings, treefile, &config::exactly(&resolution.list()))?;
        let lock = self.surroundings.cache.join("apt/archives.lock");
        let _lock = self.lock(&lock, "is fetching packages")?;
        let damaged = |resolved: &&Resolved| !matches!(self.check(resolved), Ok(()));
        let missing: Vec<&Resolved> = resolution.packages.iter().filter(damaged).collect();
        if !missing.is_empty() {
            let bytes: u64 = missing.iter().map(|resolved| resolved.size).sum();
            runner.stage(&format!("fetching {} packages ({} kB)", missing.len(), bytes / 1000));
            for resolved in &missing {
                // apt takes what is there by its size.
                let _ = fs::remove_file(self.archives().join(&resolved.file));
            }
            let mut command = self.apt_get(&config);
            command.args(["--download-only", "--allow-downgrades", "install"]);
            command.args(missing.iter().map(|resolved| exact(&resolved.package)));
            match runner.run("fetching packages", &mut command, FETCH_LIMIT) {
                Err(super::ProcessError::Failed { tail, .. }) => return Err(EngineError::Sources(complaints(&tail))),
                other => other?,
            }
        }
        let mut newest = 0;
        for resolved in &resolution.packages {
            self.check(resolved)?;
            newest = newest.max(build_time(&self.file(resolved)));
        }
        Ok(newest)
    }

    fn install(&self, treefile: &Treefile, resolution: &Resolution, root: &Path, time: i64) -> Result<(), EngineError> {
        install::install(self, treefile, resolution, root, time)?;
        match difference(resolution, &self.installed(root)?) {
            None => Ok(()),
            Some(words) => Err(EngineError::Mismatch(words)),
        }
    }

    fn installed(&self, root: &Path) -> Result<Vec<Package>, EngineError> {
        query::installed(root)
    }

    fn ownership(&self, root: &Path) -> Result<Ownership, EngineError> {
        query::ownership(root)
    }
}

impl Apt<'_> {
    /// Whether the file of a package is there with the announced content.
    fn check(&self, resolved: &Resolved) -> Result<(), EngineError> {
        let found = sha256(&self.file(resolved))?;
        match &resolved.package.sha256 {
            Some(expected) if *expected != found => {
                Err(EngineError::Checksum { file: resolved.file.clone(), expected: expected.clone(), found })
            }
            _ => Ok(()),
        }
    }
}

/// A package as apt is asked for exactly it.
fn exact(package: &Package) -> String {
    match package.arch.as_str() {
        "all" => format!("{}={}", package.name, package.version),
        arch => format!("{}:{arch}={}", package.name, package.version),
    }
}

/// When a package was built: the time of the first member of its archive, which dpkg-deb takes from the changelog.
fn build_time(file: &Path) -> i64 {
    let mut header = [0; 40];
    let read = fs::File::open(file).and_then(|file| file.read_exact_at(&mut header, 0));
    // `!<arch>\n`, 16 bytes of name, 12 of decimal seconds.
    let text = read.ok().and_then(|()| std::str::from_utf8(&header[24..36]).ok().map(str::trim).map(str::to_owned));
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The lines of apt that say what is wrong.
fn complaints(lines: &[String]) -> String {
    let is_telling = |line: &&String| ["E:", "W:", "Err:", " "].iter().any(|start| line.starts_with(start));
    let telling: Vec<&str> = lines.iter().filter(is_telling).map(|line| line.trim_end()).collect();
    if telling.is_empty() { lines.join("\n") } else { telling.join("\n") }
}

/// The architecture as Debian calls it.
fn debian_arch(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "armhfp" => "armhf",
        "ppc64le" => "ppc64el",
        other => other,
    }
}
