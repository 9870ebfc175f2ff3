//! The engine for dnf: Fedora and its relatives.
//!
//! dnf's library resolves (`driver.py`, run by the Python that dnf itself uses); dnf fetches, and checks every signature with
//! the keys that the `.repo` files name. rpm installs exactly the packages that were resolved, in a sandbox. Afterwards its
//! database is normalised: install times are the commit's, rows are in the order of names. What reads or writes the files of a
//! package or of the root runs in a sandbox, too.
//!
//! This is dnf 4 (Debian's `dnf`, Enterprise Linux, `python3-dnf` on Fedora); dnf 5 has another library.

mod config;
pub mod output;
mod query;
pub mod repo_file;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use self::config::DnfConfig;
use super::tool::{file_sha256, find_program, io_error, is_plain_file, make_directory, wait_for_lock};
use super::{
    Engine, EngineContext, EngineError, FileOwners, LockedPackages, Resolution, ResolvedPackage, describe_difference,
};
use crate::compose::packages::{Package, PackageFormat};
use crate::compose::sandbox::{EngineView, SandboxedCommand};
use crate::compose::treefile::Treefile;
use crate::disk::Lock;

/// The driver: a Python program that calls dnf's library.
const DRIVER_SOURCE: &str = include_str!("driver.py");

/// The longest time that fetching or installing may take.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(4 * 3600);

/// The text in rpm's warning about a script that failed.
const SCRIPT_FAILED_MARK: &str = "scriptlet failed";

/// dnf with rpm.
pub(crate) struct Dnf<'a> {
    context: EngineContext<'a>,
    dnf: PathBuf,
    python: String,
}

impl<'a> Dnf<'a> {
    /// Finds the programs of the engine.
    ///
    /// # Errors
    /// [`EngineError::Missing`] if a program is not installed.
    pub(crate) fn new(context: EngineContext<'a>) -> Result<Self, EngineError> {
        find_program("rpm", "rpm", "it reads packages and their database")?;
        let dnf = find_program("dnf-3", "dnf", "it installs packages")
            .or_else(|_| find_program("dnf", "dnf", "it installs packages"))?;
        // The library belongs to the Python that dnf runs with, which need not be the first in the search path.
        let text = std::fs::read(&dnf).map_err(io_error("read", &dnf))?;
        let first = String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned();
        let python = first.strip_prefix("#!").and_then(|line| line.split_whitespace().next()).map(str::to_owned);
        let python = python.filter(|python| python.contains("python")).ok_or_else(|| EngineError::Missing {
            program: "dnf 4".to_owned(),
            package: "dnf; Fedora: dnf install python3-dnf",
            purpose: "what is installed is another dnf",
        })?;
        Ok(Self { context, dnf, python })
    }

    /// Runs a command of the driver and returns its answer.
    fn call_driver(&self, command: &str, options: &Value) -> Result<Value, EngineError> {
        let mut process = Command::new(&self.python);
        process.arg(self.write_driver()?).args([command, &options.to_string()]).envs(self.environment());
        let text = self.context.runner.capture("asking dnf", &mut process)?;
        output::parse_answer(&text)
    }

    /// Locks the cache: dnf's own lock of it makes a second dnf fail.
    fn lock_cache(&self) -> Result<Lock, EngineError> {
        wait_for_lock(self.context.runner, &self.context.cache.join("dnf.lock"), "is using the packages of dnf")
    }

    /// Returns the directory that dnf resolves for: with the database of the base, or empty.
    fn installed_root(&self) -> PathBuf {
        self.context.base.map_or_else(|| self.context.work.join("dnf/empty"), |base| base.root.clone())
    }

    fn write_driver(&self) -> Result<PathBuf, EngineError> {
        let driver = self.context.work.join("dnf/driver.py");
        super::tool::write_file(&driver, DRIVER_SOURCE)?;
        Ok(driver)
    }

