//! From names to exact packages: apt's own solver, on an empty system.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::super::{Bound, EngineError, Resolution};
use super::config::{self, Config};
use super::{Apt, complaints, io_error, local, output};
use crate::compose::packages::Format;
use crate::compose::process::ProcessError;
use crate::compose::treefile::{Treefile, Variant};

/// How long refreshing the metadata may take.
const UPDATE_LIMIT: Duration = Duration::from_secs(1800);

/// What makes `/bin` a link in a new system, instead of converting an old one.
const MERGED: &str = "usr-is-merged";

/// What converts, and is not needed then.
const CONVERTER: &str = "usrmerge";

/// Refreshes the metadata and resolves.
///
/// # Errors
/// [`EngineError`].
pub fn resolve(apt: &Apt<'_>, treefile: &Treefile, bound: Option<&Bound>) -> Result<Resolution, EngineError> {
    let surroundings = apt.surroundings;
    surroundings.runner.stage("refreshing the package lists");
    let config = Config::write(surroundings, treefile, "")?;
    update(apt, &config)?;
    let is_merged = is_known(apt, &config, MERGED);
    surroundings.runner.stage("resolving packages");
    let mut wanted = vec![pattern(treefile)];
    wanted.extend(treefile.packages.iter().map(|package| query(package)));
    wanted.extend(local::names(&treefile.local_packages, surroundings)?);
    let preferences = match bound {
        Some(bound) => {
            check_available(apt, &config, bound)?;
            config::exactly(&bound.values().cloned().collect::<Vec<_>>())
        }
        None => {
            let wants_converter = treefile.packages.iter().any(|package| package == CONVERTER);
            let converter = (is_merged && !wants_converter).then_some(CONVERTER);
            config::without(treefile.exclude_packages.iter().map(String::as_str).chain(converter))
        }
    };
    if is_merged {
        wanted.push(MERGED.to_owned());
    }
    let excluded: Vec<&String> =
        treefile.exclude_packages.iter().filter(|package| treefile.packages.contains(package)).collect();
    if let Some(package) = excluded.first() {
        return Err(EngineError::Unresolvable(format!("{package} is both in 'packages' and in 'exclude-packages'")));
    }
    let config = Config::write(surroundings, treefile, &preferences)?;
    let mut command = apt.apt_get(&config);
    // What is in the cache already would not be printed.
    let nowhere = surroundings.work.join("apt/nowhere");
    fs::create_dir_all(nowhere.join("partial")).map_err(io_error("make", &nowhere))?;
    command.arg("-q").arg(format!("-oDir::Cache::archives={}", nowhere.display()));
    command.args(["--print-uris", "install"]).args(&wanted);
    let text =
        surroundings.runner.capture("resolving packages", &mut command).map_err(|error| explain(error, bound))?;
    let mut packages = output::resolved(&text)?;
    packages.sort_by(|a, b| a.package.cmp(&b.package));
    if packages.is_empty() {
        return Err(EngineError::Output {
            program: "apt-get",
            line: text.lines().next().unwrap_or_default().to_owned(),
        });
    }
    Ok(Resolution { format: Format::Deb, packages })
}

/// Refreshes the lists in the cache, and copies them to where this compose works.
fn update(apt: &Apt<'_>, config: &Config) -> Result<(), EngineError> {
    {
        let _lock = apt.lock(&config.lock(), "is refreshing the same package lists")?;
        let lists = format!("-oDir::State::lists={}", config.kept_lists().display());
        refresh(apt, config, &[&lists, "-oDir::Etc::sourcelist=/dev/null"])?;
        copy_files(&config.kept_lists(), &config.lists())?;
    }
    match config.local() {
        Some(_) => refresh(apt, config, &["-oDir::Etc::sourceparts=/dev/null", "-oAPT::Get::List-Cleanup=false"]),
        None => Ok(()),
    }
}

fn refresh(apt: &Apt<'_>, config: &Config, options: &[&str]) -> Result<(), EngineError> {
    let mut command = apt.apt_get(config);
    // The tables for searching are made when something is searched, from all lists together.
    command.args(["--error-on=any", "-opkgCacheFile::Generate=false"]).args(options).arg("update");
    match apt.surroundings.runner.run("refreshing the package lists", &mut command, UPDATE_LIMIT) {
        Err(ProcessError::Failed { tail, .. }) => Err(EngineError::Sources(complaints(&tail))),
        other => Ok(other?),
    }
}

