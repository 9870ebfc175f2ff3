//! Paths of the programs under test.

use std::env;
use std::path::PathBuf;

/// Environment variable with the directory of the programs as they are shipped, linked statically: `tests/run` sets it. Without
/// it, the programs that cargo built for the tests are used.
const PROGRAMS_VARIABLE: &str = "SAPWOOD_TEST_PROGRAMS";

/// Returns the path of `sapwood`.
pub fn sapwood() -> PathBuf {
    match env::var_os(PROGRAMS_VARIABLE) {
        Some(directory) => PathBuf::from(directory).join("sapwood"),
        None => env!("CARGO_BIN_EXE_sapwood").into(),
    }
}
