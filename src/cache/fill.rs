//! What is fetched while nothing urgent is to be done: digests, then, if wanted, all contents.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::crew::Crew;
use super::frames::Frames;
use super::image::LazyImage;
use super::shelf::chain;

/// How long a fill that got nowhere waits.
const PAUSE: Duration = Duration::from_secs(5);

/// Digests are fetched after nothing else was wanted for so long: they would compete with what starts first.
const QUIET: Duration = Duration::from_secs(2);

/// Frames looked at in one step.
const STEP: usize = 64;

/// What is fetched that nobody asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fill {
    /// Names, attributes and digests.
    #[default]
    Metadata,
    /// Everything.
    Everything,
}

/// Runs until everything wanted is here or the mount ends.
pub(super) fn run(image: &Arc<LazyImage>, frames: &Frames, crew: &Crew, fill: Fill) {
    if fill == Fill::Metadata {
        std::thread::sleep(QUIET);
    }
    let quiet = if fill == Fill::Metadata { QUIET } else { Duration::ZERO };
    while crew.wait_for_quiet(quiet) {
        match image.fetch_more() {
            Ok(true) => {}
            Ok(false) if image.missing() == 0 => break,
            Ok(false) => std::thread::sleep(PAUSE / 10),
            Err(error) => {
                tracing::debug!("in the background: {}", chain(&error));
                std::thread::sleep(PAUSE);
            }
        }
    }
    if fill == Fill::Everything {
        everything(frames, crew);
    }
}

fn everything(frames: &Frames, crew: &Crew) {
    loop {
        if !crew.give_way() {
            return;
        }
        let deadline = Instant::now() + PAUSE;
        let Ok(catalogue) = frames.catalogue(deadline) else {
            std::thread::sleep(PAUSE);
            continue;
        };
        let all: Vec<u32> = (0..catalogue.frames()).collect();
        let mut missing = 0_usize;
        for step in all.chunks(STEP) {
            if !crew.give_way() {
                return;
            }
            frames.fetch_quietly(step, deadline);
            missing += step.iter().filter(|frame| !frames.has_frame_now(catalogue, **frame)).count();
        }
        if missing == 0 {
            return;
        }
        std::thread::sleep(PAUSE);
    }
}
