//! What is fetched because somebody says so, without reading it: below some paths, by a profile, or everything.
//!
//! A plan first, which asks the remote for names only, then the fetch, which leaves everything it got where the next
//! attempt, a mount or a pull finds it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use super::error::FetchError;
use super::fill;
use super::frames::{Frames, UNHURRIED};
use super::profile::ProfileChoice;
use super::stream::{Course, Purpose};
use super::whole::{Wholeness, make_whole};
use crate::image::{Image, ImageError, Ino};
use crate::model::{CommitId, FileKind, ImagePath};
use crate::remote::format::{Profile, ProfileEntry, ProfileText};
use crate::store::WriteError;

/// What to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// What is at and below these paths.
    Paths(Vec<ImagePath>),
    /// What a profile lists.
    Profile(ProfileChoice),
    /// Everything.
    Everything,
}

/// Why something selected is not here.
#[derive(Debug, thiserror::Error)]
pub enum PrefetchError {
    /// There is no such path.
    #[error("there is no {path} in commit {commit}")]
    NoPath {
        /// The path.
        path: ImagePath,
        /// The commit.
        commit: CommitId,
    },
    /// The publisher recorded nothing.
    #[error("commit {commit} was published without a profile")]
    NoProfile {
        /// The commit.
        commit: CommitId,
    },
    /// It did not come.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The repository could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// More than may be kept.
    #[error("{needed} bytes are more than the repository keeps of what is fetched (cache-size {limit})")]
    CacheSize {
        /// Bytes of content selected that are not here.
        needed: u64,
        /// The limit.
        limit: u64,
    },
}

/// What has to be fetched.
#[derive(Clone)]
pub struct PrefetchPlan {
    pub(super) course: Course,
    /// Requests for contents.
    pub requests: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Bytes of content in them, neighbours counted.
    pub content_bytes: u64,
}

pub(super) fn plan(
    frames: &Arc<Frames>,
    commit: CommitId,
    selection: &Selection,
) -> Result<PrefetchPlan, PrefetchError> {
    let course = course(frames, commit, selection)?;
    let (requests, bytes, content_bytes) = (course.requests(), course.bytes(), course.content_bytes());
    match frames.room.limit() {
        Some(limit) if content_bytes > limit => Err(PrefetchError::CacheSize { needed: content_bytes, limit }),
        _ => Ok(PrefetchPlan { course, requests, bytes, content_bytes }),
    }
}

/// The way to what is selected and not here. Needs its names, and fetches them.
fn course(frames: &Arc<Frames>, commit: CommitId, selection: &Selection) -> Result<Course, PrefetchError> {
    frames.image.fetch_hot(Instant::now() + UNHURRIED)?;
    match selection {
        Selection::Everything => Ok(fill::missing(frames)?),
        Selection::Profile(choice) => {
            let profile = frames.profile(choice)?.ok_or(PrefetchError::NoProfile { commit })?;
            Ok(course_of(frames, &profile, Purpose::ReadFirst)?)
        }
        Selection::Paths(paths) => below(frames, commit, paths),
    }
}

fn course_of(frames: &Arc<Frames>, profile: &Profile, purpose: Purpose) -> Result<Course, FetchError> {
    let catalogue = frames.catalogue(Instant::now() + UNHURRIED)?;
    frames.ask_for_names_of(&catalogue, profile)?;
    frames.wait_for_names_of(&catalogue, profile)?;
    Ok(frames.course_of(&catalogue, profile, purpose))
}

pub(super) fn published_profile(frames: &Arc<Frames>) -> Result<Option<ProfileText>, PrefetchError> {
    let deadline = Instant::now() + UNHURRIED;
    let Some(profile) = frames.profile(&ProfileChoice::Published)? else { return Ok(None) };
    frames.image.fetch_hot(deadline)?;
    Ok(Some(frames.image.with_blocks(deadline, |image| ProfileText::of(image, &profile))?))
}

/// The way to all that is at and below some paths.
fn below(frames: &Arc<Frames>, commit: CommitId, paths: &[ImagePath]) -> Result<Course, PrefetchError> {
    let image = frames.image.image();
    let mut objects = BTreeSet::new();
    for path in paths {
        let top = image.resolve(path).map_err(FetchError::from)?;
        let top = top.ok_or_else(|| PrefetchError::NoPath { path: path.clone(), commit })?;
        gather(image, top, &mut objects).map_err(FetchError::from)?;
    }
    let profile = Profile { entries: objects.into_iter().map(ProfileEntry::whole).collect() };
    Ok(course_of(frames, &profile, Purpose::Rest)?)
}

fn gather(image: &Image, top: Ino, objects: &mut BTreeSet<u32>) -> Result<(), ImageError> {
    let mut visit = |ino, kind| {
        if kind == FileKind::Regular {
            objects.extend(image.object_index(ino)?);
        }
        Ok::<(), ImageError>(())
    };
    match image.kind(top)? {
        FileKind::Directory => image.walk(top, &mut |_, ino, kind| visit(ino, kind)),
        kind => visit(top, kind),
    }
}

/// Fetches what was planned; of everything, the commit becomes a plain one.
pub(super) fn fetch(
    frames: &Arc<Frames>,
    commit: CommitId,
    plan: &PrefetchPlan,
    selection: &Selection,
) -> Result<Wholeness, PrefetchError> {
    let followed = frames.follow_planned(plan.course.clone(), || course(frames, commit, selection));
    // Also what came before a failure is kept.
    frames.shelf.flush();
    followed?;
    match selection {
        Selection::Everything => Ok(make_whole(frames, commit)?),
        Selection::Paths(_) | Selection::Profile(_) => Ok(Wholeness::Incomplete),
    }
}
