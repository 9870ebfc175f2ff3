//! What is fetched that nobody asked for: names, what is read first, digests, then, if wanted, everything.
//!
//! Whatever somebody waits for comes before. When everything was wanted and is here, the commit is made a plain one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::FetchError;
use super::frames::{Frames, UNHURRIED};
use super::profile::ProfileChoice;
use super::shelf::chain;
use super::stream::{Course, Purpose};
use super::whole::{Wholeness, make_whole};
use crate::model::CommitId;

/// How long a fill that got nowhere waits.
const PAUSE: Duration = Duration::from_secs(5);

/// Digests are fetched after nothing else was wanted for so long: they would compete with what starts first.
const QUIET: Duration = Duration::from_secs(2);

/// What is fetched that nobody asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fill {
    /// What is read first.
    pub profile: ProfileChoice,
    /// What else.
    pub rest: Rest,
}

/// What is fetched besides what is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rest {
    /// Names and attributes, and once anything is read also digests, so that what is missing is known.
    #[default]
    Metadata,
    /// Everything.
    Everything,
}

/// Fetches names, what is read first, and digests. Returns whether to go on at all.
pub(super) fn first_things(frames: &Arc<Frames>, fill: &Fill) -> bool {
    let hot = frames.image.fetch_hot(Instant::now() + UNHURRIED);
    log(hot);
    let at_once =
        fill.rest == Rest::Everything || matches!(fill.profile, ProfileChoice::Published | ProfileChoice::Listed(_));
    if !at_once && !frames.wait_until_wanted() {
        return false;
    }
    log(first_reads(frames, &fill.profile));
    fill.rest == Rest::Everything || digests(frames)
}

/// Fetches what the profile lists.
fn first_reads(frames: &Arc<Frames>, choice: &ProfileChoice) -> Result<(), FetchError> {
    if *choice == ProfileChoice::None {
        return Ok(());
    }
    // While the locator is on its way.
    let profile = std::thread::scope(|scope| {
        let profile = scope.spawn(|| frames.profile(choice));
        log(frames.catalogue(Instant::now() + UNHURRIED).map(drop));
        profile.join().unwrap_or(Err(FetchError::GivenUp))
    })?;
    let Some(profile) = profile else { return Ok(()) };
    let course = || {
        let catalogue = frames.catalogue(Instant::now() + UNHURRIED)?;
        Ok::<_, FetchError>(frames.course_of(&catalogue, &profile, Purpose::ReadFirst))
    };
    let catalogue = frames.catalogue(Instant::now() + UNHURRIED)?;
    std::thread::scope(|scope| {
        scope.spawn(|| log(frames.ask_for_names_of(&catalogue, &profile)));
        frames.follow_planned(course()?, course)
    })
}

/// Fetches digests whenever it is quiet; returns whether to go on at all.
fn digests(frames: &Frames) -> bool {
    while frames.crew.wait_for_quiet(QUIET) {
        match frames.image.fetch_more() {
            Ok(true) => {}
            Ok(false) if frames.image.missing() == 0 => return true,
            Ok(false) => _ = frames.crew.pause(PAUSE / 10),
            Err(error) => {
                log(Err(error));
                frames.crew.pause(PAUSE);
            }
        }
    }
    false
}

/// Fetches all that is missing until nothing is, and makes the commit a plain one. What fails is tried again, after a
/// pause; what there is no room for is left.
pub(super) fn everything(frames: &Arc<Frames>, commit: CommitId) {
    while frames.crew.give_way() {
        match attempt(frames, commit) {
            Ok(Attempt::Done) => return,
            Ok(Attempt::Again) => {}
            Err(error) => {
                tracing::debug!("in the background: {}", chain(&*error));
                frames.crew.pause(PAUSE);
            }
        }
    }
}

enum Attempt {
    Done,
    Again,
}

fn attempt(frames: &Arc<Frames>, commit: CommitId) -> Result<Attempt, Box<dyn std::error::Error>> {
    let course = missing(frames)?;
    let needed = frames.room.used().saturating_add(course.content_bytes());
    if let Some(limit) = frames.room.limit().filter(|limit| needed > *limit) {
        tracing::warn!("not everything is fetched: {needed} bytes would be kept, and cache-size is {limit}");
        return Ok(Attempt::Done);
    }
    if course.requests() > 0 {
        if frames.shelf.is_resting() {
            frames.crew.pause(PAUSE);
        } else {
            frames.follow_planned(course, || missing(frames))?;
        }
        return Ok(Attempt::Again);
    }
    match make_whole(frames, commit)? {
        Wholeness::Whole => {
            tracing::info!("everything of commit {} is here", commit.short());
            Ok(Attempt::Done)
        }
        // Something was evicted meanwhile, or the disk is full.
        Wholeness::Incomplete => {
            frames.crew.pause(PAUSE);
            Ok(Attempt::Again)
        }
    }
}

/// The way to all frames that are not here. Needs all names, and fetches them.
pub(super) fn missing(frames: &Arc<Frames>) -> Result<Course, FetchError> {
    while frames.image.fetch_more()? {}
    let catalogue = frames.catalogue(Instant::now() + UNHURRIED)?;
    let all = (0..catalogue.frames()).filter(|frame| !frames.has_frame(&catalogue, *frame));
    Ok(Course::new(&catalogue, Purpose::Rest, all))
}

fn log(result: Result<(), FetchError>) {
    if let Err(error) = result {
        tracing::debug!("in the background: {}", chain(&error));
    }
}
