//! Commits that are fetched as they are read.
//!
//! A [`LazyTree`] answers from what is here and says what is not; whoever may wait has it fetched. Knows neither inodes
//! nor the kernel. Invariants: at most one fetch of a thing is under way, and no lock is held while something is fetched;
//! whatever fails reaches everybody who waits for it; nothing is given to a reader or to the repository that was not
//! checked against the image, which the commit names.
//!
//! ```text
//! partial/<image>           the image's file at full length, with the blocks that came
//! partial/<image>.head      the beginning of its published form
//! partial/<image>.locator   where its objects are
//! partial/<object>          a large object's file at full length, with the blocks that came
//! ```
//!
//! Nothing in `partial/` is believed: every block is checked when it is first used after a start.
//!
//! | file | holds |
//! | --- | --- |
//! | `visit` | from a ref of a remote to a commit |
//! | `tree` | one commit: reading, fetching, patience |
//! | `image`, `frames`, `large` | the parts of it that are here, and how the others come |
//! | `shelf` | what has arrived, in memory until it is in the repository |
//! | `flight`, `crew`, `origin`, `tries` | single fetches, the threads that carry them out, the other side, what came wrong |
//! | `catalogue`, `ranges`, `ahead` | pure planning: which frame holds what, what to ask for together, what to fetch ahead |
//! | `fill`, `profile`, `prefetch`, `stream` | what is fetched that nobody waits for |
//! | `room`, `uses`, `janitor` | how much may be kept, and what goes when that is too little |
//! | `whole` | when all is here: an ordinary commit |

mod ahead;
mod beginning;
mod catalogue;
mod counters;
mod crew;
mod error;
mod fill;
mod flight;
mod frames;
mod haul;
mod image;
mod janitor;
mod large;
mod ledger;
mod local;
mod origin;
mod prefetch;
mod profile;
mod ranges;
mod room;
mod shelf;
mod stream;
mod tree;
mod tries;
mod uses;
mod visit;
mod whole;

pub use counters::{LATENCY_BOUNDS_MS, Latency, LazyFigures};
pub use error::FetchError;
pub use fill::{Fill, Rest};
pub use image::LazyImageError;
pub use prefetch::{PrefetchError, PrefetchPlan, Selection};
pub use profile::ProfileChoice;
pub use tree::{LazyError, LazyOptions, LazyTree, Patience};
pub use visit::{Visit, VisitError, VisitRecord};
pub use whole::Wholeness;
