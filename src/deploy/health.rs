//! Whether the system that came up is well: checks that the administrator or a commit brings, and what follows.
//!
//! ```text
//! /etc/sapwood/health.d/required.d/*    programs that must all succeed
//! /etc/sapwood/health.d/wanted.d/*      programs whose failure is only reported
//! ```
//!
//! A deployment is on trial as long as its boot entry is counted. If a required check fails then, the one before takes over
//! at once. A deployment that was well before is never given up for a failing check, and one that nothing could replace
//! neither: there is no loop of reboots. A commit that was given up is not deployed again unless somebody asks for it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::apply::{Changer, DeployError};
use super::error::SysrootError;
use super::history::Happening;
use super::id::DeploymentId;
use super::records::{self, Failure, Failures};
use super::sysroot::{Deployment, State};

/// Where checks are, below `/etc`.
pub const CHECKS: &str = "sapwood/health.d";

/// A check that failed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct FailedCheck {
    /// Its file's name.
    pub name: String,
    /// How it ended, and the last of what it said.
    pub reason: String,
}

/// What the checks came to.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Checkup {
    /// How many ran.
    pub ran: usize,
    /// Those that must not fail and did.
    pub required: Vec<FailedCheck>,
    /// The others that failed.
    pub wanted: Vec<FailedCheck>,
}

/// What follows from a check-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// All is well.
    Healthy,
    /// It is not, and this deployment boots next.
    FallBack(DeploymentId),
    /// It is not, and there is nothing to be done about it, for this reason.
    Stay(&'static str),
}

/// Runs the checks below `etc`, one after the other by name.
///
/// # Errors
/// Those of listing the directories; a check that cannot be started has failed.
pub fn run_checks(etc: &Path) -> io::Result<Checkup> {
    let mut checkup = Checkup::default();
    for (kind, is_required) in [("required.d", true), ("wanted.d", false)] {
        for path in programs(&etc.join(CHECKS).join(kind))? {
            checkup.ran += 1;
            let Some(failed) = run(&path) else { continue };
            if is_required { checkup.required.push(failed) } else { checkup.wanted.push(failed) }
        }
    }
    Ok(checkup)
}

fn programs(directory: &Path) -> io::Result<Vec<PathBuf>> {
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

fn run(path: &Path) -> Option<FailedCheck> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let reason = match Command::new(path).stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => return None,
        Ok(output) => {
            let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            let last = said.lines().rev().find(|line| !line.trim().is_empty()).map(|line| format!(": {line}"));
            format!("{}{}", output.status, last.unwrap_or_default())
        }
        Err(error) => format!("it cannot be started: {error}"),
    };
    Some(FailedCheck { name, reason })
}

