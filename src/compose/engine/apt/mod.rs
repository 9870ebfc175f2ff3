//! The engine for apt: Debian and its relatives.
//!
//! apt itself resolves and fetches, with directories of its own in the cache and the keys of this machine; mmdebstrap
//! installs. mmdebstrap gets exactly the packages that were resolved, an apt that may choose no others, and no network. So
//! the commit contains what the resolution said, and scripts of packages fetch nothing.

mod add;
mod config;
mod install;
mod local;
pub mod output;
pub mod query;
mod resolve;
pub mod source_list;
mod sources;

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use self::config::AptConfig;
use super::tool::{file_sha256, find_program, io_error, wait_for_lock};
use super::{
    Engine, EngineContext, EngineError, FileOwners, LockedPackages, Resolution, ResolvedPackage, describe_difference,
};
use crate::compose::packages::Package;
use crate::compose::treefile::{Treefile, debian_arch};

/// The longest time that fetching may take.
const FETCH_TIMEOUT: Duration = Duration::from_secs(4 * 3600);

/// apt with mmdebstrap.
pub(crate) struct Apt<'a> {
    context: EngineContext<'a>,
    apt_get: PathBuf,
    mmdebstrap: PathBuf,
}

impl<'a> Apt<'a> {
    /// Finds the programs of the engine.
    ///
    /// # Errors
    /// [`EngineError::Missing`] if a program is not installed.
    pub(crate) fn new(context: EngineContext<'a>) -> Result<Self, EngineError> {
        find_program("dpkg-deb", "dpkg", "it reads packages")?;
        Ok(Self {
            context,
            apt_get: find_program("apt-get", "apt", "it resolves and fetches packages")?,
            mmdebstrap: find_program("mmdebstrap", "mmdebstrap", "it installs packages into a root")?,
        })
    }

    /// Returns the directory in the cache for package files.
    fn archives_directory(&self) -> PathBuf {
        self.context.cache.join("apt/archives")
    }

    /// Returns the file of a package: this compose's own copy of one that the treefile names, or the one in the cache.
    fn package_file(&self, resolved: &ResolvedPackage) -> PathBuf {
        let local = self.context.work.join("apt/local").join(&resolved.file);
        if local.is_file() { local } else { self.archives_directory().join(&resolved.file) }
    }

    fn apt_get(&self, config: &AptConfig) -> Command {
        let mut command = Command::new(&self.apt_get);
        command.env("APT_CONFIG", config.path()).env("LC_ALL", "C.UTF-8").env("LANGUAGE", "C").arg("-y");
        command
    }
}

impl Engine for Apt<'_> {
    fn resolve(&self, treefile: &Treefile, locked: Option<&LockedPackages>) -> Result<Resolution, EngineError> {
        resolve::resolve(self, treefile, locked)
    }

    fn fetch(&self, treefile: &Treefile, resolution: &Resolution) -> Result<i64, EngineError> {
        let runner = self.context.runner;
        let config = AptConfig::write(
            self.context,
            treefile,
            &config::preferences_allowing_only(&self.context.expected(resolution)),
        )?;
        let lock = self.context.cache.join("apt/archives.lock");
        let _lock = wait_for_lock(runner, &lock, "is fetching packages")?;
        let damaged = |resolved: &&ResolvedPackage| !matches!(self.check_package_file(resolved), Ok(()));
        let missing: Vec<&ResolvedPackage> = resolution.packages.iter().filter(damaged).collect();
        if !missing.is_empty() {
            if self.context.offline {
                let names = missing.iter().map(|resolved| resolved.file.as_str()).collect::<Vec<_>>().join(", ");
                return Err(EngineError::Offline(names));
            }
            let bytes: u64 = missing.iter().map(|resolved| resolved.size).sum();
            runner.stage(&format!("fetching {} packages ({} kB)", missing.len(), bytes / 1000));
            for resolved in &missing {
                // apt would accept a damaged file that has the right size.
                let _ = fs::remove_file(self.archives_directory().join(&resolved.file));
            }
            let mut command = self.apt_get(&config);
            command.args(["--download-only", "--allow-downgrades", "install", "--"]);
            command.args(missing.iter().map(|resolved| exact_spec(&resolved.package)));
            match runner.run("fetching packages", &mut command, FETCH_TIMEOUT) {
                Err(super::ProcessError::Failed { tail, .. }) => return Err(EngineError::Sources(error_lines(&tail))),
                other => other?,
            }
        }
        let mut newest = 0;
        for resolved in &resolution.packages {
            self.check_package_file(resolved)?;
            newest = newest.max(build_time(&self.package_file(resolved)));
        }
        Ok(newest)
    }

    fn install(&self, treefile: &Treefile, resolution: &Resolution, root: &Path, time: i64) -> Result<(), EngineError> {
        match self.context.base {
            None => install::install(self, treefile, resolution, root, time)?,
            Some(_) => add::add(self, treefile, resolution, root, time)?,
        }
        match describe_difference(&self.context.expected(resolution), &self.installed(root)?) {
            None => Ok(()),
            Some(text) => Err(EngineError::Mismatch(text)),
        }
    }

    fn installed(&self, root: &Path) -> Result<Vec<Package>, EngineError> {
        query::installed(root)
    }

    fn file_owners(&self, root: &Path) -> Result<FileOwners, EngineError> {
        query::file_owners(root)
    }
}

impl Apt<'_> {
    /// Checks that the file of a package is there and has the announced content.
    fn check_package_file(&self, resolved: &ResolvedPackage) -> Result<(), EngineError> {
        let found = file_sha256(&self.package_file(resolved))?;
        match &resolved.package.sha256 {
            Some(expected) if *expected != found => {
                Err(EngineError::Checksum { file: resolved.file.clone(), expected: expected.clone(), found })
            }
            _ => Ok(()),
        }
    }
}

/// Returns a package as an argument for apt that matches only it.
fn exact_spec(package: &Package) -> String {
    match package.arch.as_str() {
        "all" => format!("{}={}", package.name, package.version),
        arch => format!("{}:{arch}={}", package.name, package.version),
    }
}

/// Returns the time at which a package was built: that of the first member of its archive, which dpkg-deb takes from the
/// changelog. It is 0 if it cannot be read.
fn build_time(file: &Path) -> i64 {
    let mut header = [0; 40];
    let read = fs::File::open(file).and_then(|file| file.read_exact_at(&mut header, 0));
    // `!<arch>\n`, 16 bytes of name, 12 of decimal seconds.
    let text = read.ok().and_then(|()| std::str::from_utf8(&header[24..36]).ok().map(str::trim).map(str::to_owned));
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Returns the lines of apt's output that describe errors, or all lines if none does.
fn error_lines(lines: &[String]) -> String {
    let is_error = |line: &&String| ["E:", "W:", "Err:", " "].iter().any(|start| line.starts_with(start));
    let errors: Vec<&str> = lines.iter().filter(is_error).map(|line| line.trim_end()).collect();
    if errors.is_empty() { lines.join("\n") } else { errors.join("\n") }
}
