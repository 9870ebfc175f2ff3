//! `sapwood undeploy`.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use super::output;
use super::sysroot_args::SysrootArgs;
use crate::deploy::id::DeploymentId;
use crate::deploy::removal::check_removal;

/// Remove deployments
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood undeploy 1                       by its place in 'sapwood status'
  sapwood undeploy staged                  drop an update that waits
  sapwood undeploy --dry-run main/4f2a91c03b7e.0

The one that runs, pinned ones, and the last that boots are never removed. The contents that only
they needed go with 'sapwood cleanup'.")]
pub struct Args {
    /// Which: a place in 'sapwood status', staged, default, rollback, a name, or a commit
    #[arg(required = true, value_name = "DEPLOYMENT")]
    deployments: Vec<String>,

    /// Only tell what would be done
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
/// When there is no such deployment, or it has to stay.
pub fn run(args: &Args) -> Result<ExitCode> {
    let opened = args.sysroot.open()?;
    let lock = opened.lock()?;
    let state = opened.state()?;
    let mut ids: Vec<DeploymentId> = Vec::new();
    for text in &args.deployments {
        let id = state.find(text)?.id.clone();
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    if args.dry_run {
        check_removal(&opened.sysroot, &state, &ids)?;
    } else {
        opened.changer(&lock).undeploy(&state, &ids)?;
    }
    if args.json {
        output::json(&json!({ "removed": ids, "dry_run": args.dry_run }))?;
    } else {
        let verb = if args.dry_run { "would remove" } else { "removed" };
        ids.iter().try_for_each(|id| output::line(format_args!("{verb} {id}")))?;
    }
    Ok(ExitCode::SUCCESS)
}
