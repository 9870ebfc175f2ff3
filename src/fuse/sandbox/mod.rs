//! What a worker cannot do, whoever comes to command it: it reads images that strangers made and talks to their servers.
//!
//! Entered once, before there is a second thread, since most of it binds the calling thread and those it starts. Each part is
//! in force where the kernel has it and left out where it has not; which ones are, [`Enforced`] says, and `sapwood mounts
//! --json` with it.
//!
//! | file | holds |
//! | --- | --- |
//! | `capabilities` | root's powers, of which hardly any is needed |
//! | `files` | what may be opened, by Landlock |
//! | `calls` | which system calls there are, by seccomp |

mod calls;
mod capabilities;
mod files;

pub use files::Access;

/// What a worker is to be able to do.
#[derive(Debug, Default)]
pub struct Sandbox {
    /// Files, and directories with all in them.
    pub files: Vec<Access>,
    /// Whether it talks to a network.
    pub network: Network,
    /// Whether it writes files.
    pub writing: Writing,
    /// Whether it registers files with the kernel.
    pub backing: Backing,
    /// Whose the repository is.
    pub repository: Owner,
}

/// Whether a network is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Network {
    /// No: no sockets either.
    #[default]
    None,
    /// Yes.
    Needed,
}

/// Whether files are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Writing {
    /// No.
    #[default]
    None,
    /// Yes: what is fetched, when it was used, or what was read.
    Needed,
}

/// Whether files are registered with the kernel, for which it wants an administrator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backing {
    /// No.
    #[default]
    None,
    /// Yes: passthrough mode.
    Registered,
}

/// Whose the files of the repository are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Owner {
    /// This user's.
    #[default]
    Own,
    /// Somebody else's, which root may read all the same.
    Other,
}

/// Which parts are in force.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Enforced {
    /// No set-uid program can give anything back.
    pub no_new_privileges: bool,
    /// Root's powers are dropped.
    pub capabilities: bool,
    /// Only what was named can be opened.
    pub files: bool,
    /// Only system calls that are needed.
    pub system_calls: bool,
}

impl Sandbox {
    /// Enters it, for good.
    #[must_use]
    pub fn enter(&self) -> Enforced {
        let no_new_privileges = note("no new privileges", rustix::thread::set_no_new_privs(true));
        // In this order: the last forbids the system calls of the others.
        let files = note("the files", files::restrict(&self.files));
        let capabilities = note("the capabilities", capabilities::drop_all_but(self.backing, self.repository));
        let system_calls = note("the system calls", calls::restrict(self.network, self.writing, self.backing));
        Enforced { no_new_privileges, capabilities, files, system_calls }
    }
}

fn note<E: std::fmt::Display>(what: &str, result: Result<(), E>) -> bool {
    if let Err(error) = &result {
        tracing::info!("this worker does without a limit to {what}: {error}");
    }
    result.is_ok()
}

impl Enforced {
    /// As one number, for the shared pages.
    #[must_use]
    pub const fn bits(&self) -> u64 {
        self.no_new_privileges as u64
            | (self.capabilities as u64) << 1
            | (self.files as u64) << 2
            | (self.system_calls as u64) << 3
    }

    /// From that number.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self {
            no_new_privileges: bits & 1 != 0,
            capabilities: bits & 2 != 0,
            files: bits & 4 != 0,
            system_calls: bits & 8 != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_force_survives_as_a_number() {
        for bits in 0..16 {
            assert_eq!(Enforced::from_bits(bits).bits(), bits);
        }
    }
}
