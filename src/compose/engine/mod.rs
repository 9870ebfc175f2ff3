//! Engines: the distributions' own package managers behind one small trait.
//!
//! An engine resolves what a treefile asks for into exact packages, fetches and verifies them, and installs them into a root.
//! Signatures are always verified by the engine itself, with the distribution's keys; a source that switches this off is
//! refused unless the treefile names it in `unsigned-repos`.
//!
//! *Not here*: the layout of the image, labels and commits, which are the same for all engines.
//!
//! *Used by* `pipeline`.

pub mod apt;
pub mod dnf;
mod tool;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

pub(crate) use apt::Apt;
pub(crate) use dnf::Dnf;

use super::base::InstalledBase;
use super::packages::{Package, PackageFormat};
use super::process::{ProcessError, Runner};
use super::treefile::{EngineKind, Treefile};
use crate::disk::LockError;

/// Why an engine failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A program is not installed.
    #[error("{program} is not installed; {purpose} (Debian: apt install {package})")]
    Missing {
        /// The name of the program.
        program: String,
        /// The Debian package that contains it.
        package: &'static str,
        /// The purpose of the program.
        purpose: &'static str,
    },
    /// A program failed.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// No source has these packages.
    #[error("no source has {}", .0.join(", "))]
    UnknownPackages(Vec<String>),
    /// The packages cannot be installed together; the text is the engine's.
    #[error("these packages cannot be installed together:\n{0}")]
    Unresolvable(String),
    /// Package lists cannot be fetched or verified; the text is the engine's.
    #[error("cannot use the package sources:\n{0}")]
    Sources(String),
    /// A source switches the verification of signatures off.
    #[error(
        "{repo} switches off the verification of signatures ({how}); if that is meant, name it in 'unsigned-repos'"
    )]
    Unsigned {
        /// The name of the source.
        repo: String,
        /// The option that switches it off.
        how: String,
    },
    /// Something is not in the cache, and nothing may be fetched.
    #[error("the cache does not have {0}, and --offline fetches nothing: compose once without it")]
    Offline(String),
    /// There is no package source.
    #[error("{0}")]
    NoSources(String),
    /// The cache, which other composes use too, cannot be locked.
    #[error(transparent)]
    Cache(#[from] LockError),
    /// The packages of the lock file cannot be installed.
    #[error("the lock cannot be kept: {0}")]
    Lock(String),
    /// The content of a package file differs from what its source announces.
    #[error("{file} does not have the checksum that its source announces (expected {expected}, found {found})")]
    Checksum {
        /// The name of the file.
        file: String,
        /// The announced SHA-256.
        expected: String,
        /// The SHA-256 of the file.
        found: String,
    },
    /// A package file that the treefile names cannot be used.
    #[error("{}: {what}", .path.display())]
    LocalPackage {
        /// The path of the file.
        path: PathBuf,
        /// The reason.
        what: String,
    },
    /// Scripts of packages failed although the engine went on.
    #[error("a script of a package failed:\n{lines}\nall of it is in {}", .log.display())]
    Scripts {
        /// rpm's warnings about them.
        lines: String,
        /// The log file with the whole output.
        log: PathBuf,
    },
    /// The root has other packages than were resolved.
    #[error("the engine installed other packages than it had resolved: {0}")]
    Mismatch(String),
    /// A file of the engine cannot be read or written.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// The operation that failed.
        action: &'static str,
        /// The path it failed on.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The output of a program is not understood.
    #[error("{program} printed what is not understood: {line}")]
    Output {
        /// The name of the program.
        program: &'static str,
        /// The line that is not understood.
        line: String,
    },
}

/// The directories and the runner that an engine uses.
#[derive(Clone, Copy)]
pub(crate) struct EngineContext<'a> {
    /// The directory for packages and metadata that are kept for later composes.
    pub(crate) cache: &'a Path,
    /// The workspace directory of this compose.
    pub(crate) work: &'a Path,
    /// What is installed already, if packages are added to the root of another commit.
    pub(crate) base: Option<&'a InstalledBase>,
    /// Whether only what is in the cache may be used.
    pub(crate) offline: bool,
    /// Runs programs.
    pub(crate) runner: Runner<'a>,
}

