//! The verb `sapwood rollback`.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use super::deploying;
use super::output;
use super::sysroot_args::SysrootArgs;
use crate::cli::context::{Context, Run};
use crate::deploy::apply::DeployRefusal;

/// Boot the deployment before the last one next
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood rollback
      the one before boots next; nothing is fetched or merged
  sapwood rollback --to pinned
      another one: its place in 'sapwood status', name, or commit
  sapwood rollback --dry-run

The deployment comes back with its own /etc, as it was when it was left; /var is the same for all. \
A staged update is dropped. 'sapwood upgrade', and so the timer, stays away from what was left until \
something else is published; 'sapwood upgrade --again' takes it.")]
pub(crate) struct Args {
    /// The deployment [default: the one that runs if another boots next, else the one after it]
    #[arg(long, value_name = "DEPLOYMENT")]
    to: Option<String>,

    /// Only say what would be done
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

impl Run for Args {
    fn run(&self, _context: &Context) -> Result<ExitCode> {
        let opened = self.sysroot.open()?;
        let lock = if self.dry_run { None } else { Some(opened.lock()?) };
        let state = opened.state()?;
        state.check_menu()?;
        let target = match &self.to {
            Some(text) => state.find(text)?,
            None => state.rollback().ok_or(DeployRefusal::NoRollback)?,
        };
        let dropped = state.staged().filter(|staged| staged.id != target.id).map(|staged| staged.id.clone());
        let before = state.default().map(|default| default.id.clone());
        if let Some(lock) = &lock {
            opened.transaction(lock).roll_back(&state, target)?;
        }
        if self.json {
            output::json(
                &json!({ "deployment": target.id, "before": before, "dropped": dropped, "dry_run": self.dry_run }),
            )?;
        } else {
            output::line(&target.id)?;
        }
        let title = target.origin.menu_title(&target.id);
        let verb = if self.dry_run { "would boot next" } else { "boots next" };
        output::note(format_args!("{title} {verb}"));
        if let Some(dropped) = dropped {
            output::note(format_args!(
                "{dropped} was staged{}",
                if self.dry_run { " and would be dropped" } else { " and is dropped" }
            ));
        }
        deploying::note_menu_problems(&opened)?;
        if self.reboot { deploying::reboot() } else { Ok(ExitCode::SUCCESS) }
    }
}
