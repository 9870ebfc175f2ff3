//! `sapwood-prepare-root`: the `/` of a deployment, put together in an initramfs. All of it is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    sapwood::cli::prepare_root::main(std::env::args_os())
}
