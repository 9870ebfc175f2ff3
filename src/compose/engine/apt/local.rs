//! Makes a small apt repository of the package files that the treefile names.
//!
//! *Used by* `config` and `resolve`.

use std::path::{Path, PathBuf};

use super::super::tool::{copy_file, file_sha256, io_error, make_directory, write_file};
use super::super::{EngineContext, EngineError};
use crate::compose::sandbox::{EngineView, SandboxedCommand};

/// Makes the repository and returns its directory; `None` if there are no files.
///
/// # Errors
/// [`EngineError::LocalPackage`] for a file that is not a package.
pub(crate) fn create_repository(files: &[PathBuf], context: EngineContext<'_>) -> Result<Option<PathBuf>, EngineError> {
    if files.is_empty() {
        return Ok(None);
    }
    let directory = context.work.join("apt/local");
    make_directory(&directory)?;
    let mut index = String::new();
    for file in files {
        let control = read_control(file, context)?;
        let name = archive_name(&control);
        let copy = directory.join(&name);
        let size = copy_file(file, &copy)?;
        let digest = file_sha256(&copy)?;
        index.push_str(&format!("{}\nFilename: ./{name}\nSize: {size}\nSHA256: {digest}\n\n", control.trim_end()));
    }
    write_file(&directory.join("Packages"), index)?;
    Ok(Some(directory))
}

/// Returns the packages in these files as arguments for apt: `NAME=VERSION`.
pub(crate) fn package_specs(files: &[PathBuf], context: EngineContext<'_>) -> Result<Vec<String>, EngineError> {
    files
        .iter()
        .map(|file| {
            let control = read_control(file, context)?;
            match (control_field(&control, "Package:"), control_field(&control, "Version:")) {
                (Some(name), Some(version)) => Ok(format!("{name}={version}")),
                _ => Err(EngineError::LocalPackage {
                    path: file.clone(),
                    what: "names neither package nor version".into(),
                }),
            }
        })
        .collect()
}

/// Returns the file name under which apt keeps the package in its cache, independent of the name of the given file.
fn archive_name(control: &str) -> String {
    let field = |name| control_field(control, name).unwrap_or_default().replace(':', "%3a").replace('/', "%2f");
    format!("{}_{}_{}.deb", field("Package:"), field("Version:"), field("Architecture:"))
}

/// Returns the value of a field of a control file; `name` includes the colon.
fn control_field<'a>(control: &'a str, name: &str) -> Option<&'a str> {
    control.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// Returns the line of `sources.list` for the repository. It is trusted without a signature: the author of the treefile chose
/// its files.
pub(crate) fn source_line(directory: &Path) -> String {
    format!("deb [trusted=yes] copy:{} ./\n", directory.display())
}

/// Returns the control file of a package.
fn read_control(file: &Path, context: EngineContext<'_>) -> Result<String, EngineError> {
    if !file.is_file() {
        return Err(EngineError::LocalPackage { path: file.to_owned(), what: "there is no such file".to_owned() });
    }
    if file.extension().is_none_or(|extension| extension != "deb") {
        return Err(EngineError::LocalPackage { path: file.to_owned(), what: "apt installs .deb files".to_owned() });
    }
    let path = std::path::absolute(file).map_err(io_error("find", file))?;
    let view = EngineView { readable: vec![path.clone()], ..EngineView::default() };
    let command = ["dpkg-deb", "--field", path.to_str().unwrap_or_default()];
    SandboxedCommand::engine(view, &command)
        .capture(context.runner, "reading a package")
        .map_err(|error| EngineError::LocalPackage { path: file.to_owned(), what: error.to_string() })
}
