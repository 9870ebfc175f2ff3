//! The programs under test.

use std::env;
use std::path::PathBuf;

/// A directory with the programs as they are shipped, linked statically: what `tests/run` has tested. Without it, the ones that
/// cargo built for the tests.
const DIRECTORY: &str = "SAPWOOD_TEST_PROGRAMS";

/// Returns the path of `sapwood`.
pub fn sapwood() -> PathBuf {
    match env::var_os(DIRECTORY) {
        Some(directory) => PathBuf::from(directory).join("sapwood"),
        None => env!("CARGO_BIN_EXE_sapwood").into(),
    }
}
