//! `sapwood rollback`.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use super::deploying;
use super::output;
use super::sysroot_args::SysrootArgs;
use crate::deploy::apply::Refusal;
use crate::deploy::history::Happening;

/// Boot the deployment before the last one next
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood rollback                  the one before boots next; nothing is fetched or merged
  sapwood rollback --to pinned      another one: its place in 'sapwood status', name, or commit
  sapwood rollback --dry-run

The deployment comes back with its own /etc, as it was when it was left; /var is the same for all.
A staged update is dropped.")]
pub struct Args {
    /// Which deployment [default: the one that runs if another boots next, else the one after it]
    #[arg(long, value_name = "DEPLOYMENT")]
    to: Option<String>,

    /// Only tell what would be done
    #[arg(long)]
    dry_run: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Reboot afterwards
    #[arg(long, conflicts_with = "dry_run")]
    reboot: bool,

    #[command(flatten)]
    sysroot: SysrootArgs,
}

/// Runs the verb.
///
/// # Errors
/// When there is nothing to go back to, or the boot menu cannot be changed.
pub fn run(args: &Args) -> Result<ExitCode> {
    let opened = args.sysroot.open()?;
    let lock = if args.dry_run { None } else { Some(opened.lock()?) };
    let state = opened.state()?;
    let target = match &args.to {
        Some(text) => state.find(text)?,
        None => state.rollback().ok_or(Refusal::NoRollback)?,
    };
    let dropped = state.staged().filter(|staged| staged.id != target.id).map(|staged| staged.id.clone());
    let before = state.default().map(|default| default.id.clone());
    if let Some(lock) = &lock {
        opened.changer(lock).set_default(&state, target, Happening::RolledBack)?;
    }
    if args.json {
        output::json(
            &json!({ "deployment": target.id, "before": before, "dropped": dropped, "dry_run": args.dry_run }),
        )?;
    } else {
        output::line(&target.id)?;
    }
    let title = target.origin.menu_title(&target.id);
    let verb = if args.dry_run { "would boot next" } else { "boots next" };
    output::note(format_args!("{title} {verb}"));
    if let Some(dropped) = dropped {
        output::note(format_args!(
            "{dropped} was staged{}",
            if args.dry_run { " and would be dropped" } else { " and is dropped" }
        ));
    }
    if args.reboot { deploying::reboot() } else { Ok(ExitCode::SUCCESS) }
}
