//! `mount.sapwood`: what `mount -t sapwood SOURCE DIR -o repo=…` and lines of fstab run.
//!
//! mount(8) calls `mount.sapwood SOURCE DIR [-sfnv] [-o OPTIONS] [-t TYPE]`. Everything is done by the code of
//! `sapwood mount`; only the arguments differ.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use sapwood::cli::mount::{self, MountArgs};

/// Mount a Sapwood commit; called by mount(8)
#[derive(Debug, Parser)]
#[command(name = "mount.sapwood", version)]
struct HelperArgs {
    /// A ref or commit id
    source: String,
    /// An existing directory
    target: PathBuf,
    /// Mount options
    #[arg(short = 'o', value_name = "OPTIONS")]
    options: Vec<String>,
    /// Accepted: nothing is ever sloppy here
    #[arg(short = 's')]
    sloppy: bool,
    /// Do everything but mount
    #[arg(short = 'f')]
    fake: bool,
    /// Accepted: there is no mtab
    #[arg(short = 'n')]
    no_mtab: bool,
    /// Say what is done
    #[arg(short = 'v')]
    verbose: bool,
    /// Accepted: the type that mount(8) was asked for
    #[arg(short = 't', value_name = "TYPE")]
    kind: Option<String>,
}

/// The background process is this program too, called as `sapwood` would be.
#[derive(Debug, Parser)]
enum Daemon {
    /// Serve a mount
    Mount(MountArgs),
}

/// mount(8) shows this number as its own: 32 is "mount failed".
const MOUNT_FAILED: u8 = 32;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let result = if mount::is_daemon(&arguments) {
        let Daemon::Mount(args) = Daemon::parse_from(arguments);
        mount::run(&args, &mount::default_repository)
    } else {
        helper(HelperArgs::parse_from(arguments))
    };
    mount::exit_code(result, "mount.sapwood", MOUNT_FAILED)
}

fn helper(args: HelperArgs) -> anyhow::Result<()> {
    if args.fake {
        return Ok(());
    }
    let mount_args = MountArgs {
        options: args.options,
        foreground: false,
        source: args.source,
        mountpoint: args.target,
        daemon: None,
    };
    mount::run(&mount_args, &mount::default_repository)
}
