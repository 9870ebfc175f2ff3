//! Runs the health checks of the system that booted, and falls back to another deployment if a required check fails.
//!
//! ```text
//! /etc/sapwood/health.d/required.d/*    programs that must all succeed
//! /etc/sapwood/health.d/wanted.d/*      programs whose failure is only reported
//! ```
//!
//! A deployment is on trial while the boots of its entry are counted. If a required check fails during the trial, the
//! deployment before becomes the default. A deployment that passed its trial, or that no other can replace, stays, so there is
//! no loop of reboots. A commit that failed is not deployed again unless the user asks for it.
//!
//! *Not here*: rebooting; the caller does that. *Used by* `cli` (`sapwood boot`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::apply::{DeployError, DeployTransaction};
use super::error::SysrootError;
use super::history::HistoryEvent;
use super::id::DeploymentId;
use super::sysroot::{Deployment, State};
use super::update_state::{self, FailedCommit, FailedCommits};

/// The directory of the checks, below `/etc`.
pub(crate) const CHECKS_DIRECTORY: &str = "sapwood/health.d";

/// A check that failed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct FailedCheck {
    /// The file name of the check.
    pub(crate) name: String,
    /// The exit status of the check and the last line of its output.
    pub(crate) reason: String,
}

/// The results of all checks.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub(crate) struct HealthReport {
    /// Number of checks that ran.
    pub(crate) ran: usize,
    /// Required checks that failed.
    pub(crate) required: Vec<FailedCheck>,
    /// Wanted checks that failed.
    pub(crate) wanted: Vec<FailedCheck>,
}

/// What follows from a health report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HealthVerdict {
    /// No required check failed.
    Healthy,
    /// A required check failed, and this deployment boots next.
    FallBack(DeploymentId),
    /// A required check failed, and the running deployment stays the default for this reason.
    Stay(&'static str),
}

/// Runs the checks below `etc` one after the other, in the order of their names.
///
/// # Errors
/// Those of listing the directories. A check that cannot be started counts as failed.
pub(crate) fn run_checks(etc: &Path) -> io::Result<HealthReport> {
    let mut report = HealthReport::default();
    for (kind, is_required) in [("required.d", true), ("wanted.d", false)] {
        for path in list_programs(&etc.join(CHECKS_DIRECTORY).join(kind))? {
            report.ran += 1;
            let Some(failed) = run_check(&path) else { continue };
            if is_required { report.required.push(failed) } else { report.wanted.push(failed) }
        }
    }
    Ok(report)
}

fn list_programs(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.retain(|path| {
        path.is_file() && !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
    });
    paths.sort();
    Ok(paths)
}

fn run_check(path: &Path) -> Option<FailedCheck> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let reason = match Command::new(path).stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => return None,
        Ok(output) => {
            let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            let last = text.lines().rev().find(|line| !line.trim().is_empty()).map(|line| format!(": {line}"));
            format!("{}{}", output.status, last.unwrap_or_default())
        }
        Err(error) => format!("it cannot be started: {error}"),
    };
    Some(FailedCheck { name, reason })
}