    /// Returns the environment for dnf, rpm and the driver. rpm reads its configuration from the home directory.
    fn environment(&self) -> [(&'static str, String); 4] {
        let home = self.context.work.join("dnf/home").to_string_lossy().into_owned();
        [("HOME", home), ("LC_ALL", "C.UTF-8".into()), ("LANGUAGE", "C".into()), ("TZ", "UTC".into())]
    }

    fn driver_options(&self, config: &DnfConfig, treefile: &Treefile) -> Value {
        json!({
            "conf": config.path(),
            "root": self.installed_root(),
            "base": self.context.base.is_some(),
            "offline": self.context.offline,
            "state": self.context.work.join("dnf/state"),
            "repos": treefile.repos,
            "substitutions": config.substitutions(treefile),
        })
    }

    /// Returns `dnf --config=… --installroot=…` and the other options of fetching.
    fn command_line(&self, config: &DnfConfig, treefile: &Treefile, root: &Path) -> Vec<String> {
        let mut arguments = vec![
            self.dnf.to_string_lossy().into_owned(),
            "--assumeyes".to_owned(),
            format!("--config={}", config.path().display()),
            format!("--installroot={}", root.display()),
            // All packages are named, those that are only recommended as well; nothing is to be added to them.
            "--setopt=install_weak_deps=0".to_owned(),
        ];
        arguments.extend(self.context.offline.then(|| "--cacheonly".to_owned()));
        arguments.extend(treefile.releasever.iter().map(|release| format!("--releasever={release}")));
        if !treefile.repos.is_empty() {
            arguments.push("--disablerepo=*".to_owned());
            arguments.extend(treefile.repos.iter().map(|repo| format!("--enablerepo={repo}")));
        }
        arguments
    }

    /// Returns the packages of a resolution as arguments for dnf.
    fn package_specs(treefile: &Treefile, resolution: &Resolution) -> Vec<String> {
        let is_local = |resolved: &&ResolvedPackage| treefile.local_packages.contains(&PathBuf::from(&resolved.file));
        let named = resolution.packages.iter().filter(|resolved| !is_local(resolved));
        let local = treefile.local_packages.iter().map(|file| file.to_string_lossy().into_owned());
        named.map(|resolved| nevra(&resolved.package)).chain(local).collect()
    }
}

impl Engine for Dnf<'_> {
    fn resolve(&self, treefile: &Treefile, locked: Option<&LockedPackages>) -> Result<Resolution, EngineError> {
        let runner = self.context.runner;
        runner.stage("refreshing the package lists");
        let config = DnfConfig::write(self.context, treefile)?;
        let _lock = self.lock_cache()?;
        let mut options = self.driver_options(&config, treefile);
        options["packages"] = json!(treefile.packages);
        options["repo_packages"] = json!(treefile.repo_packages);
        options["exclude"] = json!(treefile.exclude_packages);
        options["local"] = json!(treefile.local_packages);
        options["bound"] = json!(locked.map(|locked| locked.values().map(nevra).collect::<Vec<_>>()));
        let answer = self.call_driver("resolve", &options).map_err(|error| match error {
            EngineError::UnknownPackages(names) if locked.is_some() => {
                EngineError::Lock(format!("it does not contain {}", names.join(", ")))
            }
            EngineError::Unresolvable(text) if locked.is_some() => {
                EngineError::Lock(format!("its packages are not enough:\n{text}"))
            }
            other => other,
        })?;
        let mut packages = Vec::new();
        for found in output::parse_packages(&answer)? {
            let mut package = found.package();
            if package.sha256.is_none() && Path::new(&found.file).is_file() {
                package.sha256 = Some(file_sha256(Path::new(&found.file))?);
            }
            packages.push(ResolvedPackage { package, file: found.file, size: found.size });
        }
        packages.sort_by(|a, b| a.package.cmp(&b.package));
        Ok(Resolution { format: PackageFormat::Rpm, packages })
    }

    fn fetch(&self, treefile: &Treefile, resolution: &Resolution) -> Result<i64, EngineError> {
        let runner = self.context.runner;
        runner.stage(&format!("fetching {} packages ({} kB)", resolution.packages.len(), resolution.bytes() / 1000));
        let config = DnfConfig::write(self.context, treefile)?;
        let _lock = self.lock_cache()?;
        let mut arguments = self.command_line(&config, treefile, &self.installed_root());
        arguments.extend(["--downloadonly", "install", "--"].map(str::to_owned));
        arguments.extend(Self::package_specs(treefile, resolution));
        let mut command = Command::new(&arguments[0]);
        command.args(&arguments[1..]).envs(self.environment());
        runner.run("fetching packages", &mut command, TRANSACTION_TIMEOUT)?;
        for resolved in &resolution.packages {
            let found = file_sha256(Path::new(&resolved.file))?;
            if let Some(expected) = resolved.package.sha256.as_ref().filter(|expected| **expected != found) {
                let (file, expected) = (resolved.file.clone(), expected.clone());
                return Err(EngineError::Checksum { file, expected, found });
            }
        }
        query::newest_build_time(runner, &self.package_files(resolution)?)
    }

