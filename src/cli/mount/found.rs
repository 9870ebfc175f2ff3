//! From the words of the command line to a commit, and from a commit to a filesystem.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};

use super::Args;
use super::handoff::{Handoff, RemotePart};
use crate::cache::{Fill, LazyTree, ProfileChoice, Rest, Visit};
use crate::cli::remote_source::RemoteSource;
use crate::cli::{lazy, source};
use crate::fuse::{MountOptions, Profile, Service};
use crate::image::{self, Image, Tree};
use crate::model::{CommitId, ImagePath, Metadata, Timestamp, Xattrs};
use crate::remote::RemoteConfig;
use crate::remote::format::ProfileText;
use crate::remote::transport::Transport;
use crate::store::{CheckedStore, Store, Verify};
use crate::sys::Mapping;
use crate::vfs::{Vfs, Volume};

/// What is mounted, and from where.
pub struct Found {
    pub store: Store,
    pub visit: Visit,
    pub subdir: ImagePath,
    /// Where its missing parts come from.
    pub remote: Option<RemotePart>,
    pub is_whole: bool,
}

/// A commit as a filesystem, and what is fetched for it, if anything may be.
pub struct Shown {
    pub vfs: Vfs,
    pub tree: Option<Arc<LazyTree>>,
}

impl Shown {
    /// Returns a filesystem that answers nothing.
    ///
    /// # Errors
    /// None that can be foreseen.
    pub fn refusing() -> Result<Self> {
        let root = Metadata { permissions: 0, uid: 0, gid: 0, mtime: Timestamp::default(), xattrs: Xattrs::default() };
        let image = Image::open(Mapping::of_bytes(image::encode(&Tree::new(root))?.bytes))?;
        Ok(Self { vfs: Vfs::refusing(image)?, tree: None })
    }
}

impl Found {
    /// Returns which commit a mount shows, without looking at the repository.
    ///
    /// # Errors
    /// When this program does not understand what was handed on.
    pub fn commit_of(handoff: &Handoff) -> Result<CommitId> {
        Ok(Visit::again(&handoff.visit, None)?.id())
    }

    /// Finds what `args` mean. Asks the remote, if it is one that they name.
    ///
    /// # Errors
    /// Whatever keeps it from being found.
    pub fn look(args: &Args, options: &MountOptions, repository: &Path) -> Result<Self> {
        let Some(remote) = RemoteSource::parse(&args.source)? else {
            let (spec, path) = source::split(&args.source)?;
            let subdir = subdirectory(args, options, path)?;
            let store = Store::open(repository)?;
            let id = store.resolve(spec)?;
            let is_whole = store.commit(id).is_ok() && !store.is_lazy(id);
            let (visit, config) = if is_whole && options.verify != Verify::OnEntry {
                lazy::visit_for_mending(&store, id, args.asking())?
            } else {
                lazy::visit_with_remote(&store, id)?
            };
            return Ok(Self::new(store, visit, subdir, config, options));
        };
        let subdir = subdirectory(args, options, remote.path.clone())?;
        let store = lazy::open_or_make(repository)?;
        let visit = lazy::visit(&store, &remote, &args.trust, args.asking())?;
        let config = remote.config(&store, &args.trust)?;
        Ok(Self::new(store, visit, subdir, Some(config), options))
    }

    fn new(
        store: Store,
        visit: Visit,
        subdir: ImagePath,
        remote: Option<RemoteConfig>,
        options: &MountOptions,
    ) -> Self {
        // What is checked may turn out to be missing after all.
        let may_mend = options.verify != Verify::OnEntry && visit.is_fetchable();
        let is_whole = store.commit(visit.id()).is_ok() && !store.is_lazy(visit.id()) && !may_mend;
        let remote = remote.map(RemotePart::new);
        Self { store, visit, subdir, remote, is_whole }
    }

    /// The same in another process, whose working directory is the repository.
    ///
    /// # Errors
    /// When the repository cannot be opened, or this program does not understand what was handed on.
    pub fn again(handoff: &Handoff, service: Service) -> Result<Self> {
        let store = Store::open_here()?;
        // What is whole asks nobody, and its worker may not even look at what asking takes.
        let remote = handoff.remote.clone().filter(|_| service == Service::Full && !handoff.is_whole);
        let transport = match &remote {
            None => None,
            Some(part) => {
                let config = part.get();
                Some(Transport::open(&config.url, &config.transport)?)
            }
        };
        let visit = Visit::again(&handoff.visit, transport)?;
        Ok(Self { store, visit, subdir: handoff.subdir()?, remote, is_whole: handoff.is_whole })
    }

    /// Opens the file of the image, if all of the commit is here.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn image_file(&self) -> Result<Option<File>> {
        let open = || self.store.image_file(self.visit.commit().image);
        self.is_whole.then(open).transpose().context("cannot open the image")
    }

    /// Opens the commit as a filesystem.
    ///
    /// # Errors
    /// When the image is not there, or has no such directory.
    pub fn show(&self, options: &MountOptions) -> Result<Shown> {
        let (store, commit) = (&self.store, self.visit.commit());
        let directory = store.directory().try_clone().context("cannot keep the repository open")?;
        let volume = Volume { content_bytes: commit.content_bytes, store: Some(directory) };
        if self.is_whole {
            let image = store.image(commit.image)?;
            let objects = Arc::new(CheckedStore::new(store, &image, options.verify));
            let vfs = Vfs::new(image, objects, &self.subdir, volume)?;
            return Ok(Shown { vfs, tree: None });
        }
        let tree = lazy::open(store, &self.visit, options)?;
        let vfs = Vfs::lazy(tree.image().clone(), Arc::clone(&tree), &self.subdir, volume)?;
        Ok(Shown { vfs, tree: Some(tree) })
    }
}

/// What is fetched that nobody has asked for yet.
pub fn fill(handoff: &Handoff, options: &MountOptions) -> Fill {
    let profile = match (&options.profile, &handoff.profile) {
        // The file was read when its path still meant something.
        (Profile::File(_), text) => {
            let text = text.as_deref().and_then(|text| ProfileText::parse(text).ok());
            text.map_or(ProfileChoice::None, ProfileChoice::Listed)
        }
        (option, _) => lazy::profile(option),
    };
    let rest = if handoff.background_fill { Rest::Everything } else { options.rest };
    Fill { profile, rest }
}

/// `main:/usr` is `main` with `subdir=/usr`.
fn subdirectory(args: &Args, options: &MountOptions, path: ImagePath) -> Result<ImagePath> {
    match (path.is_root(), options.subdir.is_root()) {
        (true, _) => Ok(options.subdir.clone()),
        (false, true) => Ok(path),
        (false, false) => {
            bail!("'{}' and the mount option 'subdir' both name a directory: give one of them", args.source)
        }
    }
}
