//! What the first boot of a new machine needs to be reached: its name, and a key with which root may log in by SSH.
//!
//! *Not here*: accounts of users, which belong into the commit or are made on the machine.
//!
//! *Invariants*: each file is replaced as a whole, so that a killed operation can be repeated. Keys are added and never removed.
//!
//! *Used by* `cli`.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::id::DeploymentId;
use super::sysroot::Sysroot;
use crate::disk;

/// The home directory of root, below the `/var` of a stateroot.
const ROOT_HOME: &str = "roothome";

/// The largest length of a name of a machine (`hostname(7)`).
const HOSTNAME_LENGTH_MAX: usize = 64;

/// The settings of a new machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct FirstBoot {
    pub(crate) hostname: Option<String>,
    /// Lines of `authorized_keys`.
    pub(crate) root_ssh_keys: Option<String>,
}

/// Why the settings cannot be used or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FirstBootError {
    /// The name is not one of `hostname(7)`.
    #[error("'{0}' cannot be the name of a machine: letters, digits, '-' and '.', at most {HOSTNAME_LENGTH_MAX}")]
    Hostname(String),
    /// A line is no public key.
    #[error("'{0}' is no public key of SSH: expected a line such as 'ssh-ed25519 AAAA… name'")]
    Key(String),
    /// The commit has no home of root in `/var`.
    #[error("{} is missing: the commit has no /root", .0.display())]
    NoHome(PathBuf),
    #[error("cannot {action} {}", .path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

impl FirstBoot {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`FirstBootError`].
    pub(crate) fn check(&self) -> Result<(), FirstBootError> {
        if let Some(name) = &self.hostname {
            let is_part = |part: &str| {
                let is_plain = part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
                !part.is_empty() && is_plain && !part.starts_with('-') && !part.ends_with('-')
            };
            if name.len() > HOSTNAME_LENGTH_MAX || !name.split('.').all(is_part) {
                return Err(FirstBootError::Hostname(name.clone()));
            }
        }
        let lines = self.root_ssh_keys.iter().flat_map(|text| key_lines(text));
        let is_key = |line: &str| {
            let kinds = ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-sha2-"];
            let mut words = line.split(' ').skip_while(|word| !kinds.iter().any(|kind| word.starts_with(kind)));
            words.next().is_some() && words.next().is_some_and(|key| key.starts_with("AAAA"))
        };
        match lines.into_iter().find(|line| !is_key(line)) {
            Some(line) => Err(FirstBootError::Key(line.to_owned())),
            None => Ok(()),
        }
    }

    /// Writes the settings into a deployment and the `/var` of its stateroot.
    ///
    /// # Errors
    /// [`FirstBootError`]; what was written before the error stays.
    pub(crate) fn write(&self, sysroot: &Sysroot, id: &DeploymentId) -> Result<(), FirstBootError> {
        self.check()?;
        if let Some(name) = &self.hostname {
            let path = sysroot.layout().deployment(id).etc().join("hostname");
            disk::replace(&path, format!("{name}\n").as_bytes()).map_err(io_error("write", &path))?;
            set_mode(&path, 0o644)?;
        }
        if let Some(keys) = &self.root_ssh_keys {
            add_keys(&sysroot.layout().var(id.stateroot()).join(ROOT_HOME), keys)?;
        }
        Ok(())
    }
}

fn key_lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn add_keys(home: &Path, keys: &str) -> Result<(), FirstBootError> {
    if !home.is_dir() {
        return Err(FirstBootError::NoHome(home.to_owned()));
    }
    let directory = home.join(".ssh");
    disk::make_directories(&directory).map_err(io_error("create", &directory))?;
    set_mode(&directory, 0o700)?;
    let path = directory.join("authorized_keys");
    let mut text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        other => other.map_err(io_error("read", &path))?,
    };
    for key in key_lines(keys) {
        if !text.lines().any(|line| line == key) {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            text.push_str(key);
            text.push('\n');
        }
    }
    disk::replace(&path, text.as_bytes()).map_err(io_error("write", &path))?;
    set_mode(&path, 0o600)
}

fn set_mode(path: &Path, mode: u32) -> Result<(), FirstBootError> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(io_error("set the mode of", path))
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FirstBootError + use<> {
    let path = path.to_owned();
    move |source| FirstBootError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_keys_are_checked() {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB me@here";
        let check = |name: &str, keys: &str| {
            FirstBoot { hostname: Some(name.to_owned()), root_ssh_keys: Some(keys.to_owned()) }.check().is_ok()
        };
        assert!(check("web-1.example.org", &format!("# mine\n\nfrom=\"10.*\" {key}\n{key}\n")));
        let long = "a".repeat(65);
        for name in ["", "-a", "a b", "a..b", "a\nb", "ä", &long] {
            assert!(!check(name, key), "{name}");
        }
        for keys in ["x", "ssh-ed25519", "-----BEGIN OPENSSH PRIVATE KEY-----", "ssh-ed25519 x"] {
            assert!(!check("a", keys), "{keys}");
        }
    }
}
