//! The verb `sapwood cleanup`.
//!
//! *Not here*: which deployments may be removed, see `deploy::removal`; what the repository still needs, see `store`.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use super::deploy_output::describe_reason;
use super::sysroot_args::SysrootArgs;
use super::{output, repository};
use crate::cli::context::{Context, Run};
use crate::deploy::removal::{CleanupPlan, check_removal};

/// Remove deployments and contents that nothing needs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood cleanup --dry-run
  sapwood cleanup

The deployment that runs, the one that boots next, the one that a rollback goes back to, and pinned \
ones stay. So does the newest deployment of which all contents are here, as long as the others would \
need a network. From the repository everything is removed that no deployment, ref or mount needs; of \
the history of refs only the newest commits stay, unless --keep-history.")]
pub(crate) struct Args {
    /// Keep the older commits of refs
    #[arg(long)]
    keep_history: bool,

    /// Leave the repository alone
    #[arg(long, conflicts_with = "keep_history")]
    deployments_only: bool,

    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    sysroot: SysrootArgs,
}

impl Run for Args {
    fn run(&self, _context: &Context) -> Result<ExitCode> {
        let opened = self.sysroot.open()?;
        let lock = opened.lock()?;
        let changer = opened.transaction(&lock);
        if !self.dry_run {
            changer.clean_up()?;
        }
        let state = opened.state()?;
        let plan = CleanupPlan::new(&opened.sysroot, &state)?;
        let removed = if self.dry_run {
            check_removal(&opened.sysroot, &state, &plan.remove)?;
            plan.remove.clone()
        } else if plan.remove.is_empty() {
            Vec::new()
        } else {
            changer.undeploy(&state, &plan.remove)?
        };
        let collected = if self.deployments_only { None } else { Some(collect_garbage(&opened.sysroot, self)?) };
        if self.json {
            let kept: Vec<_> = plan.kept.iter().map(|(id, reason)| json!({ "id": id, "reason": reason })).collect();
            output::json(&json!({ "removed": removed, "kept": kept, "bytes": collected, "dry_run": self.dry_run }))?;
            return Ok(ExitCode::SUCCESS);
        }
        let verb = if self.dry_run { "would remove" } else { "removed" };
        removed.iter().try_for_each(|id| output::line(format_args!("{verb} {id}")))?;
        for (id, reason) in &plan.kept {
            output::line(format_args!("kept {id} ({})", describe_reason(*reason)))?;
        }
        if let Some(bytes) = collected {
            output::line(format_args!("{verb} {} from the repository", output::size(bytes)))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Removes what nothing in the repository needs, or only plans that. Returns the number of bytes.
fn collect_garbage(sysroot: &crate::deploy::sysroot::Sysroot, args: &Args) -> Result<u64> {
    let collector = sysroot.store().collector(repository::wait_with_notice)?;
    let plan = collector.plan(if args.keep_history { None } else { Some(0) })?;
    if !args.dry_run {
        collector.apply(&plan)?;
    }
    Ok(plan.bytes)
}
