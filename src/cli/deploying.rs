//! The steps that `deploy`, `upgrade`, `switch` and `kargs` have in common: fetching, planning, deploying.
//!
//! *Not here*: the output, see `deploy_output`; the steps themselves, see `deploy::upgrade`, `deploy::plan` and `deploy::apply`.
//!
//! *Used by* these verbs; `reboot` also by `boot` and `rollback`.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

use super::deploy_output;
use super::sysroot_args::{OpenSysroot, SysrootArgs, now, ownership};
use super::{output, repository};
use crate::deploy::choose::ChosenCommit;
use crate::deploy::first_boot::FirstBoot;
use crate::deploy::id::StaterootName;
use crate::deploy::kargs::KargEdit;
use crate::deploy::plan::{DeployPlan, DeployRequest, When};
use crate::deploy::status::find_menu_problems;
use crate::deploy::sysroot::State;
use crate::deploy::upgrade::Update;
use crate::image::Image;
use crate::remote::fetch::FetchProgress;
use crate::remote::pull::RefReport;
use crate::store::Store;

/// The exit status that says that there is nothing newer, for `--check` and `--unchanged-exit-77`.
pub(crate) const UNCHANGED_EXIT_STATUS: u8 = 77;

/// The arguments of every verb that makes a deployment.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct DeployArgs {
    #[command(flatten)]
    pub(crate) sysroot: SysrootArgs,

    /// Put it into the boot menu at once, even on a running system [default there: at shutdown]
    #[arg(long, visible_alias = "finalize-now")]
    pub(crate) finalise_now: bool,

    /// Only say what would be done: what is fetched, the space it takes, /etc, services, what is removed
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,

    /// Reboot afterwards
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) reboot: bool,
}

/// A commit that is to be deployed, and the report of what was or would be fetched for it.
pub(crate) struct DeployCandidate<'a> {
    pub(crate) chosen: ChosenCommit,
    pub(crate) image: &'a Image,
    /// The stateroot to deploy into.
    pub(crate) stateroot: StaterootName,
    /// The changes of the kernel arguments.
    pub(crate) kargs: Vec<KargEdit>,
    /// The settings of a new machine.
    pub(crate) first_boot: FirstBoot,
    /// What is or was fetched; `None` for a commit that is in the repository.
    pub(crate) fetched: Option<&'a RefReport>,
}

/// Fetches an update. Waits for the repository and shows the progress on standard error.
///
/// # Errors
/// When the commit cannot be deployed, or not everything can be fetched.
pub(crate) fn fetch(update: &Update, store: &Store) -> Result<(ChosenCommit, Image, RefReport)> {
    // Checked before waiting and downloading: a commit without a kernel cannot be deployed.
    update.check_kernel()?;
    let writer = store.writer(repository::wait_with_notice())?;
    let progress = FetchProgress::default();
    Ok(output::while_fetching(&progress, || update.fetch(&writer, &progress))?)
}

/// Returns the stateroot to use: the given one, else that of the running system, else the configured one.
pub(crate) fn choose_stateroot(opened: &OpenSysroot, state: &State, given: Option<&StaterootName>) -> StaterootName {
    let booted = state.booted().map(|booted| booted.id.stateroot());
    given.or(booted).unwrap_or(&opened.sysroot.config().stateroot).clone()
}

