//! Updates of a machine: the newest commit of the ref that it follows, and fetching of it what the machine needs.
//!
//! *Not here*: making the deployment, see `plan` and `apply`; showing the progress and waiting for the repository, see
//! `cli::deploying`.
//!
//! *Invariants*: a query fetches no contents. A commit is returned for deployment only after its signature was checked.
//!
//! *Used by* the verbs `deploy`, `upgrade` and `switch` of `cli`.

use super::boot::{KernelError, find_kernel};
use super::choose::{self, ChooseError, ChosenCommit};
use super::commit_files::FileError;
use super::etc::DEFAULTS_DIRECTORIES;
use super::origin::{SignedBy, Upstream};
use super::plan::PlanError;
use super::program_libraries;
use crate::image::{Image, ImageError};
use crate::model::{CommitId, ImagePath};
use crate::remote::Remote;
use crate::remote::fetch::FetchProgress;
use crate::remote::pull::{self, PullError, PullOptions, PullPreview, RefReport};
use crate::source::{RemoteSource, RemoteSpec, SourceError, TrustOptions};
use crate::store::{ReadError, Store, StoreWriter};

/// The paths that a lazy deployment needs at once besides its kernel: those that are copied out of the commit, and those that
/// describe it.
const LAZY_BOOT_PATHS: [&str; 5] =
    ["/var", "/root", "/usr/lib/os-release", "/usr/lib/sapwood", "/usr/lib/systemd/system"];

/// The programs that a lazy deployment needs completely, with the libraries that they load. With these a machine that loses
/// its network before everything is fetched can still report errors and shut down. If a page of process 1 cannot be read, the
/// machine crashes.
const LAZY_BOOT_PROGRAMS: [&str; 8] = [
    "/usr/lib/systemd/systemd",
    "/usr/lib/systemd/systemd-executor",
    "/usr/lib/systemd/systemd-shutdown",
    "/usr/bin/systemctl",
    "/usr/bin/mount",
    "/usr/bin/umount",
    "/usr/bin/sh",
    "/usr/bin/sapwood",
];

/// How much of a commit is fetched before it is deployed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FetchMode {
    /// All of it.
    Complete,
    /// What the deployment needs to boot. The rest is fetched as it is read, or in the background.
    Lazy,
}

impl FetchMode {
    /// Returns the mode for the flag `--lazy`.
    pub(crate) const fn from_flag(lazy: bool) -> Self {
        if lazy { Self::Lazy } else { Self::Complete }
    }
}

