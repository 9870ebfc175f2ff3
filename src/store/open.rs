//! Makes and opens repositories.
//!
//! *Used by* every layer that uses a repository.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;

use super::config::{Config, ConfigError};
use super::damage::KnownBad;
use super::layout::StoreLayout;
use super::open_files::OpenFiles;
use super::pack_limits::PackLimits;
use super::pack_set::PackSet;
use crate::disk::{self, Lock, Wait};

/// Why a repository cannot be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory is not a repository.
    #[error("{} is not a sapwood repository", .0.display())]
    NotARepository(PathBuf),
    /// The directory has other files.
    #[error("{} is not empty", .0.display())]
    NotEmpty(PathBuf),
    /// The directory is a repository already.
    #[error("{} is a sapwood repository already", .0.display())]
    Exists(PathBuf),
    /// The configuration cannot be used.
    #[error("cannot use {}", .path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ConfigError,
    },
    /// The system refused.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A repository, for reading. Cheap to clone and shared between threads.
#[derive(Clone)]
pub struct Store {
    pub(super) inner: Arc<StoreInner>,
}

pub(super) struct StoreInner {
    pub(super) layout: StoreLayout,
    pub(super) config: Config,
    pub(super) files: OpenFiles,
    pub(super) packs: RwLock<Arc<PackSet>>,
    pub(super) pack_limits: PackLimits,
    pub(super) known_bad: KnownBad,
}

impl Store {
    /// Returns whether there is a repository at `path`. It may be damaged, or of a version that this program does not know.
    pub(crate) fn is_repository(path: &Path) -> bool {
        path.join("config.toml").exists() && path.join("objects").is_dir()
    }

    /// Makes an empty repository at `path`, which must not exist or be an empty directory. Only its owner can read it, since it
    /// will hold the content of files that their own modes protect.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn init(path: &Path, config: &Config) -> Result<Self, OpenError> {
        let io_error = |action| move |source| OpenError::Io { action, path: path.to_owned(), source };
        let layout = StoreLayout::new(path.to_owned());
        if layout.config().exists() {
            return Err(OpenError::Exists(path.to_owned()));
        }
        match fs::read_dir(path) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    return Err(OpenError::NotEmpty(path.to_owned()));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error("create"))?;
            }
            Err(error) => return Err(io_error("list")(error)),
        }
        for directory in StoreLayout::DIRECTORIES {
            DirBuilder::new().mode(0o700).create(path.join(directory)).map_err(io_error("create a directory in"))?;
        }
        // The configuration is written last, since it makes the directory a repository.
        disk::replace(&layout.config(), config.render().as_bytes()).map_err(io_error("write to"))?;
        Self::open(path)
    }

    /// Opens the repository at `path`.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        match path.canonicalize() {
            Ok(path) => Self::open_uncanonicalized(path, PackLimits::default()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(OpenError::NotARepository(path.to_owned())),
            Err(source) => Err(OpenError::Io { action: "find", path: path.to_owned(), source }),
        }
    }

    /// Opens the repository in the working directory, which must not change afterwards. This is for processes for which
    /// absolute paths are not valid.
    pub(crate) fn open_working_directory() -> Result<Self, OpenError> {
        Self::open_uncanonicalized(PathBuf::from("."), PackLimits::default())
    }

    /// Opens the repository at `path`, without converting the path to an absolute one.
    pub(super) fn open_uncanonicalized(path: PathBuf, pack_limits: PackLimits) -> Result<Self, OpenError> {
        let layout = StoreLayout::new(path.clone());
        let config = read_config(&layout)?;
        let io_error = |action| {
            let path = path.clone();
            move |source| OpenError::Io { action, path, source }
        };
        let files = OpenFiles::new(disk::open_directory(&path).map_err(io_error("open"))?);
        let packs = PackSet::load(&files, None).map_err(io_error("read the packs of"))?;
        let (packs, suspects) = (RwLock::new(Arc::new(packs)), KnownBad::default());
        Ok(Self { inner: Arc::new(StoreInner { layout, config, files, packs, pack_limits, known_bad: suspects }) })
    }

    /// Changes settings; calls in several processes run one after the other. A process that has the repository open continues
    /// with the settings that it has read, except for the size of the cache.
    pub(crate) fn change_config(&self, change: impl FnOnce(&mut Config)) -> Result<Config, OpenError> {
        let path = self.layout().config();
        let failed = |source| OpenError::Io { action: "write", path: path.clone(), source };
        let lock = self.layout().config_lock();
        let _lock =
            Lock::exclusive(&lock, Wait::Announced(&|_| {})).map_err(|error| failed(io::Error::other(error)))?;
        let mut config = read_config(self.layout())?;
        change(&mut config);
        disk::replace(&path, config.render().as_bytes()).map_err(failed)?;
        Ok(config)
    }

    /// Reads the current setting of the size of the cache: most bytes of fetched contents that are kept.
    pub(crate) fn configured_cache_size(&self) -> Result<Option<u64>, OpenError> {
        Ok(read_config(self.layout())?.cache_size)
    }

    /// Returns the directory of the repository.
    pub(crate) fn path(&self) -> &Path {
        self.inner.layout.root()
    }

    /// Returns the paths of the repository.
    #[must_use]
    pub fn layout(&self) -> &StoreLayout {
        &self.inner.layout
    }

    /// Returns the settings.
    pub(crate) fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Returns the open directory of the repository, for `statvfs(3)`.
    pub(crate) fn directory(&self) -> &OwnedFd {
        self.inner.files.directory()
    }
}

fn read_config(layout: &StoreLayout) -> Result<Config, OpenError> {
    let path = layout.config();
    let text = match fs::read_to_string(&path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Err(OpenError::NotARepository(layout.root().to_owned()));
        }
        other => other.map_err(|source| OpenError::Io { action: "read", path: path.clone(), source })?,
    };
    Config::parse(&text).map_err(|source| OpenError::Config { path, source })
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.path().display())
    }
}
