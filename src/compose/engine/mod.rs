//! Package managers: the distributions' own engines behind one small trait.
//!
//! An engine resolves what a treefile asks for into exact packages, fetches and verifies them, and installs them into a
//! root. It decides nothing else: the layout of the image, labels and commits are the same for all. Signatures are
//! always verified by the engine itself, with the distribution's keys; a source that asks it not to is refused unless
//! the treefile names it in `unsigned-repos`.

pub mod apt;
pub mod dnf;
mod tool;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

pub use apt::Apt;
pub use dnf::Dnf;

use super::packages::{Format, Package};
use super::process::{ProcessError, Runner};
use super::treefile::{EngineKind, Treefile};
use crate::disk::LockError;

/// Why an engine did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A program is missing.
    #[error("{program} is not installed; {purpose} (Debian: apt install {package})")]
    Missing {
        /// The program.
        program: String,
        /// The Debian package that has it.
        package: &'static str,
        /// What it is for.
        purpose: &'static str,
    },
    /// A program failed.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// Packages nobody has.
    #[error("no source has {}", .0.join(", "))]
    UnknownPackages(Vec<String>),
    /// Packages that do not go together.
    #[error("these packages cannot be installed together:\n{0}")]
    Unresolvable(String),
    /// Metadata that cannot be had or trusted.
    #[error("cannot use the package sources:\n{0}")]
    Sources(String),
    /// A source without signatures.
    #[error(
        "{repo} switches off the verification of signatures ({how}); if that is meant, name it in 'unsigned-repos'"
    )]
    Unsigned {
        /// Which.
        repo: String,
        /// By what.
        how: String,
    },
    /// No source at all.
    #[error("{0}")]
    NoSources(String),
    /// The cache, which another compose uses, cannot be locked.
    #[error(transparent)]
    Cache(#[from] LockError),
    /// A lock that cannot be kept.
    #[error("the lock cannot be kept: {0}")]
    Lock(String),
    /// A package file with another content than its source announced.
    #[error("{file} does not have the checksum that its source announces (expected {expected}, found {found})")]
    Checksum {
        /// The file.
        file: String,
        /// As announced.
        expected: String,
        /// As it is.
        found: String,
    },
    /// A package file of the treefile that cannot be used.
    #[error("{}: {what}", .path.display())]
    LocalPackage {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Scripts of packages that failed although the engine went on.
    #[error("a script of a package failed:\n{lines}\nall of it is in {}", .log.display())]
    Scripts {
        /// What rpm says of them.
        lines: String,
        /// Where the rest is.
        log: PathBuf,
    },
    /// The root has other packages than were decided.
    #[error("the engine installed other packages than it had resolved: {0}")]
    Mismatch(String),
    /// Something of the engine's own cannot be read or written.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What a program printed is not what was expected.
    #[error("{program} printed what is not understood: {line}")]
    Output {
        /// The program.
        program: &'static str,
        /// The line.
        line: String,
    },
}

/// Where an engine works.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// Packages and metadata that are kept for the next compose.
    pub cache: &'a Path,
    /// A directory of this compose.
    pub work: &'a Path,
    /// Runs programs.
    pub runner: Runner<'a>,
}

/// A package that was decided on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// Which.
    pub package: Package,
    /// The name of its file in the cache.
    pub file: String,
    /// Bytes of that file.
    pub size: u64,
}

/// All packages of a root, decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    /// Their kind.
    pub format: Format,
    /// Sorted by name.
    pub packages: Vec<Resolved>,
}

impl Resolution {
    /// The packages alone.
    #[must_use]
    pub fn list(&self) -> Vec<Package> {
        self.packages.iter().map(|resolved| resolved.package.clone()).collect()
    }

    /// Bytes of all package files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.packages.iter().map(|resolved| resolved.size).sum()
    }
}

/// Exact packages by name and architecture, to which a resolution is bound.
pub type Bound = BTreeMap<(String, String), Package>;

/// What an installed package owns, for `whence` and `remove-from-packages`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ownership {
    /// Path as the package has it, and the packages' names.
    pub owners: BTreeMap<Vec<u8>, Vec<String>>,
    /// Recent changes of each package, newest first, where only the package's database has them.
    pub changelogs: BTreeMap<String, String>,
}

/// A package manager.
pub trait Engine {
    /// Refreshes the metadata and decides on exact packages; with `bound`, on those or none.
    ///
    /// # Errors
    /// [`EngineError`].
    fn resolve(&self, treefile: &Treefile, bound: Option<&Bound>) -> Result<Resolution, EngineError>;

    /// Fetches the package files and checks them. Returns the time of the youngest package in seconds since 1970.
    ///
    /// # Errors
    /// [`EngineError`].
    fn fetch(&self, treefile: &Treefile, resolution: &Resolution) -> Result<i64, EngineError>;

    /// Installs exactly these into the directory `root`, which does not exist yet.
    ///
    /// # Errors
    /// [`EngineError`].
    fn install(&self, treefile: &Treefile, resolution: &Resolution, root: &Path, time: i64) -> Result<(), EngineError>;

    /// The packages in a root, their checksums not among what is known.
    ///
    /// # Errors
    /// [`EngineError`].
    fn installed(&self, root: &Path) -> Result<Vec<Package>, EngineError>;

    /// Which package owns which path.
    ///
    /// # Errors
    /// [`EngineError`].
    fn ownership(&self, root: &Path) -> Result<Ownership, EngineError>;
}

/// The engine of a kind, once all its programs are there.
///
/// # Errors
/// [`EngineError::Missing`].
pub fn engine<'a>(kind: EngineKind, surroundings: Surroundings<'a>) -> Result<Box<dyn Engine + 'a>, EngineError> {
    Ok(match kind {
        EngineKind::Apt => Box::new(Apt::new(surroundings)?),
        EngineKind::Dnf => Box::new(Dnf::new(surroundings)?),
    })
}

/// What `installed` has that `resolution` has not, and the other way round, in words.
fn difference(resolution: &Resolution, installed: &[Package]) -> Option<String> {
    let key = |package: &Package| (package.name.clone(), package.version.clone(), package.arch.clone());
    let wanted: std::collections::BTreeSet<_> =
        resolution.packages.iter().map(|resolved| key(&resolved.package)).collect();
    let found: std::collections::BTreeSet<_> = installed.iter().map(key).collect();
    let words = |(name, version, arch): &(String, String, String)| format!("{name} {version} {arch}");
    let missing: Vec<String> = wanted.difference(&found).map(words).collect();
    let extra: Vec<String> = found.difference(&wanted).map(words).collect();
    match (missing.is_empty(), extra.is_empty()) {
        (true, true) => None,
        _ => Some(format!("missing [{}], in addition [{}]", missing.join(", "), extra.join(", "))),
    }
}
