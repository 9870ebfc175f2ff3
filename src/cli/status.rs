//! `sapwood status`.

use std::io;
use std::process::ExitCode;

use anyhow::Result;

use super::deploy_words::{self, voucher};
use super::output;
use super::sysroot_args::SysrootArgs;
use crate::deploy::roots::Role;
use crate::deploy::status::{DeploymentStatus, Incomplete, Status};

/// Show what is deployed on this machine
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood status
  sapwood status --json | jq -r '.deployments[] | select(.roles | index(\"booted\")) | .version'

The first deployment boots next. * marks the one that runs, + one that is staged for the next
shutdown, ! one that did not come up.")]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Say more about each deployment
    #[arg(long, short)]
    all: bool,

    #[command(flatten)]
    sysroot: SysrootArgs,
}

/// Runs the verb.
///
/// # Errors
/// When something on the sysroot cannot be read.
pub fn run(args: &Args) -> Result<ExitCode> {
    let opened = args.sysroot.open()?;
    let state = opened.state()?;
    let status = Status::new(&opened.sysroot, &state)?;
    if args.json {
        output::json(&status)?;
        return Ok(ExitCode::SUCCESS);
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
        print(place, deployment, args.all)?;
    }
    for avoided in &status.avoided {
        let (commit, time) = (avoided.commit.short(), output::time(avoided.time));
        output::line(format_args!("! commit {commit} is avoided since {time}: {}", avoided.reason))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print(place: usize, deployment: &DeploymentStatus, all: bool) -> io::Result<()> {
    let has = |role| deployment.roles.contains(&role);
    let mark = match () {
        () if has(Role::Booted) => '*',
        () if has(Role::Staged) => '+',
        () if has(Role::Failed) => '!',
        () => ' ',
    };
    let roles: Vec<&str> = deployment.roles.iter().map(|role| role_word(*role)).collect();
    let roles = if roles.is_empty() { String::new() } else { format!("  ({})", roles.join(", ")) };
    output::line(format_args!("{mark} {place} {}{roles}", deployment.id))?;
    let version = deployment.version.as_deref().unwrap_or("no version");
    line("version", format_args!("{version}, {}, {}", deployment.title, output::time(deployment.commit_time)))?;
    let from = deployment.upstream.as_ref().map_or_else(|| deployment.ref_name.to_string(), ToString::to_string);
    line("from", format_args!("{from}, {}", voucher(&deployment.voucher)))?;
    if let Some(reason) = &deployment.distrusted {
        line("trust", format_args!("would not be deployed today: {reason}"))?;
    }
    if let Some(tries) = deployment.tries {
        line("on trial", format_args!("{} tries left, {} made", tries.left, tries.done))?;
    }
    if let Some(reason) = &deployment.failed {
        line("failed", reason)?;
    }
    match deployment.incomplete {
        Some(Incomplete::ImagePartly) => line("content", "not even all names are here")?,
        Some(Incomplete::Objects(sum)) => {
            let (here, all) = (output::size(sum.bytes_here), output::size(sum.bytes));
            let percent = (sum.bytes_here * 100).checked_div(sum.bytes).unwrap_or(100);
            line("content", format_args!("{here} of {all} are here ({percent} %): it needs a network"))?;
        }
        None => {}
    }
    for conflict in &deployment.etc_conflicts {
        line("/etc", deploy_words::decision(conflict))?;
    }
    if all {
        line("commit", deployment.commit)?;
        line("kernel", &deployment.kernel)?;
        line("arguments", &deployment.kargs)?;
        line("deployed", output::time(deployment.deployed))?;
    }
    Ok(())
}

const fn role_word(role: Role) -> &'static str {
    match role {
        Role::New => "new",
        Role::Booted => "running",
        Role::Staged => "staged",
        Role::Default => "boots next",
        Role::Rollback => "rollback",
        Role::Pinned => "pinned",
        Role::Whole => "whole",
        Role::Trusted => "trusted",
        Role::Failed => "failed",
        Role::Elsewhere => "elsewhere",
    }
}

fn line(word: &str, text: impl std::fmt::Display) -> io::Result<()> {
    output::line(format_args!("    {word:<9} {text}"))
}
