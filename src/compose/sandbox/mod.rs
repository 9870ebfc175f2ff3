//! Runs programs from packages and from the treefile in isolation.
//!
//! A [`SandboxedCommand`] runs in its own namespaces for processes, IPC, host name, mounts and, unless the caller allows
//! the host's, network. With a root the command sees that directory as `/` and nothing of the host: minimal devices, an
//! empty `/run` and `/tmp`, and its own `/proc`; it has a clean environment, resource limits, and only the capabilities
//! that installing files needs.
//!
//! *Invariants*: all processes and mounts of a command end with it, also when this process is killed. The sandbox is
//! entered by executing this program twice more under another name (`stages`): first to leave the host's namespaces, then
//! as process 1 of the new ones. A running process with threads is therefore never forked without an exec.
//!
//! *Not here*: the directory and the namespaces of the whole compose, inside which every sandbox runs (`workspace`).
//!
//! *Used by* `root`, `workspace`, `engine` and `cli`.

mod stages;

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) use stages::enter;
pub(super) use stages::make_settings_read_only;

/// The program name (`argv[0]`) under which this program enters a sandbox.
pub(crate) const PROGRAM_NAME: &str = "sapwood-sandbox";

/// The network that a command may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum SandboxNetwork {
    /// None, not even loopback.
    None,
    /// The host's network.
    Host,
}

/// A command and the environment in which it runs.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(crate) struct SandboxedCommand {
    /// The directory that the command sees as `/`; `None` for the host's root.
    root: Option<PathBuf>,
    network: SandboxNetwork,
    environment: Vec<(String, String)>,
    /// The program and its arguments.
    command: Vec<String>,
    /// The text of a file that the command finds at [`SCRIPT_PATH`].
    script: Option<String>,
}

/// The path of the script inside the sandbox.
const SCRIPT_PATH: &str = "/run/sapwood-script";

impl SandboxedCommand {
    /// Returns a command that runs in a root without a network, with `time` as `SOURCE_DATE_EPOCH`.
    pub(crate) fn in_root(root: &Path, command: &[&str], time: i64) -> Self {
        let environment = [
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
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
        Self {
            root: Some(root.to_owned()),
            network: SandboxNetwork::None,
            environment: environment.map(|(name, value)| (name.to_owned(), value)).into(),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            script: None,
        }
    }

    /// Returns a command that runs a script in a root. The shell runs a script that does not name its interpreter.
    pub(crate) fn script(root: &Path, text: &str, time: i64) -> Self {
        let command: &[&str] = if text.starts_with("#!") { &[SCRIPT_PATH] } else { &["/bin/sh", SCRIPT_PATH] };
        Self { script: Some(text.to_owned()), ..Self::in_root(root, command, time) }
    }

    /// Returns a command that runs a program of the host which works on roots. It keeps the privileges that mounting needs.
    pub(crate) fn on_host(command: &[&str], network: SandboxNetwork) -> Self {
        Self {
            root: None,
            network,
            environment: Vec::new(),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            script: None,
        }
    }

    /// Adds a variable to the environment.
    pub(crate) fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Returns the command that starts the sandbox.
    ///
    /// # Panics
    /// Never: the fields are strings, which JSON can always represent.
    pub(crate) fn command(&self) -> Command {
        let text = serde_json::to_string(self).expect("a sandbox is made of strings");
        let mut command = Command::new("/proc/self/exe");
        command.arg0(PROGRAM_NAME).args(["outer", &text]);
        command
    }
}
