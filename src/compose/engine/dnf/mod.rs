//! dnf: Fedora and its relatives.
//!
//! dnf's library resolves (`driver.py`, by the Python that dnf itself runs with), dnf fetches and installs into an
//! installroot. What it installs are the very packages that were resolved, from its cache, without a network, every
//! signature checked against the keys that the `.repo` files name. rpm's database is brought to one value afterwards:
//! install times are the commit's, rows are in the order of names.
//!
//! This is dnf 4 (Debian's `dnf`, Enterprise Linux, `python3-dnf` on Fedora); dnf 5 has another library.

mod config;
pub mod output;
mod query;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use self::config::Config;
use super::tool::{find, io_error, sha256};
use super::{Bound, Engine, EngineError, Ownership, Resolution, Resolved, Surroundings, difference};
use crate::compose::packages::{Format, Package};
use crate::compose::sandbox::{Network, Sandbox};
use crate::compose::treefile::Treefile;

/// What only the library can tell.
const DRIVER: &str = include_str!("driver.py");

/// How long fetching or installing may take.
const LIMIT: Duration = Duration::from_secs(4 * 3600);

/// What rpm says of a script that failed, although it goes on.
const SCRIPT_FAILED: &str = "scriptlet failed";

/// dnf with rpm.
pub struct Dnf<'a> {
    surroundings: Surroundings<'a>,
    dnf: PathBuf,
    python: String,
}

impl<'a> Dnf<'a> {
    /// The engine.
    ///
    /// # Errors
    /// [`EngineError::Missing`] when a program is not there.
    pub fn new(surroundings: Surroundings<'a>) -> Result<Self, EngineError> {
        find("rpm", "rpm", "it reads packages and their database")?;
        let dnf =
            find("dnf-3", "dnf", "it installs packages").or_else(|_| find("dnf", "dnf", "it installs packages"))?;
        // The library belongs to the Python that dnf runs with, which need not be the first in the search path.
        let text = std::fs::read(&dnf).map_err(io_error("read", &dnf))?;
        let first = String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned();
        let python = first.strip_prefix("#!").and_then(|line| line.split_whitespace().next()).map(str::to_owned);
        let python = python.filter(|python| python.contains("python")).ok_or_else(|| EngineError::Missing {
            program: "dnf 4".to_owned(),
            package: "dnf; Fedora: dnf install python3-dnf",
            purpose: "what is installed is another dnf",
        })?;
        Ok(Self { surroundings, dnf, python })
    }

    /// Asks the library.
    fn ask(&self, command: &str, options: &Value) -> Result<Value, EngineError> {
        let driver = self.surroundings.work.join("dnf/driver.py");
        super::tool::write(&driver, DRIVER)?;
        let mut process = Command::new(&self.python);
        process.arg(&driver).args([command, &options.to_string()]).envs(self.environment());
        let text = self.surroundings.runner.capture("asking dnf", &mut process)?;
        output::answer(&text)
    }

    /// Configuration of rpm is read from the home directory.
    fn environment(&self) -> [(&'static str, String); 4] {
        let home = self.surroundings.work.join("dnf/home").to_string_lossy().into_owned();
        [("HOME", home), ("LC_ALL", "C.UTF-8".into()), ("LANGUAGE", "C".into()), ("TZ", "UTC".into())]
    }

    fn options(&self, config: &Config, treefile: &Treefile) -> Value {
        json!({
            "conf": config.path(),
            "root": self.surroundings.work.join("dnf/empty"),
            "state": self.surroundings.work.join("dnf/state"),
            "repos": treefile.repos,
            "substitutions": config.substitutions(treefile),
        })
    }

    /// `dnf -c … --installroot …` with what is the same for fetching and installing.
    fn command_line(&self, config: &Config, treefile: &Treefile, root: &Path) -> Vec<String> {
        let mut words = vec![
            self.dnf.to_string_lossy().into_owned(),
            "--assumeyes".to_owned(),
            format!("--config={}", config.path().display()),
            format!("--installroot={}", root.display()),
            format!("--setopt=install_weak_deps={}", if treefile.recommends { "1" } else { "0" }),
        ];
        words.extend(treefile.releasever.iter().map(|release| format!("--releasever={release}")));
        if !treefile.repos.is_empty() {
            words.push("--disablerepo=*".to_owned());
            words.extend(treefile.repos.iter().map(|repo| format!("--enablerepo={repo}")));
        }
        words
    }

    /// The packages of a resolution as arguments.
    fn specs(treefile: &Treefile, resolution: &Resolution) -> Vec<String> {
        let is_local = |resolved: &&Resolved| treefile.local_packages.contains(&PathBuf::from(&resolved.file));
        let named = resolution.packages.iter().filter(|resolved| !is_local(resolved));
        let local = treefile.local_packages.iter().map(|file| file.to_string_lossy().into_owned());
        named.map(|resolved| nevra(&resolved.package)).chain(local).collect()
    }
}

impl Engine for Dnf<'_> {
    fn resolve(&self, treefile: &Treefile, bound: Option<&Bound>) -> Result<Resolution, EngineError> {
        let runner = self.surroundings.runner;
        runner.stage("refreshing the package lists");
        let config = Config::write(self.surroundings, treefile)?;
        let mut options = self.options(&config, treefile);
        options["packages"] = json!(treefile.packages);
        options["exclude"] = json!(treefile.exclude_packages);
        options["local"] = json!(treefile.local_packages);
        options["bound"] = json!(bound.map(|bound| bound.values().map(nevra).collect::<Vec<_>>()));
        let answer = self.ask("resolve", &options).map_err(|error| match error {
            EngineError::UnknownPackages(names) if bound.is_some() => {
                EngineError::Lock(format!("it does not contain {}", names.join(", ")))
            }
            EngineError::Unresolvable(text) if bound.is_some() => {
                EngineError::Lock(format!("its packages are not enough:\n{text}"))
            }
            other => other,
        })?;
        let mut packages = Vec::new();
        for told in output::told(&answer)? {
            let mut package = told.package();
            if package.sha256.is_none() && Path::new(&told.file).is_file() {
                package.sha256 = Some(sha256(Path::new(&told.file))?);
            }
            packages.push(Resolved { package, file: told.file, size: told.size });
        }
        packages.sort_by(|a, b| a.package.cmp(&b.package));
        Ok(Resolution { format: Format::Rpm, packages })
    }

