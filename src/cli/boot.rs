//! `sapwood boot`: what the units of a machine run at boot and at shutdown.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Subcommand;

use super::deploying;
use super::output;
use super::sysroot_args::SysrootArgs;
use crate::deploy::health::{Verdict, run_checks};

/// Tells one boot from another.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What the units of a machine run; for people in trouble
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood boot finalise      what happens at shutdown: put the staged update into the boot menu
  sapwood boot record        what happens at boot: log it, notice which deployments did not come up
  sapwood boot health        run the checks of /etc/sapwood/health.d; go back if required ones fail
  sapwood boot bless         trust the deployment that runs")]
pub struct Args {
    #[command(subcommand)]
    action: Action,

    #[command(flatten)]
    sysroot: SysrootArgs,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Put the staged deployment into the boot menu
    #[command(visible_alias = "finalize")]
    Finalise,
    /// Log this boot
    Record,
    /// Trust the deployment that runs
    Bless,
    /// Check whether the system is well; if not, and it is on trial, go back
    Health {
        /// Do not reboot into the deployment before
        #[arg(long)]
        no_reboot: bool,
    },
}

/// Runs the verb.
///
/// # Errors
/// When it cannot be done. A failed check is no error but exit status 1.
pub fn run(args: &Args) -> Result<ExitCode> {
    let opened = args.sysroot.open()?;
    let lock = opened.lock()?;
    let changer = opened.changer(&lock);
    match &args.action {
        Action::Finalise => match changer.finalise()? {
            Some(id) => output::note(format_args!("{id} is in the boot menu and boots next")),
            None => output::note("nothing is staged"),
        },
        Action::Record => {
            let id = std::fs::read_to_string(BOOT_ID).with_context(|| format!("cannot read {BOOT_ID}"))?;
            changer.record_boot(id.trim())?;
            if let Some(failure) = changer.state()?.finalise_failure {
                output::note(format_args!(
                    "the update to {} could not be finished: {}",
                    failure.deployment, failure.reason
                ));
            }
        }
        Action::Bless => match changer.bless()? {
            Some(id) => output::note(format_args!("{id} is trusted from now on")),
            None => output::note("nothing is on trial"),
        },
        Action::Health { no_reboot } => {
            drop(lock);
            return health(&opened, *no_reboot);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn health(opened: &super::sysroot_args::Opened, no_reboot: bool) -> Result<ExitCode> {
    // Without the lock: a check may well call this program.
    let state = opened.state()?;
    let etc = match state.booted() {
        Some(booted) => opened.sysroot.layout().deployment(&booted.id).etc(),
        None => "/etc".into(),
    };
    let checkup = run_checks(&etc).with_context(|| format!("cannot list the checks in {}", etc.display()))?;
    for failed in &checkup.wanted {
        output::note(format_args!("wanted check '{}' failed: {}", failed.name, failed.reason));
    }
    for failed in &checkup.required {
        output::note(format_args!("required check '{}' failed: {}", failed.name, failed.reason));
    }
    let lock = opened.lock()?;
    match opened.changer(&lock).judge(&checkup)? {
        Verdict::Healthy => {
            output::note(format_args!("{} checks ran, no required one failed", checkup.ran));
            return Ok(ExitCode::SUCCESS);
        }
        Verdict::Stay(why) => output::note(format_args!("not going back: {why}")),
        Verdict::FallBack(id) => {
            output::note(format_args!("going back to {id}"));
            if !no_reboot {
                drop(lock);
                deploying::reboot()?;
            }
        }
    }
    Ok(ExitCode::FAILURE)
}
