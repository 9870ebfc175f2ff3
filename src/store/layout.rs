//! The paths of the files and directories of a repository.
//!
//! *Invariants*: this is the only place that has the names of its directories.
//!
//! *Used by* `store`, and by the layers above for their own files in a repository.

use std::path::{Path, PathBuf};

use crate::model::{CommitId, ImageId, ObjectId, RefName};

/// The paths of one repository.
#[derive(Debug, Clone)]
pub struct StoreLayout {
    root: PathBuf,
}

impl StoreLayout {
    /// The directories that every repository has.
    pub(crate) const DIRECTORIES: [&'static str; 8] =
        ["objects", "packs", "images", "commits", "refs", "state", "state/mounts", "tmp"];

    /// Returns the layout of the repository at `root`.
    pub(crate) const fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Returns the directory of the repository.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the file of the settings. A directory is a repository if it has this file.
    pub(crate) fn config(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// Returns the directory of the objects that have a file of their own.
    pub(crate) fn objects(&self) -> PathBuf {
        self.root.join("objects")
    }

    /// Returns the file of one object.
    pub(crate) fn object(&self, id: ObjectId) -> PathBuf {
        self.root.join(Self::object_relative(id))
    }

    /// Returns the file of one object, relative to the repository.
    pub(crate) fn object_relative(id: ObjectId) -> PathBuf {
        let hex = id.to_string();
        PathBuf::from("objects").join(&hex[..2]).join(&hex[2..])
    }

    /// Returns the directory of the packs of small objects.
    pub(crate) fn packs(&self) -> PathBuf {
        self.root.join(Self::PACKS)
    }

    /// The directory of packs, relative to the repository.
    pub(crate) const PACKS: &'static str = "packs";

    /// The index that says in which of many large packs an object is, relative to the repository. Made when first needed.
    pub(crate) const PACK_INDEX: &'static str = "packs/index";

    /// The name of the index within the directory of packs.
    pub(crate) const PACK_INDEX_NAME: &'static str = "index";

    /// The suffix of the names of packs.
    pub(crate) const PACK_SUFFIX: &'static str = ".objects";

    /// The suffix of the names of packs of the former form, as earlier versions wrote them.
    pub(crate) const FORMER_PACK_SUFFIX: &'static str = ".pack";

    /// Returns the index that says in which of many large packs an object is.
    pub(crate) fn pack_index(&self) -> PathBuf {
        self.root.join(Self::PACK_INDEX)
    }

    /// Returns the directory of the images.
    pub(crate) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// Returns the file of one image.
    #[must_use]
    pub fn image(&self, id: ImageId) -> PathBuf {
        self.images().join(id.to_string())
    }

    /// Returns the file of one image, relative to the repository.
    pub(crate) fn image_relative(id: ImageId) -> PathBuf {
        PathBuf::from("images").join(id.to_string())
    }

    /// Returns the directory of the commit records.
    pub(crate) fn commits(&self) -> PathBuf {
        self.root.join("commits")
    }

    /// Returns the file of one commit record.
    pub(crate) fn commit(&self, id: CommitId) -> PathBuf {
        self.commits().join(id.to_string())
    }

    /// The first part of the names of the refs that keep the commits of deployments.
    pub(crate) const DEPLOYMENT_REFS: &'static str = "deployments";

    /// The first part of the names of the refs that say what remotes had when they were asked last.
    pub(crate) const REMOTE_REFS: &'static str = "remotes";

    /// Returns the directory of the refs.
    pub(crate) fn refs(&self) -> PathBuf {
        self.root.join("refs")
    }

    /// Returns the file of one ref. The rules of ref names make them safe as relative paths.
    pub(crate) fn reference(&self, name: &RefName) -> PathBuf {
        self.refs().join(name.as_str())
    }

    /// Returns the log of one ref. Its directories are made when first needed. No part of a ref's name begins with a dot, so
    /// the logs of `a` and `a/b` do not collide.
    pub(crate) fn ref_log(&self, name: &RefName) -> PathBuf {
        self.root.join("state/ref-logs").join(name.as_str()).join(".log")
    }

    /// Returns the directory of the signatures of commits: an envelope for each signed commit. Made when first needed.
    pub(crate) fn signatures(&self) -> PathBuf {
        self.root.join("signatures")
    }

    /// Returns the file of the envelope around one commit record, as it was published.
    pub(crate) fn commit_signatures(&self, id: CommitId) -> PathBuf {
        self.signatures().join(id.to_string())
    }

    /// Returns the directory of the settings and state of remotes. Made when first needed.
    pub(crate) fn remotes(&self) -> PathBuf {
        self.root.join("remotes")
    }

    /// Returns the directory of the markers of lazy commits. Made when first needed.
    pub(crate) fn lazy(&self) -> PathBuf {
        self.root.join("state/lazy")
    }

    /// Returns the marker of a lazy commit. While it exists, parts of the commit may be absent.
    pub(crate) fn lazy_commit(&self, id: CommitId) -> PathBuf {
        self.lazy().join(id.to_string())
    }

    /// Returns the directory of the times of last use of packed objects. Made when first needed.
    pub(crate) fn use_times(&self) -> PathBuf {
        self.root.join("state/used")
    }

    /// Returns the file of the times of last use of one pack's objects; `name` is the name of the pack's file.
    pub(crate) fn use_times_of_pack(&self, name: &str) -> PathBuf {
        self.use_times().join(name)
    }

    /// Returns the directory of files that have no final name yet.
    pub(crate) fn temporary(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Returns the lock that a process holds while it adds or removes anything.
    pub(crate) fn writer_lock(&self) -> PathBuf {
        self.root.join("state/writer.lock")
    }

    /// Returns the lock that a process holds shared while it relies on objects which no ref protects, and exclusively while it
    /// removes objects.
    pub(crate) fn removal_lock(&self) -> PathBuf {
        self.root.join("state/removal.lock")
    }

    /// Returns the lock that a process holds while it changes settings.
    pub(crate) fn config_lock(&self) -> PathBuf {
        self.root.join("state/config.lock")
    }

    /// The directory with one locked file for each running mount, relative to the repository.
    pub(crate) const MOUNTS: &'static str = "state/mounts";

    /// Returns the directory with one locked file for each running mount.
    pub(crate) fn mounts(&self) -> PathBuf {
        self.root.join(Self::MOUNTS)
    }

    /// Returns the file that says which objects each commit added to its parent. Made when first needed.
    pub(crate) fn history(&self) -> PathBuf {
        self.root.join("state/history")
    }

    /// Returns the file with the identity under which this repository is published. Made by the first publish.
    pub(crate) fn identity(&self) -> PathBuf {
        self.root.join("state/identity")
    }

    /// Returns the milestone of the last check that found no damage. Made by the check.
    pub(crate) fn last_check(&self) -> PathBuf {
        self.root.join("state/checked")
    }

    /// Returns the milestone of the last collection that left no garbage. Made by the collection.
    pub(crate) fn last_collection(&self) -> PathBuf {
        self.root.join("state/collected")
    }

    /// Returns the mark whose presence says that the repository may have garbage.
    pub(crate) fn garbage_mark(&self) -> PathBuf {
        self.root.join("state/garbage")
    }

    /// Returns the directory of the attribute caches of committed directories.
    pub(crate) fn stat_caches(&self) -> PathBuf {
        self.root.join("state/stat-cache")
    }
}
