//! `sapwood pin`.

use std::process::ExitCode;

use anyhow::Result;

use super::output;
use super::sysroot_args::SysrootArgs;
use crate::deploy::apply::Pin;

/// Keep a deployment until it is unpinned
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood pin booted              keep what runs now, however many upgrades follow
  sapwood pin 1                   by its place in 'sapwood status'
  sapwood pin --unpin booted")]
pub struct Args {
    /// Which: a place in 'sapwood status', booted, staged, default, rollback, a name, or a commit
    #[arg(default_value = "booted", value_name = "DEPLOYMENT")]
    deployment: String,

    /// Let it go again
    #[arg(long)]
    unpin: bool,

    /// Only tell what would be done
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    sysroot: SysrootArgs,
}

/// Runs the verb.
///
/// # Errors
/// When there is no such deployment.
pub fn run(args: &Args) -> Result<ExitCode> {
    let opened = args.sysroot.open()?;
    let lock = opened.lock()?;
    let state = opened.state()?;
    let found = state.find(&args.deployment)?;
    let wanted = if args.unpin { Pin::Release } else { Pin::Keep };
    if !args.dry_run {
        opened.changer(&lock).set_pinned(found, wanted)?;
    }
    let would = if args.dry_run { "would be " } else { "is " };
    output::note(format_args!("{} {would}{}", found.id, if args.unpin { "no longer pinned" } else { "pinned" }));
    Ok(ExitCode::SUCCESS)
}
