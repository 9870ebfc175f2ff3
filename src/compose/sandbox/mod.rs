//! Runs everything that is not Sapwood's own code and works in or for a root under construction: package managers, scripts
//! of packages and of the treefile, generators of an initramfs.
//!
//! A [`SandboxedCommand`] runs in namespaces of its own, with a network that has only loopback, and sees one of two views
//! ([`View`]) as `/`: the root, or the engine's programs beside the root. It has a clean environment, resource limits, few
//! capabilities, and a filter of system calls.
//!
//! *Not here*: the directory and the namespaces of the whole compose, inside which every sandbox runs (`workspace`).
//!
//! *Invariants*: when root composes, no process in a sandbox has the ids of a user of this machine: the ids 0 to 65535 are
//! others outside (`ids`), and the root is mounted so that its files have on disk the ids that they have inside. All processes and mounts of a command end with it, also when this process is
//! killed. The sandbox is entered by executing this program twice more under another name (`stages`): first to leave the
//! host's namespaces, then as process 1 of the new ones. A running process with threads is therefore never forked without an
//! exec.
//!
//! *Used by* `root`, `workspace`, `engine` and `cli`.

mod error;
mod filter;
mod ids;
mod stages;
mod view;

use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::MemfdFlags;

pub(crate) use stages::enter;
pub(super) use view::make_settings_read_only;

use super::process::{ProcessError, Runner, SEARCH_PATH};

/// The program name (`argv[0]`) under which this program enters a sandbox.
pub(crate) const PROGRAM_NAME: &str = "sapwood-sandbox";

/// The path of the script inside the sandbox.
const SCRIPT_PATH: &str = "/run/sapwood-script";

/// What a command sees as `/`.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
enum View {
    /// The root under construction, with minimal devices, an empty `/run` and `/tmp`, and its own `/proc`.
    Root(PathBuf),
    /// This machine's programs, read-only, and what the engine works on, under the paths that it has on this machine.
    Engine(EngineView),
}

/// What an engine sees besides the machine's programs.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub(in crate::compose) struct EngineView {
    /// The root under construction, if packages are installed: it may be written, and has `/proc` and devices.
    pub(super) root: Option<PathBuf>,
    /// Files and directories that may be read.
    pub(super) readable: Vec<PathBuf>,
    /// Directories that may be written.
    pub(super) writable: Vec<PathBuf>,
}

/// A command and the environment in which it runs.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(crate) struct SandboxedCommand {
    view: View,
    environment: Vec<(String, String)>,
    /// The program and its arguments.
    command: Vec<String>,
    /// The text of a file that the command finds at [`SCRIPT_PATH`].
    script: Option<String>,
}

impl SandboxedCommand {
    /// Returns a command that runs in a root, with `time` as `SOURCE_DATE_EPOCH`.
    pub(crate) fn in_root(root: &Path, command: &[&str], time: i64) -> Self {
        let environment = [
            ("PATH", SEARCH_PATH.to_owned()),
            ("HOME", "/root".to_owned()),
            ("LANG", "C.UTF-8".to_owned()),
            ("LC_ALL", "C.UTF-8".to_owned()),
            ("TERM", "dumb".to_owned()),
            ("TZ", "UTC".to_owned()),
            ("DEBIAN_FRONTEND", "noninteractive".to_owned()),
            ("PYTHONHASHSEED", "0".to_owned()),
            ("SOURCE_DATE_EPOCH", time.to_string()),
            // With this, systemctl only changes links and contacts no manager.
            ("SYSTEMD_OFFLINE", "1".to_owned()),
        ];
        Self::new(View::Root(root.to_owned()), environment, command)
    }

    /// Returns a command that runs a script in a root. The shell runs a script that does not name its interpreter.
    pub(crate) fn script(root: &Path, text: &str, time: i64) -> Self {
        let command: &[&str] = if text.starts_with("#!") { &[SCRIPT_PATH] } else { &["/bin/sh", SCRIPT_PATH] };
        Self { script: Some(text.to_owned()), ..Self::in_root(root, command, time) }
    }

    /// Returns a command that runs a program of this machine which works on a root or on packages.
    pub(super) fn engine(view: EngineView, command: &[&str]) -> Self {
        let environment = [
            ("PATH", SEARCH_PATH.to_owned()),
            ("HOME", "/root".to_owned()),
            ("LANG", "C.UTF-8".to_owned()),
            ("TZ", "UTC".to_owned()),
        ];
        Self::new(View::Engine(view), environment, command)
    }

    fn new<const N: usize>(view: View, environment: [(&str, String); N], command: &[&str]) -> Self {
        Self {
            view,
            environment: environment.map(|(name, value)| (name.to_owned(), value)).into(),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            script: None,
        }
    }

    /// Sets a variable of the environment.
    pub(crate) fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs the command to its end; its output goes to the log. `what` names the task in errors.
    ///
    /// # Errors
    /// [`ProcessError`], also when it runs longer than `limit`; it is killed then.
    pub(crate) fn run(&self, runner: Runner<'_>, what: &str, limit: Duration) -> Result<(), ProcessError> {
        let (mut command, request) = self.prepare(what)?;
        runner.run_with_input(what, &mut command, &self.command.join(" "), request.into(), limit)
    }

    /// Runs the command and returns its standard output; its standard error goes to the log.
    ///
    /// # Errors
    /// [`ProcessError`].
    pub(super) fn capture(&self, runner: Runner<'_>, what: &str) -> Result<String, ProcessError> {
        let (mut command, request) = self.prepare(what)?;
        runner.capture_with_input(what, &mut command, &self.command.join(" "), request.into())
    }

    /// Returns the program that enters the sandbox, and the file that it reads from its standard input. The request is not an
    /// argument, since other users see those.
    fn prepare(&self, what: &str) -> Result<(Command, File), ProcessError> {
        let mut command = Command::new("/proc/self/exe");
        command.arg0(PROGRAM_NAME).arg("outer");
        let request = self.encode().map_err(|source| ProcessError::Output { what: what.to_owned(), source })?;
        Ok((command, request))
    }

    /// Writes the request into a file in memory, which is at its beginning afterwards.
    fn encode(&self) -> io::Result<File> {
        let mut file = File::from(rustix::fs::memfd_create("sapwood-sandbox", MemfdFlags::CLOEXEC)?);
        file.write_all(&serde_json::to_vec(self)?)?;
        file.rewind()?;
        Ok(file)
    }
}
