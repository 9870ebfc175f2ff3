//! Resolves package names to exact packages, with apt's own solver on an empty system.
//!
//! *Used by* `Apt`.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::super::tool::wait_for_lock;
use super::super::{EngineError, LockedPackages, Resolution};
use super::config::{self, AptConfig};
use super::{Apt, error_lines, io_error, local, output};
use crate::compose::packages::{Package, PackageFormat};
use crate::compose::process::ProcessError;
use crate::compose::treefile::{Treefile, Variant};

/// The longest time that refreshing the package lists may take.
const UPDATE_TIMEOUT: Duration = Duration::from_secs(1800);

/// The package that makes `/bin` a link in a new system.
const USR_MERGED_PACKAGE: &str = "usr-is-merged";

/// The package that converts an old system; not needed with [`USR_MERGED_PACKAGE`].
const USR_MERGE_CONVERTER: &str = "usrmerge";

/// Refreshes the package lists and resolves. With `locked`, only these exact packages may be chosen.
pub(crate) fn resolve(
    apt: &Apt<'_>,
    treefile: &Treefile,
    locked: Option<&LockedPackages>,
) -> Result<Resolution, EngineError> {
    let context = apt.context;
    context.runner.stage("refreshing the package lists");
    let config = AptConfig::write(context, treefile, "")?;
    update_lists(apt, &config)?;
    // A base has the packages that are there without being named, and its own form of /usr.
    let is_merged = context.base.is_none() && is_known(apt, &config, USR_MERGED_PACKAGE);
    context.runner.stage("resolving packages");
    let mut wanted: Vec<String> = context.base.is_none().then(|| base_set_pattern(treefile)).into_iter().collect();
    wanted.extend(treefile.packages.iter().cloned());
    wanted.extend(local::package_specs(&treefile.local_packages, context)?);
    let preferences = match locked {
        Some(locked) => {
            check_available(apt, &config, locked)?;
            let installed = context.base.map_or(&[][..], |base| &base.packages);
            let locked: Vec<Package> = locked.values().chain(installed).cloned().collect();
            config::preferences_allowing_only(&locked)
        }
        None => {
            let wants_converter = treefile.packages.iter().any(|package| package == USR_MERGE_CONVERTER);
            let converter = (is_merged && !wants_converter).then_some(USR_MERGE_CONVERTER);
            config::preferences_excluding(treefile.exclude_packages.iter().map(String::as_str).chain(converter))
        }
    };
    if is_merged {
        wanted.push(USR_MERGED_PACKAGE.to_owned());
    }
    let excluded: Vec<&String> =
        treefile.exclude_packages.iter().filter(|package| treefile.packages.contains(package)).collect();
    if let Some(package) = excluded.first() {
        return Err(EngineError::Unresolvable(format!("{package} is both in 'packages' and in 'exclude-packages'")));
    }
    let config = AptConfig::write(context, treefile, &preferences)?;
    let mut command = apt.apt_get(&config);
    // apt prints no URI for a package file that is in its cache already, so it gets an empty one.
    let empty_cache = context.work.join("apt/nowhere");
    fs::create_dir_all(empty_cache.join("partial")).map_err(io_error("make", &empty_cache))?;
    command.arg("-q").arg(format!("-oDir::Cache::archives={}", empty_cache.display()));
    command.args(["--print-uris", "--no-remove", "install", "--"]).args(&wanted);
    let text =
        context.runner.capture("resolving packages", &mut command).map_err(|error| interpret_failure(error, locked));
    let text = text.map_err(|error| match error {
        EngineError::UnknownPackages(names) => {
            EngineError::UnknownPackages(names.into_iter().map(|name| with_providers(apt, &config, name)).collect())
        }
        other => other,
    })?;
    let mut packages = output::parse_print_uris(&text)?;
    packages.sort_by(|a, b| a.package.cmp(&b.package));
    if packages.is_empty() && context.base.is_none() {
        return Err(EngineError::Output {
            program: "apt-get",
            line: text.lines().next().unwrap_or_default().to_owned(),
        });
    }
    Ok(Resolution { format: PackageFormat::Deb, packages })
}

/// Refreshes the lists in the cache, and copies them to this compose's directory.
fn update_lists(apt: &Apt<'_>, config: &AptConfig) -> Result<(), EngineError> {
    {
        let _lock = wait_for_lock(apt.context.runner, &config.lock(), "is refreshing the same package lists")?;
        let lists = format!("-oDir::State::lists={}", config.kept_lists().display());
        if !apt.context.offline {
            run_update(apt, config, &[&lists, "-oDir::Etc::sourcelist=/dev/null"])?;
        } else if !has_lists(&config.kept_lists())? {
            return Err(EngineError::Offline("the package lists of these sources".to_owned()));
        }
        copy_files(&config.kept_lists(), &config.lists())?;
    }
    match config.local() {
        Some(_) => run_update(apt, config, &["-oDir::Etc::sourceparts=/dev/null", "-oAPT::Get::List-Cleanup=false"]),
        None => Ok(()),
    }
}