    fn fetch(&self, treefile: &Treefile, resolution: &Resolution) -> Result<i64, EngineError> {
        let runner = self.surroundings.runner;
        runner.stage(&format!("fetching {} packages ({} kB)", resolution.packages.len(), resolution.bytes() / 1000));
        let config = Config::write(self.surroundings, treefile)?;
        let keys = self.ask("keys", &self.options(&config, treefile))?;
        config.keep_keys(&keys["keys"])?;
        let mut words = self.command_line(&config, treefile, &self.surroundings.work.join("dnf/empty"));
        words.extend(["--downloadonly", "install"].map(str::to_owned));
        words.extend(Self::specs(treefile, resolution));
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).envs(self.environment());
        runner.run("fetching packages", &mut command, LIMIT)?;
        for resolved in &resolution.packages {
            let found = sha256(Path::new(&resolved.file))?;
            if let Some(expected) = resolved.package.sha256.as_ref().filter(|expected| **expected != found) {
                let (file, expected) = (resolved.file.clone(), expected.clone());
                return Err(EngineError::Checksum { file, expected, found });
            }
        }
        query::newest(runner, resolution)
    }

    fn install(&self, treefile: &Treefile, resolution: &Resolution, root: &Path, time: i64) -> Result<(), EngineError> {
        let runner = self.surroundings.runner;
        runner.stage(&format!("installing {} packages", resolution.packages.len()));
        std::fs::create_dir_all(root).map_err(io_error("make", root))?;
        let config = Config::with_kept_keys(self.surroundings, treefile)?;
        let mut words = self.command_line(&config, treefile, root);
        words.extend(["--cacheonly", "install"].map(str::to_owned));
        words.extend(Self::specs(treefile, resolution));
        let script = config.with_mounts(root)?;
        let mut command = vec!["sh", script.as_str()];
        command.extend(words.iter().map(String::as_str));
        let mut sandbox = Sandbox::on_host(&command, Network::None).variable("SOURCE_DATE_EPOCH", &time.to_string());
        for (name, value) in self.environment() {
            sandbox = sandbox.variable(name, &value);
        }
        let log_before = std::fs::metadata(runner.log.path()).map_or(0, |metadata| metadata.len());
        runner.run("installing packages", &mut sandbox.command(), LIMIT)?;
        query::refuse_failed_scripts(runner, log_before, SCRIPT_FAILED)?;
        self.normalise(root, time)?;
        match difference(resolution, &self.installed(root)?) {
            None => Ok(()),
            Some(words) => Err(EngineError::Mismatch(words)),
        }
    }

    fn installed(&self, root: &Path) -> Result<Vec<Package>, EngineError> {
        query::installed(self.surroundings.runner, root)
    }

    fn ownership(&self, root: &Path) -> Result<Ownership, EngineError> {
        query::ownership(self.surroundings.runner, root)
    }
}

impl Dnf<'_> {
    /// Brings the database to one value, and removes what dnf remembers of the run.
    fn normalise(&self, root: &Path, time: i64) -> Result<(), EngineError> {
        let database = query::database(root).join("rpmdb.sqlite");
        if database.is_file() {
            self.ask("normalise", &json!({ "database": database, "time": u32::try_from(time).unwrap_or(0) }))?;
        }
        Ok(())
    }
}

/// A package as dnf is asked for exactly it.
fn nevra(package: &Package) -> String {
    match package.version.split_once(':') {
        Some((epoch, rest)) => format!("{}-{epoch}:{rest}.{}", package.name, package.arch),
        None => format!("{}-0:{}.{}", package.name, package.version, package.arch),
    }
}
