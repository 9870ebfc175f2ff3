//! Package files that the treefile names, as a small repository of their own beside the others.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::tool::{io_error, make_directory, sha256, write};
use super::super::{EngineError, Surroundings};

/// Makes the repository; `None` when there are no files.
///
/// # Errors
/// [`EngineError::LocalPackage`] for a file that is no package.
pub fn repository(files: &[PathBuf], surroundings: Surroundings<'_>) -> Result<Option<PathBuf>, EngineError> {
    if files.is_empty() {
        return Ok(None);
    }
    let directory = surroundings.work.join("apt/local");
    make_directory(&directory)?;
    let mut index = String::new();
    for file in files {
        let control = control(file, surroundings)?;
        let name = cache_name(&control);
        write(&directory.join(&name), fs::read(file).map_err(io_error("read", file))?)?;
        let size = fs::metadata(file).map_err(io_error("look at", file))?.len();
        let digest = sha256(file)?;
        index.push_str(&format!("{}\nFilename: ./{name}\nSize: {size}\nSHA256: {digest}\n\n", control.trim_end()));
    }
    write(&directory.join("Packages"), index)?;
    Ok(Some(directory))
}

/// The names of the packages in these files.
///
/// # Errors
/// [`EngineError::LocalPackage`].
pub fn names(files: &[PathBuf], surroundings: Surroundings<'_>) -> Result<Vec<String>, EngineError> {
    files
        .iter()
        .map(|file| {
            let control = control(file, surroundings)?;
            match (field(&control, "Package:"), field(&control, "Version:")) {
                (Some(name), Some(version)) => Ok(format!("{name}={version}")),
                _ => Err(EngineError::LocalPackage {
                    path: file.clone(),
                    what: "names neither package nor version".into(),
                }),
            }
        })
        .collect()
}

/// The name under which apt would keep the package in its cache; whatever its file was called.
fn cache_name(control: &str) -> String {
    let field = |name| field(control, name).unwrap_or_default().replace(':', "%3a").replace('/', "%2f");
    format!("{}_{}_{}.deb", field("Package:"), field("Version:"), field("Architecture:"))
}

fn field<'a>(control: &'a str, name: &str) -> Option<&'a str> {
    control.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// The line of sources.list for the repository. Its files were chosen by whoever wrote the treefile; there is nobody
/// else who could have signed them.
pub fn line(directory: &Path) -> String {
    format!("deb [trusted=yes] copy:{} ./\n", directory.display())
}

fn control(file: &Path, surroundings: Surroundings<'_>) -> Result<String, EngineError> {
    if !file.is_file() {
        return Err(EngineError::LocalPackage { path: file.to_owned(), what: "there is no such file".to_owned() });
    }
    if file.extension().is_none_or(|extension| extension != "deb") {
        return Err(EngineError::LocalPackage { path: file.to_owned(), what: "apt installs .deb files".to_owned() });
    }
    let mut command = Command::new("dpkg-deb");
    command.arg("--field").arg(file);
    surroundings
        .runner
        .capture("reading a package", &mut command)
        .map_err(|error| EngineError::LocalPackage { path: file.to_owned(), what: error.to_string() })
}