/// Copies the files of one directory into another, not what is in directories below it.
fn copy_files(from: &Path, to: &Path) -> Result<(), EngineError> {
    for entry in fs::read_dir(from).map_err(io_error("list", from))? {
        let entry = entry.map_err(io_error("list", from))?;
        let source = entry.path();
        if source.is_file() && entry.file_name() != "lock" {
            let mut text = File::open(&source).map_err(io_error("open", &source))?;
            let mut copy = File::create(to.join(entry.file_name())).map_err(io_error("make", to))?;
            io::copy(&mut text, &mut copy).map_err(io_error("copy", &source))?;
        }
    }
    Ok(())
}

/// Which packages are there without being named, as an expression of apt.
fn pattern(treefile: &Treefile) -> String {
    let set = match treefile.variant {
        Variant::Essential => "?essential",
        Variant::Required => "?or(?essential,?priority(required))",
        Variant::Important => "?or(?essential,?priority(required),?priority(important))",
        Variant::Standard => "?or(?essential,?priority(required),?priority(important),?priority(standard))",
    };
    // Names have dots and pluses in them, and no other characters with a meaning.
    let quote = |name: &String| name.replace('.', "[.]").replace('+', "[+]");
    let without: String =
        treefile.exclude_packages.iter().map(|name| format!(",?not(?name(^{}$))", quote(name))).collect();
    if without.is_empty() { set.to_owned() } else { format!("?and({set}{without})") }
}

/// `name = version` and `name=version` are the same to us.
fn query(package: &str) -> String {
    package.split_whitespace().filter(|word| *word != "==").collect::<Vec<_>>().join("").replace(">=", "")
}

fn is_known(apt: &Apt<'_>, config: &Config, name: &str) -> bool {
    let mut command = apt_cache(config);
    command.args(["show", "--no-all-versions", name]);
    apt.surroundings.runner.capture("asking for a package", &mut command).is_ok_and(|text| !text.is_empty())
}

fn apt_cache(config: &Config) -> Command {
    let mut command = Command::new("apt-cache");
    command.env("APT_CONFIG", config.path()).env("LC_ALL", "C.UTF-8");
    command
}

/// Says which packages of a lock no source has any more.
fn check_available(apt: &Apt<'_>, config: &Config, bound: &Bound) -> Result<(), EngineError> {
    let names: BTreeSet<&str> = bound.keys().map(|(name, _)| name.as_str()).collect();
    let mut command = apt_cache(config);
    command.arg("madison").args(&names);
    let text = apt.surroundings.runner.capture("asking for versions", &mut command)?;
    let available = output::available(&text);
    let gone: Vec<String> = bound
        .values()
        .filter(|package| !available.contains(&(package.name.clone(), package.version.clone())))
        .map(|package| format!("{} {}", package.name, package.version))
        .collect();
    if gone.is_empty() { Ok(()) } else { Err(EngineError::Lock(format!("no source has {}", gone.join(", ")))) }
}

/// What apt says, as an error with a meaning.
fn explain(error: ProcessError, bound: Option<&Bound>) -> EngineError {
    let ProcessError::Failed { tail, .. } = &error else { return error.into() };
    let between = |line: &str, start: &str| Some(line.strip_prefix(start)?.trim_matches('\'').to_owned());
    let unknown: Vec<String> = tail
        .iter()
        .filter_map(|line| {
            between(line, "E: Unable to locate package ")
                .or_else(|| Some(line.strip_prefix("E: Version ")?.replace('\'', "").replace(" was not found", "")))
                .or_else(|| {
                    line.strip_prefix("E: Package ")?
                        .split_once(" has no installation candidate")
                        .map(|(name, _)| name.trim_matches('\'').to_owned())
                })
        })
        .collect();
    let text = || complaints(tail);
    match (unknown.is_empty(), bound) {
        (false, None) => EngineError::UnknownPackages(unknown),
        (false, Some(_)) => EngineError::Lock(format!("it does not contain {}", unknown.join(", "))),
        (true, Some(_)) => EngineError::Lock(format!("its packages are not enough:\n{}", text())),
        (true, None) => EngineError::Unresolvable(text()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_apt_says_becomes_what_it_means() {
        let failed = |lines: &[&str]| ProcessError::Failed {
            what: "x".into(),
            status: std::process::ExitStatus::default(),
            tail: lines.iter().map(|line| (*line).to_owned()).collect(),
            log: "/log".into(),
        };
        let lines = ["E: Unable to locate package nope", "E: Version '9' for 'dash' was not found"];
        let EngineError::UnknownPackages(names) = explain(failed(&lines), None) else { panic!("unknown packages") };
        assert_eq!(names, ["nope", "9 for dash"]);
        let lines = ["Reading…", " a : Depends: b but it is not installable", "E: Unable to correct problems"];
        let message = explain(failed(&lines), None).to_string();
        assert!(message.contains("a : Depends: b") && !message.contains("Reading"), "{message}");
    }
}
