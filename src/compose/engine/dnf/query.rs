//! Reads rpm's database and package files, by running rpm.
//!
//! *Used by* `Dnf`.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use super::super::tool::{directory_in_root, io_error, is_plain_file};
use super::super::{EngineError, FileOwners};
use super::output;
use crate::compose::packages::Package;
use crate::compose::process::Runner;
use crate::compose::sandbox::{EngineView, SandboxedCommand};

/// Returns the directory of the database, under a path without links: where this program puts it, or where other tools do;
/// `None` if there is none.
pub(crate) fn database_directory(root: &Path) -> Result<Option<PathBuf>, EngineError> {
    for place in ["usr/lib/sysimage/rpm", "var/lib/rpm", "usr/share/rpm"] {
        let Some(directory) = directory_in_root(root, place)? else { continue };
        if ["rpmdb.sqlite", "Packages", "Packages.db"].iter().any(|file| is_plain_file(&directory.join(file))) {
            return Ok(Some(directory));
        }
    }
    Ok(None)
}

/// Returns the installed packages, without rpm's public keys.
pub(crate) fn installed(runner: Runner<'_>, root: &Path) -> Result<Vec<Package>, EngineError> {
    Ok(output::parse_installed(&query_rpm(runner, root, output::INSTALLED_FORMAT)?))
}

/// Returns which package owns which path, and the latest changes of each package.
pub(crate) fn file_owners(runner: Runner<'_>, root: &Path) -> Result<FileOwners, EngineError> {
    let files = query_rpm(runner, root, output::OWNERS_FORMAT)?;
    Ok(output::parse_file_owners(&files, &query_rpm(runner, root, &output::changelog_format())?))
}

fn query_rpm(runner: Runner<'_>, root: &Path, format: &str) -> Result<String, EngineError> {
    let Some(directory) = database_directory(root)? else { return Ok(String::new()) };
    let command = ["rpm", "--dbpath", directory.to_str().unwrap_or_default(), "-qa", "--qf", format];
    run_rpm(runner, vec![directory.clone()], &command)
}

/// Runs rpm in a sandbox in which these files and directories can be read, and returns its output.
fn run_rpm(runner: Runner<'_>, readable: Vec<PathBuf>, command: &[&str]) -> Result<String, EngineError> {
    let view = EngineView { readable, ..EngineView::default() };
    let sandbox = SandboxedCommand::engine(view, command).with_variable("LC_ALL", "C.UTF-8");
    Ok(sandbox.capture(runner, "asking rpm")?)
}

/// Returns the build time of the youngest package in these files, in seconds since 1970.
pub(crate) fn newest_build_time(runner: Runner<'_>, files: &[PathBuf]) -> Result<i64, EngineError> {
    let mut command = vec!["rpm", "-qp", "--nosignature", "--qf", "%{BUILDTIME}\\n", "--"];
    command.extend(files.iter().map(|file| file.to_str().unwrap_or_default()));
    Ok(output::parse_newest_time(&run_rpm(runner, files.to_vec(), &command)?))
}

/// Searches the log from byte `from` on for `mark`. rpm reports a failed script only as a warning, and leaves a package that
/// may not work.
///
/// # Errors
/// [`EngineError::Scripts`] with the lines that contain `mark`.
pub(crate) fn refuse_failed_scripts(runner: Runner<'_>, from: u64, mark: &str) -> Result<(), EngineError> {
    let path = runner.log.path();
    let mut file = std::fs::File::open(path).map_err(io_error("open", path))?;
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(from)).and_then(|_| file.read_to_end(&mut bytes)).map_err(io_error("read", path))?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().filter(|line| line.contains(mark)).map(str::trim).collect();
    if lines.is_empty() { Ok(()) } else { Err(EngineError::Scripts { lines: lines.join("\n"), log: path.to_owned() }) }
}
