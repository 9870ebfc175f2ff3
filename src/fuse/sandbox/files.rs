//! Which files can be opened, by Landlock (Linux 5.13). Descriptors that are open stay what they are.
//!
//! A kernel before 5.19 forbids renaming between directories as soon as anything is restricted, and the repository lives by
//! that; so there the files are left unrestricted.

use std::os::fd::OwnedFd;
use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, PathBeneath, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
};
use rustix::fs::{Mode, OFlags};

/// The newest version whose rights are asked for. An older kernel enforces what it knows of them.
const NEWEST: ABI = ABI::V6;

/// The oldest version that lets files be renamed between directories.
const OLDEST: ABI = ABI::V2;

/// Something that may be opened.
#[derive(Debug)]
pub struct Access {
    place: OwnedFd,
    rights: BitFlags<AccessFs>,
}

/// Why the files are not restricted.
#[derive(Debug, thiserror::Error)]
pub(super) enum FilesError {
    #[error(transparent)]
    Ruleset(#[from] RulesetError),
    #[error("this kernel does not know how")]
    Unknown,
}

impl Access {
    /// To read a file, or all in a directory; none if nothing is at `path`, or this process may not look.
    #[must_use]
    pub fn read(path: &Path) -> Option<Self> {
        Self::open(path).map(Self::read_in)
    }

    /// The same for what is open already.
    #[must_use]
    pub fn read_in(place: OwnedFd) -> Self {
        Self { place, rights: AccessFs::ReadFile | AccessFs::ReadDir }
    }

    /// To read what is open already, and to lend it to the kernel, which opens it in our name for whoever runs it: without
    /// this right no program could be run in passthrough mode. This process itself runs none, as `calls` sees to.
    #[must_use]
    pub fn lend_in(place: OwnedFd) -> Self {
        Self { place, rights: AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::Execute }
    }

    /// To do anything in a directory but run programs and make devices.
    #[must_use]
    pub fn write_in(place: OwnedFd) -> Self {
        let made = AccessFs::MakeReg | AccessFs::MakeDir | AccessFs::RemoveFile | AccessFs::RemoveDir;
        let rights = AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::WriteFile | AccessFs::Truncate;
        Self { place, rights: rights | made | AccessFs::Refer }
    }

    fn open(path: &Path) -> Option<OwnedFd> {
        rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()
    }
}

/// Forbids this thread, and those it will start, to open anything but `allowed`, to connect to anything over TCP unless it is
/// allowed below, and to send signals to others.
pub(super) fn restrict(allowed: &[Access]) -> Result<(), FilesError> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(OLDEST))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::Signal | Scope::AbstractUnixSocket)?
        .create()?;
    for access in allowed {
        let is_directory = rustix::fs::fstat(&access.place)
            .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory);
        // Rights that only a directory can give make a rule for a file illegal.
        let rights = if is_directory { access.rights } else { access.rights & AccessFs::from_file(NEWEST) };
        ruleset = ruleset.add_rule(PathBeneath::new(&access.place, rights))?;
    }
    match ruleset.restrict_self()?.ruleset {
        RulesetStatus::NotEnforced => Err(FilesError::Unknown),
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
    }
}
