//! Where everything is in a repository. The only place that spells the names of its directories.

use std::path::{Path, PathBuf};

use crate::model::{CommitId, ImageId, ObjectId, RefName};

/// The paths of one repository.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The directories that make a repository.
    pub const DIRECTORIES: [&'static str; 8] =
        ["objects", "packs", "images", "commits", "refs", "state", "state/mounts", "tmp"];

    /// The layout of the repository at `root`.
    #[must_use]
    pub const fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The directory of the repository.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The configuration; its presence makes a directory a repository.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// Objects with a file of their own.
    #[must_use]
    pub fn objects(&self) -> PathBuf {
        self.root.join("objects")
    }

    /// The file of one object.
    #[must_use]
    pub fn object(&self, id: ObjectId) -> PathBuf {
        self.root.join(Self::object_relative(id))
    }

    /// The file of one object, relative to the repository.
    #[must_use]
    pub fn object_relative(id: ObjectId) -> PathBuf {
        let hex = id.to_string();
        PathBuf::from("objects").join(&hex[..2]).join(&hex[2..])
    }

    /// Packs of small objects.
    #[must_use]
    pub fn packs(&self) -> PathBuf {
        self.root.join(Self::PACKS)
    }

    /// The directory of packs, relative to the repository.
    pub const PACKS: &'static str = "packs";

    /// Says in which of many large packs an object is; relative to the repository. Made when first needed.
    pub const PACK_INDEX: &'static str = "packs/index";

    /// The name of that file within the directory of packs.
    pub const PACK_INDEX_NAME: &'static str = "index";

    /// What the name of a pack ends with.
    pub const PACK_SUFFIX: &'static str = ".pack";

    /// Says in which of many large packs an object is.
    #[must_use]
    pub fn pack_index(&self) -> PathBuf {
        self.root.join(Self::PACK_INDEX)
    }

    /// All images.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// The file of one image.
    #[must_use]
    pub fn image(&self, id: ImageId) -> PathBuf {
        self.images().join(id.to_string())
    }

    /// The file of one image, relative to the repository.
    #[must_use]
    pub fn image_relative(id: ImageId) -> PathBuf {
        PathBuf::from("images").join(id.to_string())
    }

    /// All commit records.
    #[must_use]
    pub fn commits(&self) -> PathBuf {
        self.root.join("commits")
    }

    /// The file of one commit record.
    #[must_use]
    pub fn commit(&self, id: CommitId) -> PathBuf {
        self.commits().join(id.to_string())
    }

    /// All refs.
    #[must_use]
    pub fn refs(&self) -> PathBuf {
        self.root.join("refs")
    }

    /// The file of one ref. A ref name is a safe relative path by its own rules.
    #[must_use]
    pub fn reference(&self, name: &RefName) -> PathBuf {
        self.refs().join(name.as_str())
    }

    /// The signatures of commits: an envelope each, where there are any. Made when first needed.
    #[must_use]
    pub fn signatures(&self) -> PathBuf {
        self.root.join("signatures")
    }

    /// The envelope around one commit record, as it was published.
    #[must_use]
    pub fn commit_signatures(&self, id: CommitId) -> PathBuf {
        self.signatures().join(id.to_string())
    }

    /// What is known of remotes. Made when first needed.
    #[must_use]
    pub fn remotes(&self) -> PathBuf {
        self.root.join("remotes")
    }

    /// Images and large objects of which only parts are here. Made when first needed.
    #[must_use]
    pub fn partial(&self) -> PathBuf {
        self.root.join("partial")
    }

    /// The part of an image that is here.
    #[must_use]
    pub fn partial_image(&self, id: ImageId) -> PathBuf {
        self.partial().join(id.to_string())
    }

    /// The part of a large object that is here.
    #[must_use]
    pub fn partial_object(&self, id: ObjectId) -> PathBuf {
        self.partial().join(id.to_string())
    }

    /// The beginning of the published form of an image, which says where its parts are.
    #[must_use]
    pub fn image_head(&self, id: ImageId) -> PathBuf {
        self.partial().join(format!("{id}.head"))
    }

    /// The locator of an image, as it was fetched last.
    #[must_use]
    pub fn image_locator(&self, id: ImageId) -> PathBuf {
        self.partial().join(format!("{id}.locator"))
    }

    /// A marker for each commit that is here lazily. Made when first needed.
    #[must_use]
    pub fn lazy(&self) -> PathBuf {
        self.root.join("state/lazy")
    }

    /// Says by its presence that parts of the commit may not be here.
    #[must_use]
    pub fn lazy_commit(&self, id: CommitId) -> PathBuf {
        self.lazy().join(id.to_string())
    }

    /// When packed objects were used. Made when first needed.
    #[must_use]
    pub fn uses(&self) -> PathBuf {
        self.root.join("state/used")
    }

    /// When the objects of one pack were used, by the name of its file.
    #[must_use]
    pub fn uses_of_pack(&self, name: &str) -> PathBuf {
        self.uses().join(name)
    }

    /// Files without a name yet.
    #[must_use]
    pub fn temporary(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Held by whoever adds or removes anything.
    #[must_use]
    pub fn writer_lock(&self) -> PathBuf {
        self.root.join("state/writer.lock")
    }

    /// Held shared by whoever relies on objects that no ref protects yet, and alone by whoever removes objects.
    #[must_use]
    pub fn removal_lock(&self) -> PathBuf {
        self.root.join("state/removal.lock")
    }

    /// Held by whoever changes settings.
    #[must_use]
    pub fn config_lock(&self) -> PathBuf {
        self.root.join("state/config.lock")
    }

    /// One locked file for each running mount.
    #[must_use]
    pub fn mounts(&self) -> PathBuf {
        self.root.join("state/mounts")
    }

    /// What each commit added to the one before. Made when first needed.
    #[must_use]
    pub fn history(&self) -> PathBuf {
        self.root.join("state/history")
    }

    /// What the last check found sound. Made by it.
    #[must_use]
    pub fn last_check(&self) -> PathBuf {
        self.root.join("state/checked")
    }

    /// What the last collection kept. Made by it.
    #[must_use]
    pub fn last_collection(&self) -> PathBuf {
        self.root.join("state/collected")
    }

    /// Says by its presence that something may be here that nothing needs.
    #[must_use]
    pub fn garbage_mark(&self) -> PathBuf {
        self.root.join("state/garbage")
    }

    /// The attribute caches of committed directories.
    #[must_use]
    pub fn stat_caches(&self) -> PathBuf {
        self.root.join("state/stat-cache")
    }
}
