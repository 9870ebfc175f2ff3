//! Small things that both engines need: programs, files, checksums.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::EngineError;

/// The program `name` in the search path or where administrators' programs are.
pub fn find(name: &str, package: &'static str, purpose: &'static str) -> Result<PathBuf, EngineError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/bin", "/usr/sbin", "/bin", "/sbin"].map(PathBuf::from));
    let mut candidates = places.map(|place| place.join(name));
    candidates.find(|file| file.is_file()).ok_or_else(|| EngineError::Missing {
        program: name.to_owned(),
        package,
        purpose,
    })
}

/// An error about a file.
pub fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> EngineError + use<> {
    let path = path.to_owned();
    move |source| EngineError::Io { action, path, source }
}

/// Makes a directory and those above it.
pub fn make_directory(path: &Path) -> Result<(), EngineError> {
    fs::create_dir_all(path).map_err(io_error("make", path))
}

/// Writes a file of the engine's own; what a crash leaves of it is written again by the next run.
pub fn write(path: &Path, text: impl AsRef<[u8]>) -> Result<(), EngineError> {
    path.parent().map_or(Ok(()), make_directory)?;
    let written = File::create(path).and_then(|mut file| io::Write::write_all(&mut file, text.as_ref()));
    written.map_err(io_error("write", path))
}

/// Reads a text; bytes that are none are replaced.
pub fn read_lossy(path: &Path) -> Result<String, EngineError> {
    let bytes = fs::read(path).map_err(io_error("read", path))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// SHA-256 of a file in hex.
pub fn sha256(path: &Path) -> Result<String, EngineError> {
    let mut file = File::open(path).map_err(io_error("open", path))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer).map_err(io_error("read", path))? {
            0 => return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            length => hasher.update(&buffer[..length]),
        }
    }
}
