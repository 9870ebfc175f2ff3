//! Where programs run that come from packages or from the treefile.
//!
//! A [`Sandbox`] is one command in namespaces of its own: processes, IPC, host name, mounts and, unless said otherwise,
//! network. With a root it sees that directory as `/` and nothing of the host: minimal devices, an empty `/run` and
//! `/tmp`, `/proc` of its own; it has a clean environment, limits, and only those capabilities that installing files
//! needs. Whatever it starts or mounts ends with it, also when this process is killed.
//!
//! It is entered by starting this program again under another name, twice: once to leave the namespaces, once to be
//! process 1 of the new ones (`stages`). So nothing of a running, threaded process is ever forked.

mod stages;

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(super) use stages::protect_settings;
pub use stages::{StageError, enter};

/// The name under which this program enters a sandbox.
pub const NAME: &str = "sapwood-sandbox";

/// What a command may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Network {
    /// Nothing, not even loopback.
    None,
    /// What the host reaches.
    Host,
}

/// One command and what is around it.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Sandbox {
    /// The directory it sees as `/`; the host's if there is none.
    root: Option<PathBuf>,
    network: Network,
    environment: Vec<(String, String)>,
    /// The program and its arguments.
    command: Vec<String>,
    /// A file that is there as [`SCRIPT`].
    script: Option<String>,
}

/// Where a script is, inside.
const SCRIPT: &str = "/run/sapwood-script";

impl Sandbox {
    /// A command in a root, without a network, at the time `time`.
    #[must_use]
    pub fn in_root(root: &Path, command: &[&str], time: i64) -> Self {
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
            // systemctl only changes links then, and asks no manager.
            ("SYSTEMD_OFFLINE", "1".to_owned()),
        ];
        Self {
            root: Some(root.to_owned()),
            network: Network::None,
            environment: environment.map(|(name, value)| (name.to_owned(), value)).into(),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            script: None,
        }
    }

    /// A script in a root. One that does not name its interpreter is the shell's.
    #[must_use]
    pub fn script(root: &Path, text: &str, time: i64) -> Self {
        let command: &[&str] = if text.starts_with("#!") { &[SCRIPT] } else { &["/bin/sh", SCRIPT] };
        Self { script: Some(text.to_owned()), ..Self::in_root(root, command, time) }
    }

    /// A program of the host that works on roots: it keeps what it needs for mounting.
    #[must_use]
    pub fn on_host(command: &[&str], network: Network) -> Self {
        Self {
            root: None,
            network,
            environment: Vec::new(),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            script: None,
        }
    }

    /// Sets a variable of the environment.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The command to be started.
    ///
    /// # Panics
    /// Never: a sandbox is made of strings.
    #[must_use]
    pub fn command(&self) -> Command {
        let text = serde_json::to_string(self).expect("a sandbox is made of strings");
        let mut command = Command::new("/proc/self/exe");
        command.arg0(NAME).args(["outer", &text]);
        command
    }
}
