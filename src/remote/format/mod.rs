//! The formats of a published repository, as values and bytes. No I/O happens here.
//!
//! Whatever is parsed here comes from a stranger: counts and lengths are checked before anything is allocated for them,
//! and nothing parsed is believed about content, only about where to look for it.

mod locator;
mod pack;
mod placement;
mod profile;
mod profile_text;
pub mod wire;

pub use locator::{Frame, Locator, LocatorBound, LocatorBuilder, LocatorError, PackRef, Spot};
pub use pack::{
    FRAME_RAW_MAX, FrameError, PACK_HEADER_SIZE, PackWriter, RawFrame, compress_frames, decode_frame, in_order,
    is_in_proportion,
};
pub use placement::{DeltaRef, FileRef, ImageRef, PLACEMENT_SIZE_MAX, Placement, PlacementError};
pub use profile::{PROFILE_SIZE_MAX, Profile, ProfileEntry, ProfileError};
pub use profile_text::{ProfileLine, ProfileText, ProfileTextError};
