//! `mount.sapwood`: what `mount -t sapwood SOURCE DIR -o repo=…` and lines of fstab run.
//!
//! mount(8) calls `mount.sapwood SOURCE DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]`. That is translated into
//! `sapwood mount`; nothing is done here. The process behind the mount is this program once more, called by its own name.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use sapwood::cli;

/// Mount a Sapwood commit; called by mount(8)
#[derive(Debug, Parser)]
#[command(name = "mount.sapwood", version)]
struct HelperArgs {
    /// A ref or commit id
    source: OsString,
    /// An existing directory
    target: OsString,
    /// Mount options
    #[arg(short = 'o', value_name = "OPTIONS", allow_hyphen_values = true)]
    options: Vec<OsString>,
    /// Do everything but mount
    #[arg(short = 'f')]
    fake: bool,
    /// Accepted and without effect, as are the following
    #[arg(short = 's')]
    sloppy: bool,
    /// There is no mtab
    #[arg(short = 'n')]
    no_mtab: bool,
    /// Nothing is said unless it went wrong
    #[arg(short = 'v')]
    verbose: bool,
    /// The type that mount(8) was asked for
    #[arg(short = 't', value_name = "TYPE")]
    kind: Option<OsString>,
    /// mount(8) is in the namespace already
    #[arg(short = 'N', value_name = "NAMESPACE")]
    namespace: Option<OsString>,
}

/// How mount(8) knows that a mount failed, whatever the reason.
const MOUNT_FAILED: u8 = 32;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if cli::is_mount_daemon(&arguments) {
        return cli::main(arguments);
    }
    let helper = HelperArgs::parse_from(arguments);
    if helper.fake {
        return ExitCode::SUCCESS;
    }
    if cli::main(translate(helper)) == ExitCode::SUCCESS { ExitCode::SUCCESS } else { ExitCode::from(MOUNT_FAILED) }
}

fn translate(helper: HelperArgs) -> Vec<OsString> {
    let options = helper.options.into_iter().flat_map(|options| ["-o".into(), options]);
    let mut arguments: Vec<OsString> = vec!["mount.sapwood".into(), "mount".into()];
    arguments.extend(options);
    arguments.extend(["--".into(), helper.source, helper.target]);
    arguments
}
