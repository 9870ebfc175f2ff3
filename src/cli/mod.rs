//! Words in, words out: the command line.
//!
//! One file for each verb: its arguments and a `run` that calls the library and reports. Everything printed goes through
//! `output`; what an error means to a person is in `error`. Nothing below this layer prints or exits.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::compose::sandbox;
use crate::remote::transport::enable_buckets;

mod boot;
mod cat;
mod cleanup;
mod commit;
mod compose;
mod config;
mod db;
mod debug;
mod demo;
mod deploy;
mod deploy_words;
mod deploying;
mod described;
mod diff;
mod environment;
mod error;
mod etc;
mod export;
mod fsck;
mod gc;
mod history;
mod init;
mod kargs;
mod key;
mod keys;
mod lazy;
mod log;
mod ls;
mod manual;
mod mount;
pub mod mount_helper;
mod mounts;
mod output;
mod pin;
mod prefetch;
pub mod prepare_root;
mod profile;
mod publish;
mod pull;
mod record;
mod refs;
mod remote;
mod remote_source;
mod repository;
mod rollback;
mod serve;
mod show;
mod size;
mod source;
mod status;
mod switch;
mod sysroot;
mod sysroot_args;
mod transport_args;
mod umount;
mod undeploy;
mod upgrade;
mod whence;

pub use mount::Handoff;

/// Root filesystems as commits: store them, look into them, mount them.
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

SOURCE is a ref, a commit id or a unique start of one (at least 6 digits), with ^ or ~N for
its ancestors; where a path inside makes sense, :/path may follow.

The repository is --repo, else $SAPWOOD_REPO, else /sapwood/repo if it exists, else
$XDG_DATA_HOME/sapwood/repo.

Exit status: 0 done, 1 failed (also: fsck found damage), 2 wrong usage."
)]
struct Cli {
    /// The repository
    #[arg(long, global = true, value_name = "DIR")]
    repo: Option<PathBuf>,

    /// Say more about what happens (twice: everything)
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    verbose: u8,

    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Init(init::Args),
    Config(config::Args),
    Commit(commit::Args),
    Compose(compose::Args),
    Refs(refs::Args),
    Log(log::Args),
    Show(show::Args),
    Ls(ls::Args),
    Cat(cat::Args),
    Db(db::Args),
    Whence(whence::Args),
    Diff(diff::Args),
    Export(export::Args),
    Fsck(fsck::Args),
    Gc(gc::Args),
    Size(size::Args),
    Key(key::Args),
    Publish(publish::Args),
    Serve(serve::Args),
    Remote(remote::Args),
    Pull(pull::Args),
    Prefetch(prefetch::Args),
    Profile(profile::Args),
    Demo(demo::Args),
    #[command(hide = true)]
    Manual(manual::Args),
    Mount(mount::Args),
    Umount(umount::Args),
    Mounts(mounts::Args),
    Debug(debug::Args),
    Sysroot(sysroot::Args),
    Status(status::Args),
    Deploy(deploy::Args),
    Upgrade(upgrade::Args),
    Switch(switch::Args),
    Rollback(rollback::Args),
    Pin(pin::Args),
    Undeploy(undeploy::Args),
    Cleanup(cleanup::Args),
    Kargs(kargs::Args),
    Etc(etc::Args),
    History(history::Args),
    Boot(boot::Args),
}

/// What every verb gets.
#[derive(Debug, Clone)]
pub struct Context {
    /// `--repo`, if given.
    pub repo: Option<PathBuf>,
}

/// Returns the command line as the parser knows it, for tests of the examples in the documentation.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs whichever program `arguments` (the program's name first) call: where this one is installed under the names of the
/// others, it is all of them. As `sapwood-prepare-root` it also reads from buckets, which the program of that name does not.
pub fn called_by_name(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let name = arguments.first().and_then(|name| Path::new(name).file_name()).and_then(OsStr::to_str);
    match name {
        Some("sapwood-prepare-root") => {
            enable_buckets();
            prepare_root::main(arguments)
        }
        Some("mount.sapwood" | "mount.fuse.sapwood") => mount_helper::main(arguments),
        _ => main(arguments),
    }
}

/// Sets up what every process of this program needs, whatever its role.
fn prepare_process() {
    crate::sys::give_back_large_buffers();
    // A low limit is no reason to stop: what needs more descriptors fails with its own error.
    if let Err(error) = crate::disk::raise_descriptor_limit() {
        tracing::debug!(%error, "cannot raise the limit of open files");
    }
}

/// Runs the command that `arguments` (the program's name first) describe and returns the exit status.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    prepare_process();
    enable_buckets();
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if let Some((role, number)) = mount::Role::of(&arguments) {
        return role.play(number);
    }
    if arguments.first().is_some_and(|name| name == sandbox::NAME) {
        return match sandbox::enter(&arguments) {
            Ok(code) => ExitCode::from(code),
            Err(error) => error::report(&error.into()),
        };
    }
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return error::usage(&error),
    };
    output::start_log(cli.verbose);
    let context = Context { repo: cli.repo };
    let result = match &cli.verb {
        Verb::Init(args) => init::run(args, &context),
        Verb::Config(args) => config::run(args, &context),
        Verb::Commit(args) => commit::run(args, &context),
        Verb::Compose(args) => compose::run(args, &context),
        Verb::Refs(args) => refs::run(args, &context),
        Verb::Log(args) => log::run(args, &context),
        Verb::Show(args) => show::run(args, &context),
        Verb::Ls(args) => ls::run(args, &context),
        Verb::Cat(args) => cat::run(args, &context),
        Verb::Db(args) => db::run(args, &context),
        Verb::Whence(args) => whence::run(args, &context),
        Verb::Diff(args) => diff::run(args, &context),
        Verb::Export(args) => export::run(args, &context),
        Verb::Fsck(args) => fsck::run(args, &context),
        Verb::Gc(args) => gc::run(args, &context),
        Verb::Size(args) => size::run(args, &context),
        Verb::Key(args) => key::run(args),
        Verb::Publish(args) => publish::run(args, &context),
        Verb::Serve(args) => serve::run(args),
        Verb::Remote(args) => remote::run(args, &context),
        Verb::Pull(args) => pull::run(args, &context),
        Verb::Prefetch(args) => prefetch::run(args, &context),
        Verb::Profile(args) => profile::run(args, &context),
        Verb::Demo(args) => demo::run(args),
        Verb::Manual(args) => manual::run(args),
        Verb::Mount(args) => mount::run(args, &context),
        Verb::Umount(args) => umount::run(args),
        Verb::Mounts(args) => mounts::run(args),
        Verb::Debug(args) => debug::run(args),
        Verb::Sysroot(args) => sysroot::run(args),
        Verb::Status(args) => status::run(args),
        Verb::Deploy(args) => deploy::run(args),
        Verb::Upgrade(args) => upgrade::run(args),
        Verb::Switch(args) => switch::run(args),
        Verb::Rollback(args) => rollback::run(args),
        Verb::Pin(args) => pin::run(args),
        Verb::Undeploy(args) => undeploy::run(args),
        Verb::Cleanup(args) => cleanup::run(args),
        Verb::Kargs(args) => kargs::run(args),
        Verb::Etc(args) => etc::run(args),
        Verb::History(args) => history::run(args),
        Verb::Boot(args) => boot::run(args),
    };
    match result {
        Ok(code) => code,
        Err(error) => error::report(&error),
    }
}
