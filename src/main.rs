//! The `sapwood` program. It only calls `sapwood::cli`, which is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    sapwood::cli::run_by_program_name(std::env::args_os())
}
