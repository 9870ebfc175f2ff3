//! The command line: it parses arguments, calls the library and prints results.
//!
//! Each verb has one file (or folder) with its arguments (`Args`), for which it implements `Run`, and one line in `verbs`. Verbs
//! share these modules:
//!
//! | module | content |
//! | --- | --- |
//! | `context` | the trait `Run`, and the options that stand before the verb |
//! | `verbs` | the table of all verbs, in groups |
//! | `output` | everything that is printed, progress bars, the log on standard error |
//! | `foreign` | the verbs of similar programs, and what they are called here |
//! | `error`, `advice` | error messages and exit statuses; hints of what to do next |
//! | `repository` | the repository and the commit that the arguments mean, and waiting for the lock |
//! | `trust_args`, `transport_args` | the options for remotes |
//! | `mount_help` | the mount options in `mount --help` |
//! | `sysroot_args`, `deploying`, `deploy_output` | what the verbs for deployments have in common |
//!
//! *Invariants*: nothing below this layer prints or ends the process. *Used by* the programs in `main.rs` and `mount-helpers/`.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser};

use crate::cli::context::{Context, Run};
use crate::compose::sandbox;
use crate::mount::Subcommand as MountProcess;
use crate::remote::transport::enable_buckets;

mod advice;
mod boot;
mod cat;
mod cleanup;
mod commit;
mod compose;
mod config;
mod context;
mod db;
mod debug;
#[cfg(feature = "demo")]
mod demo;
mod deploy;
mod deploy_output;
mod deploying;
mod diff;
mod error;
mod etc;
mod export;
mod foreign;
mod fsck;
mod gc;
mod history;
mod init;
mod kargs;
mod key;
mod log;
mod ls;
mod manual;
mod mount;
mod mount_help;
pub mod mount_helper;
mod mounts;
mod output;
mod pin;
mod prefetch;
pub mod prepare_root;
mod profile;
mod publish;
mod pull;
mod refs;
mod remote;
mod repository;
mod rollback;
mod serve;
mod show;
mod size;
mod status;
mod switch;
mod sysroot;
mod sysroot_args;
mod transport_args;
mod trust_args;
mod umount;
mod undeploy;
mod upgrade;
mod verbs;
mod whence;

/// Store root filesystems as commits, look into them, mount them.
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 100,
    after_help = "\
Examples:
  sapwood init                               make a repository
  sapwood commit --ref debian/12 /srv/root   store a directory as a commit
  sapwood mount debian/12 /mnt               mount it, read-only
  sapwood diff debian/12^ debian/12          what the last commit changed

SOURCE is a ref, a commit id or a unique start of one (at least 6 digits), with ^ or ~N for \
its ancestors; where a path inside makes sense, :/path may follow.

The repository is --repo, else $SAPWOOD_REPO, else /sapwood/repo if it can be read, else \
$XDG_DATA_HOME/sapwood/repo.

Exit status: 0 done, 1 failed (also: fsck found damage), 2 wrong usage."
)]
struct Options {
    /// The repository
    #[arg(long, global = true, value_name = "DIR")]
    repo: Option<PathBuf>,

    /// Say more about what happens (twice: everything)
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

/// Returns the command line as the parser knows it, for tests of the examples in the documentation.
#[must_use]
pub fn command() -> clap::Command {
    verbs::add_to(Options::command())
}

/// Returns the groups of verbs, each with its heading and the names of its verbs, as `--help` and `docs/verbs.md` list them.
pub fn verb_groups() -> impl Iterator<Item = (&'static str, Vec<&'static str>)> {
    verbs::GROUPS.iter().map(|group| (group.title, group.verbs.iter().map(|verb| verb.name).collect()))
}

/// Runs the program that the first of `arguments`, the program's name, calls for. So `sapwood`, installed under the name of one
/// of the other two programs, works as that one. As `sapwood-prepare-root` it also reads from buckets, which the program that
/// is built with that name does not.
pub fn run_by_program_name(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let name = arguments.first().and_then(|name| Path::new(name).file_name()).and_then(OsStr::to_str);
    match name {
        Some("sapwood-prepare-root") => {
            enable_buckets();
            prepare_root::main(arguments)
        }
        Some("mount.sapwood" | "mount.fuse.sapwood") => mount_helper::main(arguments),
        _ if mount_helper::is_call_of_mount_fuse(&arguments) => mount_helper::main(arguments),
        _ => main(arguments),
    }
}

/// Sets up what every process of these programs needs.
fn prepare_process() {
    crate::sys::return_large_buffers_to_kernel();
    // A low limit is no reason to stop: an operation that needs more descriptors fails with an error of its own.
    if let Err(error) = crate::disk::raise_descriptor_limit() {
        tracing::debug!(%error, "cannot raise the limit of open files");
    }
}

/// Runs the verb that `arguments` (the program's name first) name and returns the exit status.
pub(crate) fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    prepare_process();
    enable_buckets();
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if let Some((process, number)) = MountProcess::parse(&arguments) {
        return process.run(number).unwrap_or_else(|error| error::report(&error.into()));
    }
    if arguments.first().is_some_and(|name| name == sandbox::PROGRAM_NAME) {
        return match sandbox::enter(&arguments) {
            Ok(code) => ExitCode::from(code),
            Err(error) => error::report(&error.into()),
        };
    }
    let (options, verb) = match parse(arguments) {
        Ok(parsed) => parsed,
        Err(error) => return error::report_usage(&error),
    };
    output::start_log(options.verbose);
    let context = Context { repo: options.repo };
    match verb.run(&context) {
        Ok(code) => code,
        Err(error) => error::report(&error),
    }
}

/// Parses the arguments of `sapwood` into the options before the verb and the verb with its own arguments.
fn parse(arguments: Vec<OsString>) -> Result<(Options, Box<dyn Run>), clap::Error> {
    let mut command = command();
    let matches = command.try_get_matches_from_mut(arguments).map_err(foreign::explain)?;
    let parsed = Options::from_arg_matches(&matches).and_then(|options| Ok((options, verbs::parse(&matches)?)));
    parsed.map_err(|error| error.format(&mut command))
}