/// Prints what deploying the commit would do.
///
/// # Errors
/// When the commit cannot be deployed.
pub(crate) fn print_plan(opened: &OpenSysroot, candidate: &DeployCandidate<'_>, args: &DeployArgs) -> Result<ExitCode> {
    let state = opened.state()?;
    let plan =
        plan_deployment(opened, &state, candidate, args, candidate.fetched.map_or(0, |report| report.disk_bytes))?;
    if args.json {
        output::json(&deploy_output::plan_json(&plan, &state, candidate.fetched))?;
    } else {
        deploy_output::print_plan(&plan, &state, candidate.fetched)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Deploys a commit that is in the repository.
///
/// # Errors
/// When it cannot be deployed. The machine then boots what it booted before, or the new deployment.
pub(crate) fn deploy(opened: &OpenSysroot, candidate: &DeployCandidate<'_>, args: &DeployArgs) -> Result<ExitCode> {
    let lock = opened.lock()?;
    let changer = opened.transaction(&lock);
    changer.clean_up()?;
    let state = changer.read_state()?;
    let plan = plan_deployment(opened, &state, candidate, args, 0)?;
    if plan.is_current(&state) {
        let there = state.next_to_boot().map(|next| next.id.to_string()).unwrap_or_default();
        if plan.when == When::AtShutdown || changer.finalise()?.is_none() {
            output::note(format_args!("{there} is this commit with these arguments already: nothing to do"));
        } else {
            output::note(format_args!("{there} was staged and is in the boot menu now"));
        }
        if let Some(next) = opened.state()?.default() {
            candidate.first_boot.write(&opened.sysroot, &next.id)?;
        }
        note_menu_problems(opened)?;
        return Ok(ExitCode::SUCCESS);
    }
    changer.deploy(&plan, candidate.image)?;
    candidate.first_boot.write(&opened.sysroot, &plan.id)?;
    if args.json {
        output::json(&deploy_output::plan_json(&plan, &state, candidate.fetched))?;
    } else {
        deploy_output::print_summary(&plan)?;
    }
    note_menu_problems(opened)?;
    if args.reboot { reboot() } else { Ok(ExitCode::SUCCESS) }
}

/// Says why something else boots than what is first in the menu.
///
/// # Errors
/// When the boot menu cannot be read.
pub(crate) fn note_menu_problems(opened: &OpenSysroot) -> Result<()> {
    for problem in find_menu_problems(&opened.sysroot, &opened.state()?)? {
        output::note(format_args!("warning: {}", problem.message));
        output::note(format_args!("hint: {}", problem.remedy));
    }
    Ok(())
}

fn plan_deployment(
    opened: &OpenSysroot,
    state: &State,
    candidate: &DeployCandidate<'_>,
    args: &DeployArgs,
    fetch_bytes: u64,
) -> Result<DeployPlan> {
    let is_running = state.booted().is_some();
    let request = DeployRequest {
        chosen: &candidate.chosen,
        image: candidate.image,
        stateroot: candidate.stateroot.clone(),
        kargs: &candidate.kargs,
        when: if is_running && !args.finalise_now { When::AtShutdown } else { When::Now },
        ownership: ownership(),
        fetch_bytes,
        now: now(),
    };
    Ok(DeployPlan::new(&opened.sysroot, state, &request)?)
}

/// Puts the staged deployment into the boot menu if `--finalise-now` was given or the sysroot does not run, and removes what
/// a killed operation left. Returns whether a deployment was put into the menu.
///
/// # Errors
/// When the sysroot cannot be changed.
pub(crate) fn finalise_staged(opened: &OpenSysroot, args: &DeployArgs) -> Result<bool> {
    if args.dry_run {
        return Ok(false);
    }
    let lock = opened.lock()?;
    let changer = opened.transaction(&lock);
    let state = changer.read_state()?;
    if state.staged().is_none() || (state.booted().is_some() && !args.finalise_now) {
        changer.clean_up()?;
        return Ok(false);
    }
    let done = changer.finalise()?;
    if let Some(id) = &done {
        output::note(format_args!("{id} was staged and is in the boot menu now"));
    }
    Ok(done.is_some())
}

/// Has systemd reboot the machine.
///
/// # Errors
/// When systemctl cannot be run, or fails.
pub(crate) fn reboot() -> Result<ExitCode> {
    let status = Command::new("systemctl").arg("reboot").status().context("cannot run systemctl reboot")?;
    if status.success() { Ok(ExitCode::SUCCESS) } else { bail!("systemctl reboot failed: {status}") }
}
