//! `sapwood cleanup`.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use super::deploy_words::reason_word;
use super::sysroot_args::SysrootArgs;
use super::{output, repository};
use crate::deploy::removal::{CleanupPlan, check_removal};

/// Remove deployments and contents that nothing needs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood cleanup --dry-run
  sapwood cleanup

What runs, what boots next, what to go back to, and what is pinned stay. So does the newest
deployment of which everything is here, as long as the others would need a network. In the
repository everything goes that no deployment, ref or mount needs; of the history of refs only the
newest commits stay, unless --keep-history.")]
pub struct Args {
    /// Keep the older commits of refs
    #[arg(long)]
    keep_history: bool,

    /// Leave the repository alone
    #[arg(long, conflicts_with = "keep_history")]
    deployments_only: bool,

    /// Only tell what would be removed
    #[arg(long)]
    dry_run: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    sysroot: SysrootArgs,
}

/// Runs the verb.
///
/// # Errors
/// When something that is needed cannot be read: then nothing is removed.
pub fn run(args: &Args) -> Result<ExitCode> {
    let opened = args.sysroot.open()?;
    let lock = opened.lock()?;
    let changer = opened.changer(&lock);
    if !args.dry_run {
        changer.tidy_up()?;
    }
    let state = opened.state()?;
    let plan = CleanupPlan::new(&opened.sysroot, &state)?;
    if args.dry_run {
        check_removal(&opened.sysroot, &state, &plan.remove)?;
    } else if !plan.remove.is_empty() {
        changer.undeploy(&state, &plan.remove)?;
    }
    let collected = if args.deployments_only { None } else { Some(collect(&opened.sysroot, args)?) };
    if args.json {
        let kept: Vec<_> = plan.kept.iter().map(|(id, reason)| json!({ "id": id, "reason": reason })).collect();
        output::json(&json!({ "removed": plan.remove, "kept": kept, "bytes": collected, "dry_run": args.dry_run }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let verb = if args.dry_run { "would remove" } else { "removed" };
    plan.remove.iter().try_for_each(|id| output::line(format_args!("{verb} {id}")))?;
    for (id, reason) in &plan.kept {
        output::line(format_args!("kept {id} ({})", reason_word(*reason)))?;
    }
    if let Some(bytes) = collected {
        output::line(format_args!("{verb} {} from the repository", output::size(bytes)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Collects what nothing in the repository needs; returns how many bytes that is.
fn collect(sysroot: &crate::deploy::sysroot::Sysroot, args: &Args) -> Result<u64> {
    let collector = sysroot.store().collector(repository::announced)?;
    let plan = collector.plan(if args.keep_history { None } else { Some(0) })?;
    if !args.dry_run {
        collector.apply(&plan)?;
    }
    Ok(plan.bytes)
}
