//! The verb `sapwood boot`, which the systemd units of a machine run at boot and at shutdown.
//!
//! *Not here*: the decisions, which are in `deploy::health` and `deploy::apply`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Subcommand;

use super::deploying;
use super::output;
use super::sysroot_args::SysrootArgs;
use crate::cli::context::{Context, Run};
use crate::deploy::health::{HealthVerdict, run_checks};

/// The kernel's id of the current boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Run what systemd units run at boot and at shutdown
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood boot finalise
      what happens at shutdown: put the staged update into the boot menu
  sapwood boot record
      what happens at boot: log it, note which deployments did not come up
  sapwood boot health
      run the checks of /etc/sapwood/health.d; go back if required ones fail
  sapwood boot bless
      trust the deployment that runs")]
pub(crate) struct Args {
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
    /// Run the health checks; if a required one fails and the deployment is on trial, go back
    Health {
        /// Do not reboot into the previous deployment
        #[arg(long)]
        no_reboot: bool,
        /// How long the checks of each directory may take together; what takes longer has failed
        #[arg(long, value_name = "SECONDS", default_value_t = 240)]
        limit: u64,
    },
}

impl Run for Args {
    fn run(&self, _context: &Context) -> Result<ExitCode> {
        let opened = self.sysroot.open()?;
        let lock = opened.lock()?;
        let changer = opened.transaction(&lock);
        match &self.action {
            Action::Finalise => match changer.finalise()? {
                Some(id) => output::note(format_args!("{id} is in the boot menu and boots next")),
                None => output::note("nothing is staged"),
            },
            Action::Record => {
                let id = std::fs::read_to_string(BOOT_ID).with_context(|| format!("cannot read {BOOT_ID}"))?;
                changer.record_boot(id.trim())?;
                if let Some(failure) = changer.read_state()?.finalise_failure {
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
            Action::Health { no_reboot, limit } => {
                drop(lock);
                return run_health_checks(&opened, *no_reboot, Duration::from_secs(*limit));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn run_health_checks(opened: &super::sysroot_args::OpenSysroot, no_reboot: bool, limit: Duration) -> Result<ExitCode> {
    // The checks run without the lock, because a check may call this program.
    let state = opened.state()?;
    let etc = match state.booted() {
        Some(booted) => opened.sysroot.layout().deployment(&booted.id).etc(),
        None => "/etc".into(),
    };
    let checkup = run_checks(&etc, limit).with_context(|| format!("cannot list the checks in {}", etc.display()))?;
    for ignored in &checkup.ignored {
        output::note(format_args!("ignored {ignored}"));
    }
    for failed in &checkup.wanted {
        output::note(format_args!("wanted check '{}' failed: {}", failed.name, failed.reason));
    }
    for failed in &checkup.required {
        output::note(format_args!("required check '{}' failed: {}", failed.name, failed.reason));
    }
    let lock = opened.lock()?;
    match opened.transaction(&lock).act_on_report(&checkup)? {
        HealthVerdict::Healthy => {
            output::note(format_args!("{} checks ran, no required one failed", checkup.ran));
            return Ok(ExitCode::SUCCESS);
        }
        HealthVerdict::Stay(why) => output::note(format_args!("not going back: {why}")),
        HealthVerdict::FallBack(id) => {
            output::note(format_args!("going back to {id}"));
            if !no_reboot {
                drop(lock);
                deploying::reboot()?;
            }
        }
    }
    Ok(ExitCode::FAILURE)
}
