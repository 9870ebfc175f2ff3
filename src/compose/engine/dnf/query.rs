//! What rpm's database and package files say, by way of rpm itself.

use std::collections::BTreeMap;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::tool::io_error;
use super::super::{EngineError, Ownership, Resolution};
use crate::compose::packages::Package;
use crate::compose::process::Runner;

/// Changelog entries that are kept of each package.
const ENTRIES_MAX: usize = 20;

/// Ends a package in answers about changelogs; no changelog has it.
const END: char = '\u{1}';

/// The directory of the database: where this program puts it, or where other tools do.
pub fn database(root: &Path) -> PathBuf {
    let places = ["usr/lib/sysimage/rpm", "var/lib/rpm", "usr/share/rpm"].map(|place| root.join(place));
    let found = places
        .iter()
        .find(|place| ["rpmdb.sqlite", "Packages", "Packages.db"].iter().any(|file| place.join(file).exists()));
    found.unwrap_or(&places[0]).clone()
}

/// The packages that are installed, keys left out.
///
/// # Errors
/// [`EngineError::Process`].
pub fn installed(runner: Runner<'_>, root: &Path) -> Result<Vec<Package>, EngineError> {
    let format = "%{NAME}\\t%|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE}\\t%{ARCH}\\t%{SOURCERPM}\\n";
    let text = ask(runner, root, format)?;
    let package = |line: &str| {
        let mut fields = line.split('\t');
        let (name, version, arch, source) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        // `name-version-release.src.rpm`
        let source = source.rsplitn(3, '-').nth(2).unwrap_or(name);
        let owned = str::to_owned;
        (name != "gpg-pubkey").then(|| Package {
            name: owned(name),
            version: owned(version),
            arch: owned(arch),
            source: owned(source),
            sha256: None,
        })
    };
    Ok(text.lines().filter_map(package).collect())
}

/// Which package owns which path, and the latest changes of each.
///
/// # Errors
/// [`EngineError::Process`].
pub fn ownership(runner: Runner<'_>, root: &Path) -> Result<Ownership, EngineError> {
    let mut owners: BTreeMap<Vec<u8>, Vec<String>> = BTreeMap::new();
    for line in ask(runner, root, "[%{FILENAMES}\\t%{=NAME}\\n]")?.lines() {
        if let Some((path, name)) = line.rsplit_once('\t') {
            owners.entry(path.as_bytes().to_vec()).or_default().push(name.to_owned());
        }
    }
    owners.values_mut().for_each(|names| {
        names.sort();
        names.dedup();
    });
    let format = format!("%{{NAME}}\\t[* %{{CHANGELOGTIME:day}} %{{CHANGELOGNAME}}\\n%{{CHANGELOGTEXT}}\\n\\n]{END}");
    let text = ask(runner, root, &format)?;
    let changelogs = text.split(END).filter_map(|package| {
        let (name, text) = package.trim_start().split_once('\t')?;
        let entries: String = text.split_inclusive("\n\n").take(ENTRIES_MAX).collect();
        (!entries.trim().is_empty()).then(|| (name.to_owned(), format!("{}\n", entries.trim_end())))
    });
    Ok(Ownership { owners, changelogs: changelogs.collect() })
}

fn ask(runner: Runner<'_>, root: &Path, format: &str) -> Result<String, EngineError> {
    let mut command = Command::new("rpm");
    command.env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
    command.arg("--dbpath").arg(database(root)).args(["-qa", "--qf", format]);
    Ok(runner.capture("asking rpm", &mut command)?)
}

/// The time of the youngest package of a resolution.
///
/// # Errors
/// [`EngineError::Process`].
pub fn newest(runner: Runner<'_>, resolution: &Resolution) -> Result<i64, EngineError> {
    let mut command = Command::new("rpm");
    command.args(["-qp", "--nosignature", "--qf", "%{BUILDTIME}\\n"]);
    command.args(resolution.packages.iter().map(|resolved| &resolved.file));
    let text = runner.capture("asking rpm", &mut command)?;
    Ok(text.lines().filter_map(|line| line.trim().parse().ok()).max().unwrap_or(0))
}

/// Fails if a script failed: rpm calls it a warning, and leaves a package that may not work.
///
/// # Errors
/// [`EngineError::Scripts`] with the lines.
pub fn refuse_failed_scripts(runner: Runner<'_>, from: u64, mark: &str) -> Result<(), EngineError> {
    let path = runner.log.path();
    let mut file = std::fs::File::open(path).map_err(io_error("open", path))?;
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(from)).and_then(|_| file.read_to_end(&mut bytes)).map_err(io_error("read", path))?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().filter(|line| line.contains(mark)).map(str::trim).collect();
    if lines.is_empty() { Ok(()) } else { Err(EngineError::Scripts { lines: lines.join("\n"), log: path.to_owned() }) }
}