/// Returns whether a directory has a list of packages.
fn has_lists(directory: &Path) -> Result<bool, EngineError> {
    let mut entries = fs::read_dir(directory).map_err(io_error("list", directory))?.flatten();
    Ok(entries.any(|entry| entry.file_name().to_string_lossy().contains("_Packages")))
}

fn run_update(apt: &Apt<'_>, config: &AptConfig, options: &[&str]) -> Result<(), EngineError> {
    let mut command = apt.apt_get(config);
    // apt makes its tables later, when it first searches, from all lists together.
    command.args(["--error-on=any", "-opkgCacheFile::Generate=false"]).args(options).arg("update");
    match apt.context.runner.run("refreshing the package lists", &mut command, UPDATE_TIMEOUT) {
        Err(ProcessError::Failed { tail, .. }) => Err(EngineError::Sources(error_lines(&tail))),
        other => Ok(other?),
    }
}

/// Copies the files of one directory into another, without subdirectories.
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

/// Returns the pattern for the packages that are installed without being named, as an expression of apt.
fn base_set_pattern(treefile: &Treefile) -> String {
    let set = match treefile.variant {
        Variant::Essential => "?essential",
        Variant::Required => "?or(?essential,?priority(required))",
        Variant::Important => "?or(?essential,?priority(required),?priority(important))",
        Variant::Standard => "?or(?essential,?priority(required),?priority(important),?priority(standard))",
    };
    // Of the characters with a meaning in expressions, names contain only dots and pluses.
    let quote = |name: &String| name.replace('.', "[.]").replace('+', "[+]");
    let without: String =
        treefile.exclude_packages.iter().map(|name| format!(",?not(?name(^{}$))", quote(name))).collect();
    if without.is_empty() { set.to_owned() } else { format!("?and({set}{without})") }
}

fn is_known(apt: &Apt<'_>, config: &AptConfig, name: &str) -> bool {
    let mut command = apt_cache(config);
    command.args(["show", "--no-all-versions", "--", name]);
    apt.context.runner.capture("asking for a package", &mut command).is_ok_and(|text| !text.is_empty())
}

/// Returns the name of an unknown package, with what provides it if it is a virtual one.
fn with_providers(apt: &Apt<'_>, config: &AptConfig, name: String) -> String {
    let mut command = apt_cache(config);
    command.args(["showpkg", "--", &name]);
    let text = apt.context.runner.capture("asking for a package", &mut command).unwrap_or_default();
    let providers = output::parse_providers(&text);
    match providers.is_empty() {
        true => name,
        false => format!("{name} (a virtual package; name one that provides it: {})", providers.join(", ")),
    }
}

fn apt_cache(config: &AptConfig) -> Command {
    let mut command = Command::new("apt-cache");
    command.env("APT_CONFIG", config.path()).env("LC_ALL", "C.UTF-8");
    command
}

/// Checks that the sources still have all packages of a lock.
///
/// # Errors
/// [`EngineError::Lock`] names the packages that are gone.
fn check_available(apt: &Apt<'_>, config: &AptConfig, locked: &LockedPackages) -> Result<(), EngineError> {
    let names: BTreeSet<&str> = locked.keys().map(|(name, _)| name.as_str()).collect();
    let mut command = apt_cache(config);
    command.args(["madison", "--"]).args(&names);
    let text = apt.context.runner.capture("asking for versions", &mut command)?;
    let available = output::parse_madison(&text);
    let gone: Vec<String> = locked
        .values()
        .filter(|package| !available.contains(&(package.name.clone(), package.version.clone())))
        .map(|package| format!("{} {}", package.name, package.version))
        .collect();
    if gone.is_empty() { Ok(()) } else { Err(EngineError::Lock(format!("no source has {}", gone.join(", ")))) }
}

/// Turns a failure of apt into an error with a meaning, by the lines it printed.
fn interpret_failure(error: ProcessError, locked: Option<&LockedPackages>) -> EngineError {
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
    let text = || error_lines(tail);
    match (unknown.is_empty(), locked) {
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
    fn failure_is_interpreted_by_apts_messages() {
        let failed = |lines: &[&str]| ProcessError::Failed {
            what: "x".into(),
            status: std::process::ExitStatus::default(),
            tail: lines.iter().map(|line| (*line).to_owned()).collect(),
            log: "/log".into(),
        };
        let lines = ["E: Unable to locate package nope", "E: Version '9' for 'dash' was not found"];
        let EngineError::UnknownPackages(names) = interpret_failure(failed(&lines), None) else {
            panic!("unknown packages")
        };
        assert_eq!(names, ["nope", "9 for dash"]);
        let lines = ["Reading…", " a : Depends: b but it is not installable", "E: Unable to correct problems"];
        let message = interpret_failure(failed(&lines), None).to_string();
        assert!(message.contains("a : Depends: b") && !message.contains("Reading"), "{message}");
    }
}
