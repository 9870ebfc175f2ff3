//! Which repository is meant.

use std::env;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::Context;
use super::output;
use crate::disk::Wait;
use crate::store::Store;

/// The repository of a machine that boots from it.
const SYSTEM: &str = "/sapwood/repo";

/// The directory of the repository, whether or not it exists.
///
/// # Errors
/// When nothing is given and there is no home to look in.
pub fn path(context: &Context) -> Result<PathBuf> {
    if let Some(path) = &context.repo {
        return Ok(path.clone());
    }
    if let Some(path) = env::var_os("SAPWOOD_REPO").filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    let system = PathBuf::from(SYSTEM);
    if system.exists() {
        return Ok(system);
    }
    let data = match env::var_os("XDG_DATA_HOME").filter(|path| !path.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => env::home_dir().context("no repository given, and no home directory to look in")?.join(".local/share"),
    };
    Ok(data.join("sapwood/repo"))
}

/// Opens the repository.
///
/// # Errors
/// When it does not exist or cannot be used.
pub fn open(context: &Context) -> Result<Store> {
    Ok(Store::open(&path(context)?)?)
}

/// Waits for another process, telling the person why nothing happens.
pub fn announced() -> Wait<'static> {
    Wait::Announced(&|holder| output::note(format_args!("waiting for {holder}, which is using the repository…")))
}
