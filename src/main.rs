//! The `sapwood` program: the command line of the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    sapwood::cli::called_by_name(std::env::args_os())
}
