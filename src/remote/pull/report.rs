//! The report of a pull or of a dry run.
//!
//! *Used by* `pull` and `cli`.

use crate::model::{CommitId, RefName};
use crate::remote::client::{Head, Remote};

/// How an image was obtained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ImageSource {
    /// It was in the repository already.
    Here,
    /// It was fetched as a whole.
    Whole,
    /// It was made from another image by a delta.
    Delta,
}

/// The report of one commit: in a dry run what would happen, else what did.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct CommitReport {
    pub(crate) commit: CommitId,
    /// How its image was obtained.
    pub(crate) image: ImageSource,
    /// Number of wanted objects that were missing.
    pub(crate) objects: u64,
    /// Number of those that are made by deltas.
    pub(crate) delta_objects: u64,
    /// Number of requests for objects.
    pub(crate) requests: u64,
    /// Bytes of those requests.
    pub(crate) download_bytes: u64,
    /// Bytes that are added to the disk: image and objects without holes.
    pub(crate) disk_bytes: u64,
    /// Whether parts of the commit are not fetched.
    pub(crate) lazy: bool,
}

impl CommitReport {
    fn add_later(&mut self, later: &Self) {
        self.objects += later.objects;
        self.delta_objects += later.delta_objects;
        self.requests += later.requests;
        self.download_bytes += later.download_bytes;
        self.disk_bytes += later.disk_bytes;
        self.lazy = later.lazy;
    }
}

/// The report of one ref.
#[derive(Debug, Clone, serde::Serialize)]
pub struct RefReport {
    /// The remote's name of the ref.
    #[serde(rename = "ref")]
    pub(crate) name: RefName,
    /// The local name of the ref.
    pub(crate) local_ref: RefName,
    /// The ref's newest commit.
    pub(crate) commit: CommitId,
    /// Total number of requests.
    pub(crate) requests: u64,
    /// Total number of received bytes.
    pub(crate) download_bytes: u64,
    /// Number of objects that were missing.
    pub(crate) objects: u64,
    /// Bytes that are added to the disk.
    pub(crate) disk_bytes: u64,
    /// The commits, oldest first.
    pub(crate) commits: Vec<CommitReport>,
}

impl RefReport {
    pub(super) fn new(remote: &Remote, head: &Head) -> Self {
        let name = head.record.name.clone();
        let local_ref = remote.name().local_ref(&name);
        let commit = head.record.commit;
        Self { name, local_ref, commit, requests: 0, download_bytes: 0, objects: 0, disk_bytes: 0, commits: Vec::new() }
    }

    /// Returns what this pull and a later one of the same ref did together.
    pub(crate) fn and_then(self, later: Self) -> Self {
        let mut commits = self.commits;
        for commit in later.commits {
            match commits.iter_mut().find(|before| before.commit == commit.commit) {
                Some(before) => before.add_later(&commit),
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

    pub(super) fn add_commit(&mut self, commit: CommitReport) {
        self.requests += commit.requests;
        self.download_bytes += commit.download_bytes;
        self.objects += commit.objects;
        self.disk_bytes += commit.disk_bytes;
        self.commits.push(commit);
    }
}
