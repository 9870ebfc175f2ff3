//! The `mount.sapwood` program, the helper of mount(8). It only calls `sapwood::cli::mount_helper`, which is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    sapwood::cli::mount_helper::main(std::env::args_os())
}
