//! `mount.sapwood`, the helper of mount(8). All of it is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    sapwood::cli::mount_helper::main(std::env::args_os())
}
