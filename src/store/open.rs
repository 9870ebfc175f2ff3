//! Making and opening a repository.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;

use super::config::{Config, ConfigError};
use super::damage::Suspects;
use super::layout::Layout;
use super::open_files::OpenFiles;
use super::pack_limits::PackLimits;
use super::pack_set::PackSet;
use crate::disk::{self, Lock, Wait};

/// Why a repository cannot be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no repository.
    #[error("{} is not a sapwood repository", .0.display())]
    NotARepository(PathBuf),
    /// There is something else already.
    #[error("{} is not empty", .0.display())]
    NotEmpty(PathBuf),
    /// There is a repository already.
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
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) layout: Layout,
    pub(super) config: Config,
    pub(super) files: OpenFiles,
    pub(super) packs: RwLock<Arc<PackSet>>,
    pub(super) pack_limits: PackLimits,
    pub(super) suspects: Suspects,
}

impl Store {
    /// Makes an empty repository at `path`, which must not exist or be an empty directory. Readable by its owner only:
    /// it will hold the content of files whose own modes protect them.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn init(path: &Path, config: &Config) -> Result<Self, OpenError> {
        let io_error = |action| move |source| OpenError::Io { action, path: path.to_owned(), source };
        let layout = Layout::new(path.to_owned());
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
        for directory in Layout::DIRECTORIES {
            DirBuilder::new().mode(0o700).create(path.join(directory)).map_err(io_error("create a directory in"))?;
        }
        // Last, since it makes the directory a repository.
        disk::replace(&layout.config(), config.render().as_bytes()).map_err(io_error("write to"))?;
        Self::open(path)
    }

    /// Opens the repository at `path`.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        match path.canonicalize() {
            Ok(path) => Self::open_as_it_is(path, PackLimits::default()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(OpenError::NotARepository(path.to_owned())),
            Err(source) => Err(OpenError::Io { action: "find", path: path.to_owned(), source }),
        }
    }

    /// Opens the repository that is the working directory, which it has to stay. So a process can use it to which no
    /// absolute path means anything.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_here() -> Result<Self, OpenError> {
        Self::open_as_it_is(PathBuf::from("."), PackLimits::default())
    }

    /// Opens the repository at `path`, which is not changed into an absolute one.
    pub(super) fn open_as_it_is(path: PathBuf, pack_limits: PackLimits) -> Result<Self, OpenError> {
        let layout = Layout::new(path.clone());
        let config = read_config(&layout)?;
        let io_error = |action| {
            let path = path.clone();
            move |source| OpenError::Io { action, path, source }
        };
        let files = OpenFiles::new(disk::open_directory(&path).map_err(io_error("open"))?);
        let packs = PackSet::load(&files, None).map_err(io_error("read the packs of"))?;
        let (packs, suspects) = (RwLock::new(Arc::new(packs)), Suspects::default());
        Ok(Self { inner: Arc::new(Inner { layout, config, files, packs, pack_limits, suspects }) })
    }

    /// Changes settings, in the order of whoever changes some at the same time. Whoever has the repository open goes on with
    /// those it had, except for the size of the cache.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn change_config(&self, change: impl FnOnce(&mut Config)) -> Result<Config, OpenError> {
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

    /// How much of what was fetched is kept, as it is set now.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn configured_cache_size(&self) -> Result<Option<u64>, OpenError> {
        Ok(read_config(self.layout())?.cache_size)
    }

    /// The repository's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.inner.layout.root()
    }

    /// Where everything is.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.inner.layout
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// The open directory of the repository, for `statvfs(3)`.
    #[must_use]
    pub fn directory(&self) -> &OwnedFd {
        self.inner.files.directory()
    }
}

fn read_config(layout: &Layout) -> Result<Config, OpenError> {
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
