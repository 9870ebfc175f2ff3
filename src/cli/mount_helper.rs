//! The program `mount.sapwood`, which mount(8) runs for `mount -t sapwood SOURCE DIR -o repo=…` and for lines of fstab.
//!
//! It is installed as `/usr/sbin/mount.sapwood`, with a link `mount.fuse.sapwood`: the type in the kernel's list of mounts is
//! `fuse.sapwood`, so `mount -o remount DIR` looks for that name.
//!
//! mount(8) calls `mount.sapwood SOURCE DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]`. The helper translates this into a
//! call of `sapwood mount`. The processes behind the mount run the same program.
//!
//! *Not here*: mounting, see `cli::mount`. *Used by* the program in `mount-helpers/mount.rs` and by `cli::run_by_program_name`.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use crate::mount::Subcommand;

/// Mount a Sapwood commit; called by mount(8)
#[derive(Debug, Parser)]
#[command(name = "mount.sapwood", version, max_term_width = 100)]
struct HelperArgs {
    /// A ref or commit id
    source: OsString,
    /// An existing directory
    target: OsString,
    /// Mount options
    #[arg(short = 'o', value_name = "OPTIONS", allow_hyphen_values = true)]
    options: Vec<String>,
    /// Do everything but mount
    #[arg(short = 'f')]
    fake: bool,
    /// Accepted and without effect, as are the following
    #[arg(short = 's')]
    sloppy: bool,
    /// Do not write /etc/mtab, which is never written
    #[arg(short = 'n')]
    no_mtab: bool,
    /// Say more; has no effect
    #[arg(short = 'v')]
    verbose: bool,
    /// The type that mount(8) was asked for
    #[arg(short = 't', value_name = "TYPE")]
    kind: Option<OsString>,
    /// The mount namespace, which mount(8) has already entered
    #[arg(short = 'N', value_name = "NAMESPACE")]
    namespace: Option<OsString>,
}

/// The exit status that tells mount(8) that a mount failed, whatever the reason.
const MOUNT_FAILED_EXIT_STATUS: u8 = 32;

/// Runs the helper, or one of the processes behind a mount.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if Subcommand::parse(&arguments).is_some() {
        return super::main(arguments);
    }
    let helper = HelperArgs::parse_from(arguments);
    if helper.fake {
        return ExitCode::SUCCESS;
    }
    if super::main(translate(helper)) == ExitCode::SUCCESS {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(MOUNT_FAILED_EXIT_STATUS)
    }
}

fn translate(helper: HelperArgs) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = ["mount.sapwood", "mount", "--unattended", "-o"].map(OsString::from).into();
    arguments.push(complete_options(&helper.options.join(",")).into());
    arguments.extend(["--".into(), helper.source, helper.target]);
    arguments
}

/// Adds the options that mount(8) does not pass on. It omits `suid` and `dev`, because they are the default of every filesystem
/// that it knows. It adds `rw` to a new mount without `ro`, so `rw` counts only in a remount, where the user asked for it.
fn complete_options(options: &str) -> String {
    let all = || options.split(',');
    let is_remount = all().any(|option| option == "remount");
    let kept = all().filter(|option| *option != "rw" || is_remount);
    ["ro", "suid", "dev"].into_iter().chain(kept).collect::<Vec<_>>().join(",")
}
