//! The commit that is mounted, with its repository and remote, and its opening as a filesystem.
//!
//! *Not here*: resolving the command line to a commit (`cli::mount`); serving (`fuse`).
//!
//! *Used by* `start`, by the worker, and by `cli::mount`.

use std::fs::File;
use std::sync::Arc;

use super::error::{OrCannot as _, ProcessError};
use super::handoff::{Handoff, RemotePart};
use crate::cache::{ContentWriter, Fill, FillScope, LazyOptions, LazyTree, Patience, ProfileChoice, ResolvedCommit};
use crate::error::chain;
use crate::fuse::{MountOptions, ProfileOption, Service};
use crate::image::{self, Image, Tree};
use crate::model::{ImagePath, Metadata, Timestamp, Xattrs};
use crate::remote::RemoteConfig;
use crate::remote::format::ProfileText;
use crate::remote::transport::Transport;
use crate::store::{CheckedStore, Store, Verify};
use crate::sys::Mapping;
use crate::vfs::{Vfs, Volume};

/// The commit to be mounted, with its repository and remote.
pub(crate) struct MountSource {
    pub(crate) store: Store,
    pub(crate) resolved: ResolvedCommit,
    pub(crate) subdir: ImagePath,
    /// The remote that has its missing parts.
    pub(crate) remote: Option<RemotePart>,
    pub(crate) is_complete: bool,
}

/// A commit that is open as a filesystem, with its lazy tree if content may have to be fetched.
pub(crate) struct OpenMount {
    pub(crate) vfs: Vfs,
    pub(crate) tree: Option<Arc<LazyTree>>,
}

impl OpenMount {
    /// Returns a filesystem that refuses all accesses.
    ///
    /// # Errors
    /// None that are expected.
    pub(crate) fn refusing() -> Result<Self, ProcessError> {
        let root = Metadata { permissions: 0, uid: 0, gid: 0, mtime: Timestamp::default(), xattrs: Xattrs::default() };
        let image = Image::open(Mapping::of_bytes(image::encode(&Tree::new(root))?.bytes))?;
        Ok(Self { vfs: Vfs::refusing(image)?, tree: None })
    }
}

impl MountSource {
    /// Creates the source of a mount from a commit that was resolved.
    pub(crate) fn new(
        store: Store,
        resolved: ResolvedCommit,
        subdir: ImagePath,
        remote: Option<RemoteConfig>,
        options: &MountOptions,
    ) -> Self {
        // Content that is verified on reading may turn out to be damaged, and is then fetched again.
        let may_repair = options.verify != Verify::OnEntry && resolved.is_fetchable();
        let is_complete = store.commit(resolved.id()).is_ok() && !store.is_lazy(resolved.id()) && !may_repair;
        let remote = remote.map(RemotePart::new);
        Self { store, resolved, subdir, remote, is_complete }
    }

    /// Opens the source again in another process, whose working directory is the repository.
    ///
    /// # Errors
    /// When the repository cannot be opened, or this program does not understand the hand-over.
    pub(crate) fn reopen(handoff: &Handoff, service: Service) -> Result<Self, ProcessError> {
        let store = Store::open_working_directory()?;
        // A complete mount fetches nothing, and the sandbox of its worker does not allow the files that fetching needs.
        let remote = handoff.remote.clone().filter(|_| service == Service::Full && !handoff.is_complete);
        let transport = match &remote {
            None => None,
            Some(part) => {
                let config = part.config();
                Some(Transport::open(&config.url, &config.transport)?)
            }
        };
        let resolved = ResolvedCommit::from_record(&handoff.resolved, transport)?;
        Ok(Self { store, resolved, subdir: handoff.subdir()?, remote, is_complete: handoff.is_complete })
    }

    /// Opens the file of the image, if the mount is complete.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(crate) fn open_image(&self) -> Result<Option<File>, ProcessError> {
        let open = || self.store.image_file(self.resolved.commit().image);
        Ok(self.is_complete.then(open).transpose()?)
    }

    /// Opens the commit as a filesystem. `writer` stores what is fetched; without one this process does.
    ///
    /// # Errors
    /// When the image is missing, or has no such directory.
    pub(crate) fn open(
        &self,
        options: &MountOptions,
        writer: Option<Arc<dyn ContentWriter>>,
    ) -> Result<OpenMount, ProcessError> {
        let (store, commit) = (&self.store, self.resolved.commit());
        let directory = store.directory().try_clone().or_cannot("keep the repository open")?;
        let volume = Volume { content_bytes: commit.content_bytes, store: Some(directory) };
        if self.is_complete {
            let image = store.image(commit.image)?;
            let objects = Arc::new(CheckedStore::new(store, &image, options.verify));
            let vfs = Vfs::new(image, objects, &self.subdir, volume)?;
            return Ok(OpenMount { vfs, tree: None });
        }
        let patience = options.fetch_timeout.map_or(Patience::None, Patience::Within);
        let choices = LazyOptions { patience, cache_size: options.cache_size, verify: options.verify };
        let tree = match writer {
            Some(writer) => self.resolved.open_with(store, choices, writer)?,
            None => self.resolved.open(store, choices)?,
        };
        let vfs = Vfs::lazy(tree.image().clone(), Arc::clone(&tree), &self.subdir, volume)?;
        Ok(OpenMount { vfs, tree: Some(tree) })
    }
}

/// Returns the settings of the background fill.
pub(crate) fn fill_settings(handoff: &Handoff, options: &MountOptions) -> Fill {
    let profile = match (&options.profile, &handoff.profile) {
        // The file was read by the process that mounted, since its path may be gone here.
        (ProfileOption::File(_), text) => {
            let text = text.as_deref().and_then(|text| ProfileText::parse(text).ok());
            text.map_or(ProfileChoice::None, ProfileChoice::Listed)
        }
        (option, _) => profile_choice(option),
    };
    let scope = if handoff.background_fill { FillScope::Everything } else { options.background_fill };
    Fill { profile, scope }
}

/// Returns the profile that says what is fetched first. If its file cannot be used, a warning is logged and nothing is fetched
/// first, but the mount goes on.
pub(crate) fn profile_choice(option: &ProfileOption) -> ProfileChoice {
    match option {
        ProfileOption::None => ProfileChoice::None,
        ProfileOption::WhenReading => ProfileChoice::WhenReading,
        ProfileOption::Auto => ProfileChoice::Published,
        ProfileOption::File(path) => match ProfileText::read(path) {
            Ok(text) => ProfileChoice::Listed(text),
            Err(error) => {
                tracing::warn!("mounting without a profile: {}", chain(&error));
                ProfileChoice::None
            }
        },
    }
}