impl DeployTransaction<'_> {
    /// Records, once for each boot, that the machine booted. Marks other deployments that used up their tries as failed.
    pub(crate) fn record_boot(&self, boot_id: &str) -> Result<(), DeployError> {
        let state = self.read_state()?;
        let Some(booted) = state.booted() else { return Ok(()) };
        let path = self.sysroot.layout().history();
        let log =
            super::history::read_history(&path).map_err(|source| DeployError::Io { action: "read", path, source })?;
        if log.iter().any(|entry| entry.event == HistoryEvent::Booted && entry.detail.as_deref() == Some(boot_id)) {
            return Ok(());
        }
        self.append_history(HistoryEvent::Booted, &booted.id, &booted.origin, Some(boot_id.to_owned()))?;
        for found in &state.deployments {
            let is_exhausted = found.entry.as_ref().is_some_and(super::boot::BootEntry::is_exhausted);
            if is_exhausted && found.id != booted.id && !state.failures.contains_key(&found.origin.commit) {
                let tries = found.entry.as_ref().and_then(|entry| entry.tries).map_or(0, |tries| tries.done);
                self.mark_failed(found, &format!("it did not come up in {tries} tries"))?;
            }
        }
        Ok(())
    }

    /// Ends the trial of the running deployment: its boots are not counted any more. Returns `None` if it is not on trial.
    pub(crate) fn bless(&self) -> Result<Option<DeploymentId>, DeployError> {
        let state = self.read_state()?;
        let Some(booted) = state.booted() else { return Ok(None) };
        let counted = booted.entry.as_ref().filter(|entry| entry.tries.is_some());
        let Some(entry) = counted else { return Ok(None) };
        state.menu.apply(&state.menu.plan_bless(entry.order)?)?;
        self.append_history(HistoryEvent::Blessed, &booted.id, &booted.origin, None)?;
        Ok(Some(booted.id.clone()))
    }

    /// Acts on the health report of the running deployment. The caller reboots if the verdict is to fall back.
    pub(crate) fn act_on_report(&self, report: &HealthReport) -> Result<HealthVerdict, DeployError> {
        let Some(failed) = report.required.first() else { return Ok(HealthVerdict::Healthy) };
        let reason = format!("required check '{}' failed ({})", failed.name, failed.reason);
        let state = self.read_state()?;
        let Some(booted) = state.booted() else {
            return Ok(HealthVerdict::Stay("it is not known which deployment runs"));
        };
        self.append_history(HistoryEvent::Unhealthy, &booted.id, &booted.origin, Some(reason.clone()))?;
        let is_on_trial = booted.entry.as_ref().is_some_and(|entry| entry.tries.is_some());
        if !is_on_trial {
            return Ok(HealthVerdict::Stay("it came up well before"));
        }
        let Some(fallback) = state.fallback_for(booted) else {
            return Ok(HealthVerdict::Stay("there is no other deployment that came up"));
        };
        let fallback = fallback.id.clone();
        self.mark_failed(booted, &reason)?;
        let state = self.read_state()?;
        let target = state.get(&fallback).ok_or_else(|| SysrootError::NoDeployment(fallback.to_string()))?;
        self.set_default(&state, target, HistoryEvent::RolledBack)?;
        Ok(HealthVerdict::FallBack(fallback))
    }

    /// Records that the commit of a deployment failed on this machine and is to be avoided.
    fn mark_failed(&self, deployment: &Deployment, reason: &str) -> Result<(), DeployError> {
        let path = self.sysroot.layout().failed();
        let mut failures: FailedCommits = update_state::read_record(&path)?.unwrap_or_default();
        let failure = FailedCommit { deployment: deployment.id.clone(), time: self.now, reason: reason.to_owned() };
        failures.insert(deployment.origin.commit, failure);
        update_state::write_record(&path, Some(&failures))?;
        self.append_history(HistoryEvent::GivenUp, &deployment.id, &deployment.origin, Some(reason.to_owned()))
    }
}

impl State {
    /// Returns why the commit of a deployment is avoided; `None` if it is not.
    pub(crate) fn failure_of(&self, deployment: &Deployment) -> Option<String> {
        let known = self.failures.get(&deployment.origin.commit).map(|failure| failure.reason.clone());
        known.or_else(|| self.has_failed(deployment).then(|| "it used up its tries".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::disk;

    #[test]
    fn checks_run_by_name_and_report_why_they_failed() {
        let etc = tempfile::tempdir().expect("a temporary directory");
        let check = |name: &str, script: &str, mode: u32| {
            let path = etc.path().join(CHECKS_DIRECTORY).join(name);
            disk::make_directories(path.parent().expect("inside")).expect("made");
            disk::replace(&path, script.as_bytes()).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("own file");
        };
        assert_eq!(run_checks(etc.path()).expect("no checks"), HealthReport::default());
        check("required.d/10-good", "#!/bin/sh\nexit 0\n", 0o755);
        check("required.d/20-bad", "#!/bin/sh\necho first\necho 'no route' >&2\nexit 3\n", 0o755);
        check("required.d/30-text", "not a program", 0o644);
        check("wanted.d/bad", "#!/bin/sh\nexit 1\n", 0o755);
        check("wanted.d/.hidden", "#!/bin/sh\nexit 1\n", 0o755);
        let report = run_checks(etc.path()).expect("listable");
        assert_eq!(report.ran, 4);
        let names: Vec<&str> = report.required.iter().map(|failed| failed.name.as_str()).collect();
        assert_eq!(names, ["20-bad", "30-text"]);
        assert_eq!(report.required[0].reason, "exit status: 3: no route");
        assert!(report.required[1].reason.starts_with("it cannot be started"), "{:?}", report.required[1]);
        assert_eq!(report.wanted.len(), 1);
    }
}