/// Why an update cannot be found or fetched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpdateError {
    /// The upstream is a URL, under which a machine keeps no keys.
    #[error("a machine upgrades from a remote that has a name, not from {0}")]
    Url(String),
    /// The upstream is a directory of a commit.
    #[error("'{0}' is a directory: only whole commits can be deployed")]
    Directory(String),
    /// The remote cannot be used.
    #[error("{0}")]
    Source(#[from] SourceError),
    /// The commit cannot be fetched.
    #[error("{0}")]
    Pull(#[from] PullError),
    /// What was fetched cannot be read.
    #[error("{0}")]
    Read(#[from] ReadError),
    /// The commit is not accepted.
    #[error("{0}")]
    Choose(#[from] ChooseError),
    /// The commit has no kernel.
    #[error("{0}")]
    Kernel(#[from] KernelError),
    /// The image is damaged.
    #[error("{0}")]
    Image(#[from] ImageError),
    /// A program of the commit cannot be read.
    #[error("{0}")]
    File(#[from] FileError),
}

/// The newest commit of a remote's ref, and what has to be fetched for it.
pub(crate) struct Update {
    upstream: Upstream,
    remote: Remote,
    options: PullOptions,
    preview: PullPreview,
}

/// Parses `REMOTE:REF`. Returns `None` for a text that names a local commit.
///
/// # Errors
/// When the text is a URL or has a path: upgrades need a remote with a name and a whole commit.
pub(crate) fn parse_upstream(text: &str) -> Result<Option<Upstream>, UpdateError> {
    let Some(source) = RemoteSource::parse(text)? else { return Ok(None) };
    match source.remote {
        RemoteSpec::Url(url) => Err(UpdateError::Url(url)),
        RemoteSpec::Named(_) if !source.path.is_root() => Err(UpdateError::Directory(text.to_owned())),
        RemoteSpec::Named(remote) => Ok(Some(Upstream { remote, name: source.name })),
    }
}

impl Update {
    /// Asks the remote for the newest commit of the ref. Fetches no contents.
    ///
    /// # Errors
    /// When the remote does not answer, or its answer is not trusted.
    pub(crate) fn query(
        store: &Store,
        upstream: &Upstream,
        trust: &TrustOptions,
        mode: FetchMode,
    ) -> Result<Self, UpdateError> {
        let source = RemoteSource {
            remote: RemoteSpec::Named(upstream.remote.clone()),
            name: upstream.name.clone(),
            path: ImagePath::root(),
        };
        let remote = source.open(store, trust)?;
        let (upstream, name) = (upstream.clone(), &source.name);
        if mode == FetchMode::Complete {
            let options = PullOptions::default();
            let preview = pull::preview(store, &remote, name, &options)?;
            return Ok(Self { upstream, remote, options, preview });
        }
        let metadata_only = PullOptions { metadata_only: true, ..PullOptions::default() };
        let first = pull::preview(store, &remote, name, &metadata_only)?;
        let options = PullOptions {
            paths: paths_for_lazy_boot(store, &first.image)?,
            boot_profile: true,
            ..PullOptions::default()
        };
        let preview = pull::preview(store, &remote, name, &options)?;
        Ok(Self { upstream, remote, options, preview })
    }

    /// Returns the id of the commit.
    pub(crate) const fn commit(&self) -> CommitId {
        self.preview.report.commit
    }

    /// Returns the version that the commit states.
    pub(crate) fn version(&self) -> Option<&str> {
        self.preview.commit.version.as_deref()
    }

    /// Returns what fetching the commit would do.
    pub(crate) const fn report(&self) -> &RefReport {
        &self.preview.report
    }

    /// Returns the image of the commit.
    pub(crate) const fn image(&self) -> &Image {
        &self.preview.image
    }

    /// Returns the commit with the key that signed it. Its signature was checked by `query`.
    pub(crate) fn chosen(&self) -> ChosenCommit {
        ChosenCommit {
            id: self.commit(),
            commit: self.preview.commit.clone(),
            signed_by: self.preview.commit.signer().map_or(SignedBy::InsecureRemote, SignedBy::Key),
            upstream: Some(self.upstream.clone()),
        }
    }

    /// Checks that the commit has a kernel.
    ///
    /// # Errors
    /// When it cannot be booted.
    pub(crate) fn check_kernel(&self) -> Result<(), PlanError> {
        find_kernel(self.image()).map_err(|source| PlanError::Kernel { commit: self.commit(), source })?;
        Ok(())
    }

    /// Fetches the commit. In lazy mode it fetches several times, until the programs that are there need no more libraries.
    ///
    /// # Errors
    /// When not everything can be fetched. What was received is kept for the next attempt.
    pub(crate) fn fetch(
        &self,
        writer: &StoreWriter,
        progress: &FetchProgress,
    ) -> Result<(ChosenCommit, Image, RefReport), UpdateError> {
        let store = writer.store();
        let mut options = self.options.clone();
        let mut all: Option<RefReport> = None;
        loop {
            let report = pull::pull(writer, &self.remote, &self.upstream.name, &options, progress)?;
            let chosen = choose::choose_pulled(store, report.commit, self.upstream.clone())?;
            let image = store.image(chosen.commit.image)?;
            let report = all.map_or(report.clone(), |before| before.and_then(report));
            // The programs that were just fetched say which libraries are needed, too.
            let paths = if options.paths.is_empty() { Vec::new() } else { paths_for_lazy_boot(store, &image)? };
            if paths == options.paths {
                return Ok((chosen, image, report));
            }
            options.paths = paths;
            all = Some(report);
        }
    }
}

/// Returns the paths that a lazy deployment needs at once and that exist in the image. The libraries of a program are known
/// only once the program itself has been fetched.
fn paths_for_lazy_boot(store: &Store, image: &Image) -> Result<Vec<ImagePath>, UpdateError> {
    let mut texts: Vec<String> =
        LAZY_BOOT_PATHS.iter().chain(&DEFAULTS_DIRECTORIES).map(|path| (*path).to_owned()).collect();
    texts.extend(find_kernel(image)?.paths);
    let mut paths = Vec::new();
    for text in texts {
        // A path that is not legal is in no image.
        if let Ok(path) = ImagePath::parse(text.as_bytes())
            && image.resolve(&path)?.is_some()
        {
            paths.push(path);
        }
    }
    paths.extend(program_libraries::with_libraries(image, store, &LAZY_BOOT_PROGRAMS)?);
    Ok(paths)
}
