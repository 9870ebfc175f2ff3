//! `mount.sapwood`: what `mount -t sapwood SOURCE DIR -o repo=…` and lines of fstab run.
//!
//! To be installed as `/usr/sbin/mount.sapwood`, with a link `mount.fuse.sapwood`: that is the type in the kernel's list,
//! so it is what `mount -o remount DIR` looks for.
//!
//! mount(8) calls `mount.sapwood SOURCE DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]`. That is translated into
//! `sapwood mount`; nothing is done here. The process behind the mount is this program once more, called by its own name.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use super::mount;

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
    options: Vec<String>,
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

/// Runs the helper, or one of the processes behind the mounts that it made.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if mount::Role::of(&arguments).is_some() {
        return super::main(arguments);
    }
    let helper = HelperArgs::parse_from(arguments);
    if helper.fake {
        return ExitCode::SUCCESS;
    }
    if super::main(translate(helper)) == ExitCode::SUCCESS { ExitCode::SUCCESS } else { ExitCode::from(MOUNT_FAILED) }
}

fn translate(helper: HelperArgs) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = ["mount.sapwood", "mount", "--unattended", "-o"].map(OsString::from).into();
    arguments.push(complete(&helper.options.join(",")).into());
    arguments.extend(["--".into(), helper.source, helper.target]);
    arguments
}

/// The options with what mount(8) leaves unsaid. It never passes `suid` and `dev` on, since they are the default of every
/// filesystem it knows; and it says `rw` for a new mount whose user did not say `ro`, so only for a remount is that a wish.
fn complete(options: &str) -> String {
    let all = || options.split(',');
    let is_remount = all().any(|option| option == "remount");
    let kept = all().filter(|option| *option != "rw" || is_remount);
    ["ro", "suid", "dev"].into_iter().chain(kept).collect::<Vec<_>>().join(",")
}
