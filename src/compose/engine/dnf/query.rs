//! What rpm's database and package files say, by way of rpm itself.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::tool::io_error;
use super::super::{EngineError, Ownership, Resolution};
use super::output;
use crate::compose::packages::Package;
use crate::compose::process::Runner;

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
    Ok(output::installed(&ask(runner, root, output::INSTALLED)?))
}

/// Which package owns which path, and the latest changes of each.
///
/// # Errors
/// [`EngineError::Process`].
pub fn ownership(runner: Runner<'_>, root: &Path) -> Result<Ownership, EngineError> {
    let files = ask(runner, root, output::OWNERS)?;
    Ok(output::ownership(&files, &ask(runner, root, &output::changelog_format())?))
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
    Ok(output::newest(&runner.capture("asking rpm", &mut command)?))
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
