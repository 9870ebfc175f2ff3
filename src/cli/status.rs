//! The verb `sapwood status`.
//!
//! *Not here*: what is shown, see `deploy::status`.

use std::io;
use std::process::ExitCode;

use anyhow::Result;

use super::deploy_output::{self, describe_signer};
use super::output;
use super::sysroot_args::SysrootArgs;
use crate::cli::context::{Context, Run};
use crate::deploy::retention::DeploymentRole;
use crate::deploy::status::{DeploymentStatus, Incomplete, ProblemKind, SysrootStatus};

/// Show what is deployed on this machine
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood status
  sapwood status --json |
    jq -r '.deployments[] | select(.roles | index(\"booted\")) | .version'

  sapwood status --check
      for monitoring: print what should be looked at; exit status 3 when there is something

The first deployment boots next, unless a line says what boots instead. * marks the one that runs, + \
one that is staged for the next shutdown, ! one that did not come up.")]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Say more about each deployment
    #[arg(long, short)]
    all: bool,

    /// Print only what should be looked at; exit status 3 when there is something
    #[arg(long, conflicts_with = "all")]
    check: bool,

    #[command(flatten)]
    sysroot: SysrootArgs,
}

/// The exit status of `--check` when something should be looked at.
const PROBLEMS_EXIT_STATUS: u8 = 3;

impl Run for Args {
    fn run(&self, _context: &Context) -> Result<ExitCode> {
        let opened = self.sysroot.open()?;
        let state = opened.state()?;
        let status = SysrootStatus::new(&opened.sysroot, &state)?;
        let is_fine = !self.check || status.problems.is_empty();
        let exit = if is_fine { ExitCode::SUCCESS } else { ExitCode::from(PROBLEMS_EXIT_STATUS) };
        if self.json {
            output::json(&status)?;
            return Ok(exit);
        }
        if self.check {
            for problem in &status.problems {
                output::line(format_args!("{}: {}", problem.message, problem.remedy))?;
            }
            return Ok(exit);
        }
        let boots_other: Vec<_> =
            status.problems.iter().filter(|problem| matches!(problem.kind, ProblemKind::Menu(_))).collect();
        for problem in &boots_other {
            output::line(format_args!("warning: {}\n    {}", problem.message, problem.remedy))?;
        }
        if let Some(failure) = &status.finalise_failure {
            output::line(format_args!(
                "the update to {} could not be finished at {}: {}",
                failure.deployment,
                output::time(failure.time),
                failure.reason
            ))?;
            output::line("'sapwood upgrade --finalise-now' tries again\n")?;
        }
        if status.deployments.is_empty() {
            output::note("nothing is deployed; 'sapwood deploy REMOTE:REF' deploys something");
        }
        for (place, deployment) in status.deployments.iter().enumerate() {
            print_deployment(place, deployment, self.all, boots_other.is_empty())?;
        }
        for avoided in &status.avoided {
            let (commit, time) = (avoided.commit.short(), output::time(avoided.time));
            output::line(format_args!("! commit {commit} is avoided since {time}: {}", avoided.reason))?;
        }
        for left in &status.left {
            let (commit, time) = (left.commit.short(), output::time(left.time));
            output::line(format_args!(
                "commit {commit} was left by a rollback at {time}: 'sapwood upgrade --again' takes it"
            ))?;
        }
        for leftover in &status.leftovers {
            output::line(format_args!("left over: {}: {}", leftover.path.display(), leftover.reason))?;
        }
        Ok(exit)
    }
}

fn print_deployment(place: usize, deployment: &DeploymentStatus, all: bool, is_next_known: bool) -> io::Result<()> {
    let has = |role| deployment.roles.contains(&role);
    let mark = match () {
        () if has(DeploymentRole::Booted) => '*',
        () if has(DeploymentRole::Staged) => '+',
        () if has(DeploymentRole::Failed) => '!',
        () => ' ',
    };
    let word = |role: &DeploymentRole| match role {
        DeploymentRole::Default if !is_next_known => "first in the menu",
        other => role_word(*other),
    };
    let roles: Vec<&str> = deployment.roles.iter().map(word).collect();
    let roles = if roles.is_empty() { String::new() } else { format!("  ({})", roles.join(", ")) };
    output::line(format_args!("{mark} {place} {}{roles}", deployment.id))?;
    let version = deployment.version.as_deref().unwrap_or("no version");
    print_row("version", format_args!("{version}, {}, {}", deployment.title, output::time(deployment.commit_time)))?;
    let from = deployment.upstream.as_ref().map_or_else(|| deployment.ref_name.to_string(), ToString::to_string);
    print_row("from", format_args!("{from}, {}", describe_signer(&deployment.signed_by)))?;
    if let Some(reason) = &deployment.distrusted {
        print_row("trust", format_args!("would not be deployed today: {reason}"))?;
    }
    if let Some(tries) = deployment.tries {
        print_row("on trial", format_args!("{} tries left, {} made", tries.left, tries.done))?;
    }
    if let Some(reason) = &deployment.failed {
        print_row("failed", reason)?;
    }
    match deployment.incomplete {
        Some(Incomplete::PartialImage) => print_row("content", "not even all names and attributes are here")?,
        Some(Incomplete::Objects(sum)) => {
            let (here, all) = (output::size(sum.bytes_here), output::size(sum.bytes));
            let percent = (sum.bytes_here * 100).checked_div(sum.bytes).unwrap_or(100);
            print_row("content", format_args!("{here} of {all} are here ({percent} %): it needs a network"))?;
        }
        None => {}
    }
    for conflict in &deployment.etc_conflicts {
        print_row("/etc", deploy_output::describe_decision(conflict))?;
    }
    if all {
        print_row("commit", deployment.commit)?;
        print_row("kernel", &deployment.kernel)?;
        print_row("arguments", &deployment.kargs)?;
        print_row("deployed", output::time(deployment.deployed))?;
    }
    Ok(())
}

const fn role_word(role: DeploymentRole) -> &'static str {
    match role {
        DeploymentRole::New => "new",
        DeploymentRole::Booted => "running",
        DeploymentRole::Staged => "staged",
        DeploymentRole::Default => "boots next",
        DeploymentRole::First => "first of its stateroot",
        DeploymentRole::Rollback => "rollback",
        DeploymentRole::Pinned => "pinned",
        DeploymentRole::Complete => "whole",
        DeploymentRole::Trusted => "trusted",
        DeploymentRole::Failed => "failed",
        DeploymentRole::OtherStateroot => "elsewhere",
    }
}

fn print_row(word: &str, text: impl std::fmt::Display) -> io::Result<()> {
    output::line(format_args!("    {word:<9} {text}"))
}
