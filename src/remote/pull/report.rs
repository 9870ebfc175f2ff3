//! What a pull does, or would do, in numbers.

use crate::model::{CommitId, RefName};
use crate::remote::client::{Remote, Tip};

/// How an image comes here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageSource {
    /// It is here already.
    Here,
    /// As a whole.
    Whole,
    /// As the difference from another one.
    Delta,
}

/// One commit. In a dry run what would happen, else what did.
#[derive(Debug, Clone, serde::Serialize)]
pub struct CommitReport {
    /// The commit.
    pub commit: CommitId,
    /// How its image comes.
    pub image: ImageSource,
    /// Objects of the image that are wanted and were not here.
    pub objects: u64,
    /// How many of those come as deltas.
    pub delta_objects: u64,
    /// Requests for objects.
    pub requests: u64,
    /// Bytes of those.
    pub download_bytes: u64,
    /// Bytes that are added to the disk: image and objects, holes not counted.
    pub disk_bytes: u64,
    /// Whether parts of the commit stay away.
    pub lazy: bool,
}

impl CommitReport {
    fn add(&mut self, later: &Self) {
        self.objects += later.objects;
        self.delta_objects += later.delta_objects;
        self.requests += later.requests;
        self.download_bytes += later.download_bytes;
        self.disk_bytes += later.disk_bytes;
        self.lazy = later.lazy;
    }
}

/// One ref.
#[derive(Debug, Clone, serde::Serialize)]
pub struct RefReport {
    /// The ref as the remote calls it.
    #[serde(rename = "ref")]
    pub name: RefName,
    /// What it is called here.
    pub local_ref: RefName,
    /// Its newest commit.
    pub commit: CommitId,
    /// Requests in all.
    pub requests: u64,
    /// Bytes that come over the network in all.
    pub download_bytes: u64,
    /// Objects that were not here.
    pub objects: u64,
    /// Bytes that are added to the disk.
    pub disk_bytes: u64,
    /// The commits, oldest first.
    pub commits: Vec<CommitReport>,
}

impl RefReport {
    pub(super) fn new(remote: &Remote, tip: &Tip) -> Self {
        let name = tip.record.name.clone();
        let local_ref = remote.name().local_ref(&name);
        let commit = tip.record.commit;
        Self { name, local_ref, commit, requests: 0, download_bytes: 0, objects: 0, disk_bytes: 0, commits: Vec::new() }
    }

    /// What this pull and a later one of the same ref did together.
    #[must_use]
    pub fn and_then(self, later: Self) -> Self {
        let mut commits = self.commits;
        for commit in later.commits {
            match commits.iter_mut().find(|before| before.commit == commit.commit) {
                Some(before) => before.add(&commit),
                None => commits.push(commit),
            }
        }
        Self {
            requests: self.requests + later.requests,
            download_bytes: self.download_bytes + later.download_bytes,
            objects: self.objects + later.objects,
            disk_bytes: self.disk_bytes + later.disk_bytes,
            commits,
            ..later
        }
    }

    pub(super) fn add(&mut self, commit: CommitReport) {
        self.requests += commit.requests;
        self.download_bytes += commit.download_bytes;
        self.objects += commit.objects;
        self.disk_bytes += commit.disk_bytes;
        self.commits.push(commit);
    }
}
