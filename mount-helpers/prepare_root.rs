//! The `sapwood-prepare-root` program, which assembles the `/` of a deployment in an initramfs. It only calls
//! `sapwood::cli::prepare_root`, which is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    sapwood::cli::prepare_root::main(std::env::args_os())
}
