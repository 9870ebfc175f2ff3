//! Fetches contents before a reader waits for them: around and after what was read, the contents of a profile, or everything.
//!
//! *Not here*: how a frame is fetched (`fetch`).
//!
//! *Invariant*: a foreground request never waits for a job from here.
//!
//! *Used by* `tree`.

pub(super) mod background;
pub(super) mod history;
pub(super) mod predictor;
pub(super) mod prefetch;
pub(super) mod profile;