impl Changer<'_> {
    /// Notes that the machine came up, once for each boot, and which deployments did not on the way.
    ///
    /// # Errors
    /// [`DeployError`].
    pub fn record_boot(&self, boot_id: &str) -> Result<(), DeployError> {
        let state = self.state()?;
        let Some(booted) = state.booted() else { return Ok(()) };
        let path = self.sysroot.layout().history();
        let log = super::history::read(&path).map_err(|source| DeployError::Io { action: "read", path, source })?;
        if log.iter().any(|entry| entry.event == Happening::Booted && entry.detail.as_deref() == Some(boot_id)) {
            return Ok(());
        }
        self.log(Happening::Booted, &booted.id, &booted.origin, Some(boot_id.to_owned()))?;
        for found in &state.deployments {
            let is_exhausted = found.entry.as_ref().is_some_and(super::boot::BootEntry::is_exhausted);
            if is_exhausted && found.id != booted.id && !state.failures.contains_key(&found.origin.commit) {
                let tries = found.entry.as_ref().and_then(|entry| entry.tries).map_or(0, |tries| tries.done);
                self.give_up(found, &format!("it did not come up in {tries} tries"))?;
            }
        }
        Ok(())
    }

    /// Trusts the deployment that runs from now on.
    ///
    /// # Errors
    /// [`DeployError`].
    pub fn bless(&self) -> Result<Option<DeploymentId>, DeployError> {
        let state = self.state()?;
        let Some(booted) = state.booted() else { return Ok(None) };
        let counted = booted.entry.as_ref().filter(|entry| entry.tries.is_some());
        let Some(entry) = counted else { return Ok(None) };
        state.menu.carry_out(&state.menu.bless(entry.order)?)?;
        self.log(Happening::Blessed, &booted.id, &booted.origin, None)?;
        Ok(Some(booted.id.clone()))
    }

    /// Does what follows from a check-up of the deployment that runs. Rebooting is left to the caller.
    ///
    /// # Errors
    /// [`DeployError`].
    pub fn judge(&self, checkup: &Checkup) -> Result<Verdict, DeployError> {
        let Some(failed) = checkup.required.first() else { return Ok(Verdict::Healthy) };
        let reason = format!("required check '{}' failed ({})", failed.name, failed.reason);
        let state = self.state()?;
        let Some(booted) = state.booted() else { return Ok(Verdict::Stay("it is not known which deployment runs")) };
        self.log(Happening::Unhealthy, &booted.id, &booted.origin, Some(reason.clone()))?;
        let is_on_trial = booted.entry.as_ref().is_some_and(|entry| entry.tries.is_some());
        if !is_on_trial {
            return Ok(Verdict::Stay("it came up well before"));
        }
        let Some(fallback) = state.fallback(booted) else {
            return Ok(Verdict::Stay("there is no other deployment that came up"));
        };
        let fallback = fallback.id.clone();
        self.give_up(booted, &reason)?;
        let state = self.state()?;
        let target = state.get(&fallback).ok_or_else(|| SysrootError::NoDeployment(fallback.to_string()))?;
        self.set_default(&state, target, Happening::RolledBack)?;
        Ok(Verdict::FallBack(fallback))
    }

    /// Writes down that a deployment's commit is to be avoided.
    fn give_up(&self, deployment: &Deployment, reason: &str) -> Result<(), DeployError> {
        let path = self.sysroot.layout().failed();
        let mut failures: Failures = records::read(&path)?.unwrap_or_default();
        let failure = Failure { deployment: deployment.id.clone(), time: self.now, reason: reason.to_owned() };
        failures.insert(deployment.origin.commit, failure);
        records::write(&path, Some(&failures))?;
        self.log(Happening::GivenUp, &deployment.id, &deployment.origin, Some(reason.to_owned()))
    }
}

impl State {
    /// Why the commit is avoided, if it is.
    #[must_use]
    pub fn failure_of(&self, deployment: &Deployment) -> Option<String> {
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
    fn checks_run_by_name_and_say_why_they_failed() {
        let etc = tempfile::tempdir().expect("a temporary directory");
        let check = |name: &str, script: &str, mode: u32| {
            let path = etc.path().join(CHECKS).join(name);
            disk::make_directories(path.parent().expect("inside")).expect("made");
            disk::replace(&path, script.as_bytes()).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("ours");
        };
        assert_eq!(run_checks(etc.path()).expect("no checks"), Checkup::default());
        check("required.d/10-good", "#!/bin/sh\nexit 0\n", 0o755);
        check("required.d/20-bad", "#!/bin/sh\necho first\necho 'no route' >&2\nexit 3\n", 0o755);
        check("required.d/30-text", "not a program", 0o644);
        check("wanted.d/bad", "#!/bin/sh\nexit 1\n", 0o755);
        check("wanted.d/.hidden", "#!/bin/sh\nexit 1\n", 0o755);
        let checkup = run_checks(etc.path()).expect("listable");
        assert_eq!(checkup.ran, 4);
        let names: Vec<&str> = checkup.required.iter().map(|failed| failed.name.as_str()).collect();
        assert_eq!(names, ["20-bad", "30-text"]);
        assert_eq!(checkup.required[0].reason, "exit status: 3: no route");
        assert!(checkup.required[1].reason.starts_with("it cannot be started"), "{:?}", checkup.required[1]);
        assert_eq!(checkup.wanted.len(), 1);
    }
}
