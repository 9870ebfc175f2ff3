//! Runs the health checks of the system that booted, and falls back to another deployment if a required check fails.
//!
//! ```text
//! /etc/sapwood/health.d/required.d/*    programs that must all succeed
//! /etc/sapwood/health.d/wanted.d/*      programs whose failure is only reported
//! ```
//!
//! A check is an executable file. What no administrator means as one is ignored, and reported: files that are not executable, and
//! copies that editors and package managers leave (`run-parts(8)` ignores them, too). The programs of each directory together have
//! a time limit. One that takes longer is ended with everything that it started, and it and the rest count as failed: there is a
//! verdict at any rate.
//!
//! A deployment is on trial while the boots of its entry are counted. If a required check fails during the trial, the
//! deployment before becomes the default. A deployment that passed its trial, or that no other can replace, stays, so there is
//! no loop of reboots. A commit that failed is not deployed again unless the user asks for it.
//!
//! *Not here*: rebooting; the caller does that. *Used by* `cli` (`sapwood boot`).

use std::fs;
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::MemfdFlags;

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
    /// Files that are no checks, and why.
    pub(crate) ignored: Vec<String>,
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

/// The ends of names of copies that editors and package managers leave.
const COPY_SUFFIXES: [&str; 16] = [
    "~",
    ".bak",
    ".old",
    ".orig",
    ".rej",
    ".swp",
    ",v",
    ".rpmsave",
    ".rpmnew",
    ".rpmorig",
    ".dpkg-old",
    ".dpkg-dist",
    ".dpkg-new",
    ".dpkg-tmp",
    ".disabled",
    ".sapwood-new",
];

/// How often a running check is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The bytes of the output of a check that are read for its last line.
const OUTPUT_BYTES_MAX: u64 = 64 << 10;

/// Runs the checks below `etc` one after the other, in the order of their names. Those of each directory take no longer than
/// `limit`.
///
/// # Errors
/// Those of listing the directories. A check that cannot be started counts as failed.
pub(crate) fn run_checks(etc: &Path, limit: Duration) -> io::Result<HealthReport> {
    let mut report = HealthReport::default();
    for (kind, is_required) in [("required.d", true), ("wanted.d", false)] {
        let deadline = Instant::now() + limit;
        for path in list_checks(&etc.join(CHECKS_DIRECTORY).join(kind), &mut report.ignored)? {
            report.ran += 1;
            let Err(reason) = run_check(&path, deadline) else { continue };
            let failed = FailedCheck { name: name_of(&path), reason };
            if is_required { report.required.push(failed) } else { report.wanted.push(failed) }
        }
    }
    Ok(report)
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Returns the checks of a directory, sorted; adds what is none to `ignored`.
fn list_checks(directory: &Path, ignored: &mut Vec<String>) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    paths.retain(|path| match reason_to_ignore(path) {
        None => true,
        Some(reason) => {
            ignored.push(format!("{}: {reason}", path.display()));
            false
        }
    });
    Ok(paths)
}

/// Returns why a file is no check.
fn reason_to_ignore(path: &Path) -> Option<&'static str> {
    let name = name_of(path);
    let metadata = fs::metadata(path).ok();
    match metadata {
        _ if name.starts_with(['.', '#']) => Some("its name is that of a hidden or temporary file"),
        _ if COPY_SUFFIXES.iter().any(|suffix| name.ends_with(suffix)) => Some("its name is that of a copy"),
        None => Some("it is a link that leads nowhere"),
        Some(metadata) if !metadata.is_file() => Some("it is no file"),
        Some(metadata) if metadata.permissions().mode() & 0o111 == 0 => Some("it is not executable"),
        Some(_) => None,
    }
}

