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

/// Returns whether these are the arguments with which mount.fuse(8) calls the program of a FUSE filesystem: `SOURCE DIR -o OPTIONS`.
/// mount(8) runs it for `-t fuse.sapwood` and for a remount where there is no `mount.fuse.sapwood`.
pub(super) fn is_call_of_mount_fuse(arguments: &[OsString]) -> bool {
    let [_, source, directory, option, _] = arguments else { return false };
    option == "-o"
        && std::path::Path::new(directory).is_absolute()
        && !source.as_encoded_bytes().starts_with(b"-")
        && source.to_str().is_none_or(|source| super::command().find_subcommand(source).is_none())
}

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
    let is_root = nix::unistd::geteuid().is_root();
    arguments.push(complete_options(&helper.options.join(","), is_root).into());
    arguments.extend(["--".into(), helper.source, helper.target]);
    arguments
}

/// Adds the options that mount(8) does not pass on. It omits `suid` and `dev`, also where the user wrote them, because they are the
/// default of every filesystem that it knows; so they have to be the default here, too, except for users who may not have them. It adds `rw` to a new mount without `ro`, so `rw` counts only in a remount, where the user asked for it.
fn complete_options(options: &str, is_root: bool) -> String {
    let all = || options.split(',');
    let is_remount = all().any(|option| option == "remount");
    let kept = all().filter(|option| *option != "rw" || is_remount);
    let defaults: &[&str] = if is_root { &["ro", "suid", "dev"] } else { &["ro"] };
    defaults.iter().copied().chain(kept).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_call_of_mount_fuse_is_taken_for_one() {
        let call = |words: &[&str]| is_call_of_mount_fuse(&words.iter().map(OsString::from).collect::<Vec<_>>());
        assert!(call(&["sapwood", "debian/12:/usr", "/mnt", "-o", "remount,nosuid"]));
        for other in [
            &["sapwood", "mount", "/mnt", "-o", "ro"][..],
            &["sapwood", "debian/12", "mnt", "-o", "ro"],
            &["sapwood", "debian/12", "/mnt", "--json", "ro"],
            &["sapwood", "--repo", "/r", "-o", "ro"],
            &["sapwood", "debian/12", "/mnt"],
        ] {
            assert!(!call(other), "{other:?}");
        }
    }
}