    fn install(&self, treefile: &Treefile, resolution: &Resolution, root: &Path, time: i64) -> Result<(), EngineError> {
        let runner = self.context.runner;
        runner.stage(&format!("installing {} packages", resolution.packages.len()));
        // The packages' own mode of `/proc`, which is mounted while they are unpacked.
        let proc = root.join("proc");
        make_directory(&proc)?;
        std::fs::set_permissions(&proc, Permissions::from_mode(0o555)).map_err(io_error("change", &proc))?;
        DnfConfig::write(self.context, treefile)?;
        let files = self.package_files(resolution)?;
        let path = root.to_string_lossy();
        // A package of a base is replaced by its newer version; kernels that are installed at once stay beside each other.
        let action = if self.context.base.is_some() { "--upgrade" } else { "--install" };
        let mut command = vec!["rpm", "--root", path.as_ref(), action, "--verbose", "--nosignature"];
        if !treefile.documentation {
            command.push("--excludedocs");
        }
        command.push("--");
        command.extend(files.iter().map(|file| file.to_str().unwrap_or_default()));
        // Scripts of packages see these, too, so the configuration of dnf, which has passwords of proxies, is not among them.
        let readable = [&[self.context.work.join("dnf/home")][..], &files].concat();
        let view = EngineView { root: Some(root.to_owned()), readable, writable: Vec::new() };
        let mut sandbox =
            SandboxedCommand::engine(view, &command).with_variable("SOURCE_DATE_EPOCH", &time.to_string());
        for (name, value) in self.environment() {
            sandbox = sandbox.with_variable(name, &value);
        }
        let log_before = std::fs::metadata(runner.log.path()).map_or(0, |metadata| metadata.len());
        sandbox.run(runner, "installing packages", TRANSACTION_TIMEOUT)?;
        query::refuse_failed_scripts(runner, log_before, SCRIPT_FAILED_MARK)?;
        self.normalise_database(root, time)?;
        match describe_difference(&self.context.expected(resolution), &self.installed(root)?) {
            None => Ok(()),
            Some(text) => Err(EngineError::Mismatch(text)),
        }
    }

    fn installed(&self, root: &Path) -> Result<Vec<Package>, EngineError> {
        query::installed(self.context.runner, root)
    }

    fn file_owners(&self, root: &Path) -> Result<FileOwners, EngineError> {
        query::file_owners(self.context.runner, root)
    }
}

impl Dnf<'_> {
    /// Normalises rpm's database, so that two equal installs give equal bytes.
    fn normalise_database(&self, root: &Path, time: i64) -> Result<(), EngineError> {
        let Some(directory) = query::database_directory(root)? else { return Ok(()) };
        let database = directory.join("rpmdb.sqlite");
        if !is_plain_file(&database) {
            return Ok(());
        }
        let driver = self.write_driver()?;
        let options = json!({ "database": database, "time": u32::try_from(time).unwrap_or(0) }).to_string();
        let command = [&self.python, driver.to_str().unwrap_or_default(), "normalise", &options];
        let view = EngineView { root: None, readable: vec![driver.clone()], writable: vec![directory] };
        let sandbox = SandboxedCommand::engine(view, &command);
        output::parse_answer(&sandbox.capture(self.context.runner, "normalising rpm's database")?).map(drop)
    }

    /// Returns the files of the packages, under paths without links.
    fn package_files(&self, resolution: &Resolution) -> Result<Vec<PathBuf>, EngineError> {
        let files = resolution.packages.iter().map(|resolved| Path::new(&resolved.file));
        files.map(|file| file.canonicalize().map_err(io_error("find", file))).collect()
    }
}

/// Returns a package as an argument for dnf that matches only it.
fn nevra(package: &Package) -> String {
    match package.version.split_once(':') {
        Some((epoch, rest)) => format!("{}-{epoch}:{rest}.{}", package.name, package.arch),
        None => format!("{}-0:{}.{}", package.name, package.version, package.arch),
    }
}
