//! What is read first, according to the publisher or to the user: from a profile to names and frames.
//!
//! A profile is a hint. What it lists and the image does not have is skipped.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::catalogue::Catalogue;
use super::error::FetchError;
use super::frames::{Frames, UNHURRIED};
use super::stream::{Course, Purpose};
use crate::model::{BLOCK_SIZE, LARGE_OBJECT, ProfileId};
use crate::remote::format::{PROFILE_SIZE_MAX, Profile, ProfileEntry, ProfileText};
use crate::remote::layout;
use crate::remote::transport::Refusal;

/// Which profile.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ProfileChoice {
    /// None.
    None,
    /// The one that was published with the commit, as soon as some content is read.
    #[default]
    WhenReading,
    /// The same, at once.
    Published,
    /// This one.
    Listed(ProfileText),
}

impl Frames {
    /// The chosen profile for this image; none when none was chosen or published.
    pub fn profile(self: &Arc<Self>, choice: &ProfileChoice) -> Result<Option<Profile>, FetchError> {
        match choice {
            ProfileChoice::None => Ok(None),
            ProfileChoice::WhenReading | ProfileChoice::Published => self.published_profile(),
            ProfileChoice::Listed(text) => {
                let deadline = Instant::now() + UNHURRIED;
                self.image.with_blocks(deadline, |image| text.resolve(image)).map(Some)
            }
        }
    }

    fn published_profile(&self) -> Result<Option<Profile>, FetchError> {
        self.origin.ask_located(|placement| {
            let Some(place) = placement.profile else { return Ok(None) };
            let path = layout::profile(place.id);
            if place.length > PROFILE_SIZE_MAX {
                return Err(FetchError::Corrupt { path });
            }
            let mut check = |bytes: &Bytes| match Profile::parse(bytes) {
                Ok(profile) if ProfileId::of(bytes) == place.id => Ok(profile),
                _ => Err(Refusal::wrong("it is not what its name says")),
            };
            self.origin.range(&path, 0..place.length, &mut check).map(Some)
        })
    }

    /// The way to what `profile` lists and is not here.
    pub fn course_of(&self, catalogue: &Arc<Catalogue>, profile: &Profile, purpose: Purpose) -> Course {
        let frames = profile.entries.iter().filter_map(|entry| frames_of(catalogue, entry)).flatten();
        Course::new(catalogue, purpose, frames.filter(|frame| !self.has_frame(catalogue, *frame)))
    }

    /// Has the names of all that `profile` lists fetched, in few requests. Waits for those that lead to others.
    pub fn ask_for_names_of(self: &Arc<Self>, catalogue: &Catalogue, profile: &Profile) -> Result<(), FetchError> {
        let known = |entry: &&ProfileEntry| catalogue.sizes().get(entry.object as usize).is_some();
        let entries: Vec<&ProfileEntry> = profile.entries.iter().filter(known).collect();
        self.image.ask_for_all(entries.iter().map(|entry| entry.object), |image, object| image.object_by_index(object));
        let blocks = entries.iter().flat_map(|entry| {
            let size = catalogue.sizes()[entry.object as usize];
            blocks_of(size, entry).map(|block| (entry.object, block))
        });
        // The table of large objects says where the names of their blocks are.
        if let Some((object, block)) = blocks.clone().next() {
            let deadline = Instant::now() + UNHURRIED;
            self.image.with_blocks(deadline, |image| image.block_of_object(object, block))?;
        }
        self.image.ask_for_all(blocks, |image, (object, block)| image.block_of_object(object, block));
        Ok(())
    }

    /// Waits for all names that were asked for.
    pub fn wait_for_names_of(self: &Arc<Self>, catalogue: &Catalogue, profile: &Profile) -> Result<(), FetchError> {
        let deadline = Instant::now() + UNHURRIED;
        for entry in &profile.entries {
            let Some(size) = catalogue.sizes().get(entry.object as usize) else { continue };
            self.image.with_blocks(deadline, |image| image.object_by_index(entry.object))?;
            for block in blocks_of(*size, entry) {
                self.image.with_blocks(deadline, |image| image.block_of_object(entry.object, block))?;
            }
        }
        Ok(())
    }
}

/// The blocks that an entry lists of a large object; none of a small one.
fn blocks_of(size: u64, entry: &ProfileEntry) -> std::ops::Range<u32> {
    if size <= LARGE_OBJECT {
        return 0..0;
    }
    let count = u32::try_from(size.div_ceil(BLOCK_SIZE)).unwrap_or(u32::MAX);
    let end = if entry.blocks == 0 { count } else { entry.first.saturating_add(entry.blocks).min(count) };
    entry.first.min(end)..end
}

/// The frames of an entry; none when the image or the locator has no such thing.
fn frames_of(catalogue: &Catalogue, entry: &ProfileEntry) -> Option<std::ops::Range<u32>> {
    let size = *catalogue.sizes().get(entry.object as usize)?;
    let blocks = blocks_of(size, entry);
    let (offset, length) = match (size > LARGE_OBJECT, blocks.is_empty()) {
        (false, _) => (0, size),
        (true, true) => return None,
        (true, false) => {
            let start = u64::from(blocks.start) * BLOCK_SIZE;
            (start, (u64::from(blocks.end) * BLOCK_SIZE).min(size).saturating_sub(start))
        }
    };
    catalogue.frames_of(entry.object, offset, length)
}