/// A package that the engine chose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedPackage {
    /// The package.
    pub package: Package,
    /// The name of its file in the cache (apt), or its path (dnf).
    pub file: String,
    /// The size of that file in bytes.
    pub(crate) size: u64,
}

/// All packages of a root, as resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resolution {
    /// The format of the packages.
    pub(crate) format: PackageFormat,
    /// Sorted by name.
    pub(crate) packages: Vec<ResolvedPackage>,
}

impl Resolution {
    /// Returns the packages without their files.
    pub(crate) fn list(&self) -> Vec<Package> {
        self.packages.iter().map(|resolved| resolved.package.clone()).collect()
    }

    /// Returns the total size of the package files in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.packages.iter().map(|resolved| resolved.size).sum()
    }
}

/// The exact packages of a lock, to which a resolution is limited, by name and by `ARCHITECTURE VERSION`.
pub(crate) type LockedPackages = BTreeMap<(String, String), Package>;

/// Which package owns which path, for `sapwood whence` and `remove-from-packages`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FileOwners {
    /// The names of the packages that own a path; the path is as the packages write it.
    pub(crate) owners: BTreeMap<Vec<u8>, Vec<String>>,
    /// The latest changes of each package, newest first, if only the package database has them.
    pub(crate) changelogs: BTreeMap<String, String>,
}

impl EngineContext<'_> {
    /// Returns all packages of the root after those of a resolution are installed.
    pub(crate) fn expected(&self, resolution: &Resolution) -> Vec<Package> {
        self.base.map_or_else(|| resolution.list(), |base| base.with(resolution.list()))
    }
}

/// A package manager.
pub(crate) trait Engine {
    /// Refreshes the package lists and resolves the treefile to exact packages; with `locked`, only to these.
    fn resolve(&self, treefile: &Treefile, locked: Option<&LockedPackages>) -> Result<Resolution, EngineError>;

    /// Fetches the package files and verifies them. Returns the build time of the youngest package in seconds since 1970.
    fn fetch(&self, treefile: &Treefile, resolution: &Resolution) -> Result<i64, EngineError>;

    /// Installs exactly the packages of `resolution` into the directory `root`, which does not exist yet, or is that of the base.
    fn install(&self, treefile: &Treefile, resolution: &Resolution, root: &Path, time: i64) -> Result<(), EngineError>;

    /// Returns the packages installed in a root, without checksums.
    fn installed(&self, root: &Path) -> Result<Vec<Package>, EngineError>;

    /// Returns which package owns which path.
    fn file_owners(&self, root: &Path) -> Result<FileOwners, EngineError>;
}

/// Returns the engine of a kind, after checking that all its programs are installed.
pub(crate) fn create_engine<'a>(
    kind: EngineKind,
    context: EngineContext<'a>,
) -> Result<Box<dyn Engine + 'a>, EngineError> {
    Ok(match kind {
        EngineKind::Apt => Box::new(Apt::new(context)?),
        EngineKind::Dnf => Box::new(Dnf::new(context)?),
    })
}

/// Returns a description of the differences between `expected` and `installed`; `None` if there are none.
fn describe_difference(expected: &[Package], installed: &[Package]) -> Option<String> {
    let key = |package: &Package| (package.name.clone(), package.version.clone(), package.arch.clone());
    let wanted: std::collections::BTreeSet<_> = expected.iter().map(key).collect();
    let found: std::collections::BTreeSet<_> = installed.iter().map(key).collect();
    let describe = |(name, version, arch): &(String, String, String)| format!("{name} {version} {arch}");
    let missing: Vec<String> = wanted.difference(&found).map(describe).collect();
    let extra: Vec<String> = found.difference(&wanted).map(describe).collect();
    match (missing.is_empty(), extra.is_empty()) {
        (true, true) => None,
        _ => Some(format!("missing [{}], in addition [{}]", missing.join(", "), extra.join(", "))),
    }
}
