//! The verb `sapwood pin`.

use std::process::ExitCode;

use anyhow::Result;

use super::output;
use super::sysroot_args::SysrootArgs;
use crate::cli::context::{Context, Run};
use crate::deploy::apply::Pin;

/// Keep a deployment until it is unpinned
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood pin booted   keep what runs now, however many upgrades follow
  sapwood pin 1        by its place in 'sapwood status'
  sapwood pin --unpin booted")]
pub(crate) struct Args {
    /// The deployment: its place in 'sapwood status', booted, staged, default, rollback, a name, or a commit
    #[arg(default_value = "booted", value_name = "DEPLOYMENT")]
    deployment: String,

    /// Do not keep it any longer
    #[arg(long)]
    unpin: bool,

    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    sysroot: SysrootArgs,
}

impl Run for Args {
    fn run(&self, _context: &Context) -> Result<ExitCode> {
        let opened = self.sysroot.open()?;
        let lock = opened.lock()?;
        let state = opened.state()?;
        let found = state.find(&self.deployment)?;
        let wanted = if self.unpin { Pin::Release } else { Pin::Keep };
        if !self.dry_run {
            opened.transaction(&lock).set_pinned(found, wanted)?;
        }
        let would = if self.dry_run { "would be " } else { "is " };
        output::note(format_args!("{} {would}{}", found.id, if self.unpin { "no longer pinned" } else { "pinned" }));
        Ok(ExitCode::SUCCESS)
    }
}
