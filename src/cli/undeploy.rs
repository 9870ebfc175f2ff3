//! The verb `sapwood undeploy`.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use super::output;
use super::sysroot_args::SysrootArgs;
use crate::cli::context::{Context, Run};
use crate::deploy::id::DeploymentId;
use crate::deploy::removal::check_removal;

/// Remove deployments
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood undeploy 1                       by its place in 'sapwood status'
  sapwood undeploy staged                  drop an update that waits
  sapwood undeploy --dry-run main/4f2a91c03b7e.0

The one that runs, pinned ones, and the last that boots are never removed. The contents that only \
they needed go with 'sapwood cleanup'.")]
pub(crate) struct Args {
    /// The deployments: a place in 'sapwood status', staged, default, rollback, a name, or a commit
    #[arg(required = true, value_name = "DEPLOYMENT")]
    deployments: Vec<String>,

    /// Only say what would be done
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
        let state = opened.state()?;
        let mut ids: Vec<DeploymentId> = Vec::new();
        for text in &self.deployments {
            let id = state.find(text)?.id.clone();
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        let removed = if self.dry_run {
            check_removal(&opened.sysroot, &state, &ids)?;
            ids.clone()
        } else {
            opened.transaction(&lock).undeploy(&state, &ids)?
        };
        if self.json {
            output::json(&json!({ "removed": removed, "dry_run": self.dry_run }))?;
        } else {
            let verb = if self.dry_run { "would remove" } else { "removed" };
            removed.iter().try_for_each(|id| output::line(format_args!("{verb} {id}")))?;
        }
        Ok(if removed.len() == ids.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
