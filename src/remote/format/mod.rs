//! The formats of a published repository, as values and bytes.
//!
//! *Not here*: I/O.
//!
//! *Invariants*: everything that is parsed here is untrusted: counts and lengths are checked before anything is
//! allocated for them, and parsed values are used only to find content, which is checked separately.
//!
//! *Used by* `fetch`, `pull`, `publish`, `prune`, and by the cache of lazy mounts.

mod locator;
mod pack;
mod placement;
mod profile;
mod profile_text;
pub mod wire;

pub(crate) use locator::LocatorError;
pub use locator::{Locator, LocatorBound, LocatorBuilder, ObjectPosition, PackFrame, PackRef};
pub use pack::{FRAME_RAW_MAX, PackWriter, decode_frame, is_in_proportion};
pub(crate) use pack::{FrameError, PACK_HEADER_SIZE, RawFrame, compress_frames, run_in_order};
pub(crate) use placement::PLACEMENT_SIZE_MAX;
pub use placement::{DeltaRef, FileRef, ImageRef, Placement};
pub(crate) use profile::PROFILE_SIZE_MAX;
pub use profile::{Profile, ProfileEntry};
pub use profile_text::{ProfileLine, ProfileText, ProfileTextError};