/// Runs one check. Returns why it failed.
fn run_check(path: &Path, deadline: Instant) -> Result<(), String> {
    if Instant::now() >= deadline {
        return Err("it was not started: the checks before took all the time".to_owned());
    }
    let cannot = |error: io::Error| format!("it cannot be started: {error}");
    // A file and not a pipe, which a program that the check leaves behind would keep open.
    let memory = rustix::fs::memfd_create("output of a check", MemfdFlags::CLOEXEC);
    let mut output = memory.map(fs::File::from).map_err(|error| cannot(error.into()))?;
    let copies = output.try_clone().and_then(|out| Ok((out, output.try_clone()?)));
    let (out, err) = copies.map_err(cannot)?;
    let mut command = Command::new(path);
    command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
    let mut child = command.spawn().map_err(cannot)?;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => thread::sleep(POLL_INTERVAL),
            Ok(None) | Err(_) => {
                end_group(&mut child);
                return Err("it did not end in time".to_owned());
            }
        }
    };
    if status.success() {
        return Ok(());
    }
    let mut text = Vec::new();
    let length = output.seek(io::SeekFrom::End(0)).unwrap_or(0);
    let read = output.seek(io::SeekFrom::Start(length.saturating_sub(OUTPUT_BYTES_MAX)));
    // Without its output the exit status says what there is to say.
    let _ = read.and_then(|_| output.read_to_end(&mut text));
    let text = String::from_utf8_lossy(&text).into_owned();
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).map(|line| format!(": {line}"));
    Err(format!("{status}{}", last.unwrap_or_default()))
}

/// Ends a check and all processes of its group.
fn end_group(child: &mut std::process::Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        // The group may have ended by itself meanwhile.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    let _ = child.wait();
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
        let run = |limit| run_checks(etc.path(), limit).expect("listable");
        let long = Duration::from_secs(60);
        assert_eq!(run(long), HealthReport::default());
        check("required.d/10-good", "#!/bin/sh\nexit 0\n", 0o755);
        check("required.d/20-bad.sh", "#!/bin/sh\necho first\necho 'no route' >&2\nexit 3\n", 0o755);
        check("required.d/30-text", "not a program", 0o755);
        check("wanted.d/bad", "#!/bin/sh\nexit 1\n", 0o755);
        // None of these is a check.
        for (name, mode) in [("README", 0o644), ("10-ok~", 0o755), (".hidden", 0o755), ("10-ok.dpkg-old", 0o755)] {
            check(&format!("required.d/{name}"), "#!/bin/sh\nexit 1\n", mode);
        }
        disk::make_directories(&etc.path().join(CHECKS_DIRECTORY).join("required.d/directory")).expect("made");
        let report = run(long);
        assert_eq!((report.ran, report.ignored.len()), (4, 5), "{report:?}");
        let names: Vec<&str> = report.required.iter().map(|failed| failed.name.as_str()).collect();
        assert_eq!(names, ["20-bad.sh", "30-text"]);
        assert_eq!(report.required[0].reason, "exit status: 3: no route");
        assert!(report.required[1].reason.starts_with("it cannot be started"), "{:?}", report.required[1]);
        assert_eq!(report.wanted.len(), 1);
    }

    #[test]
    fn checks_that_do_not_end_fail_in_time_with_the_rest() {
        let etc = tempfile::tempdir().expect("a temporary directory");
        let required = etc.path().join(CHECKS_DIRECTORY).join("required.d");
        disk::make_directories(&required).expect("made");
        // A process that is left behind has the output open.
        for (name, script) in [("10-left", "sleep 1000 & exit 0"), ("20-hangs", "sleep 1000"), ("30-late", "exit 0")] {
            disk::replace(&required.join(name), format!("#!/bin/sh\n{script}\n").as_bytes()).expect("written");
            fs::set_permissions(required.join(name), fs::Permissions::from_mode(0o755)).expect("own file");
        }
        let report = run_checks(etc.path(), Duration::from_millis(300)).expect("listable");
        let failed: Vec<_> =
            report.required.iter().map(|failed| (failed.name.as_str(), &failed.reason[..10])).collect();
        assert_eq!(failed, [("20-hangs", "it did not"), ("30-late", "it was not")]);
    }
}
