//! Loads a profile, published or given by the user, and turns it into metadata requests and a bulk fetch.
//!
//! A profile is a hint: entries that the image does not have are skipped.
//!
//! *Used by* `background` and `prefetch`.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::cache::fetch::bulk::{BulkFetch, BulkPurpose};
use crate::cache::fetch::catalogue::Catalogue;
use crate::cache::fetch::error::LazyFetchError;
use crate::cache::objects::object_cache::{METADATA_TIMEOUT, ObjectCache};
use crate::model::{BLOCK_SIZE, LARGE_OBJECT, ProfileId};
use crate::remote::format::{PROFILE_SIZE_MAX, Profile, ProfileEntry, ProfileText};
use crate::remote::layout;
use crate::remote::transport::Rejection;

/// The choice of a profile.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum ProfileChoice {
    None,
    /// The profile that was published with the commit, as soon as some content is read.
    #[default]
    WhenReading,
    /// The published profile, at once.
    Published,
    /// This profile.
    Listed(ProfileText),
}

impl ObjectCache {
    /// Returns the chosen profile for this image; `None` when none was chosen or published.
    pub(crate) fn load_profile(self: &Arc<Self>, choice: &ProfileChoice) -> Result<Option<Profile>, LazyFetchError> {
        match choice {
            ProfileChoice::None => Ok(None),
            ProfileChoice::WhenReading | ProfileChoice::Published => self.published_profile(),
            ProfileChoice::Listed(text) => {
                let deadline = Instant::now() + METADATA_TIMEOUT;
                self.image.with_blocks(deadline, |image| text.resolve(image)).map(Some)
            }
        }
    }

    fn published_profile(&self) -> Result<Option<Profile>, LazyFetchError> {
        self.remote.with_placement(|placement| {
            let Some(place) = placement.profile else { return Ok(None) };
            let path = layout::profile(place.id);
            if place.length > PROFILE_SIZE_MAX {
                return Err(LazyFetchError::Corrupt { path });
            }
            let mut check = |bytes: &Bytes| match Profile::parse(bytes) {
                Ok(profile) if ProfileId::of(bytes) == place.id => Ok(profile),
                _ => Err(Rejection::wrong("it is not what its name says")),
            };
            self.remote.fetch_range(&path, 0..place.length, &mut check).map(Some)
        })
    }

    /// Plans to fetch what `profile` lists and is missing.
    pub(crate) fn plan_profile_fetch(
        &self,
        catalogue: &Arc<Catalogue>,
        profile: &Profile,
        purpose: BulkPurpose,
    ) -> BulkFetch {
        let frames = profile.entries.iter().filter_map(|entry| entry_frames(catalogue, entry)).flatten();
        BulkFetch::new(catalogue, purpose, frames.filter(|frame| !self.has_frame(catalogue, *frame)))
    }

    /// Starts to fetch the ids and digests of everything that `profile` lists, in few requests. Waits only for the table of
    /// large objects, which says where the digests of their blocks are.
    pub(crate) fn start_profile_metadata_fetch(
        self: &Arc<Self>,
        catalogue: &Catalogue,
        profile: &Profile,
    ) -> Result<(), LazyFetchError> {
        let known = |entry: &&ProfileEntry| catalogue.sizes().get(entry.object as usize).is_some();
        let entries: Vec<&ProfileEntry> = profile.entries.iter().filter(known).collect();
        self.image.start_fetch_for_all(entries.iter().map(|entry| entry.object), |image, object| {
            image.object_by_index(object)
        });
        let blocks = entries.iter().flat_map(|entry| {
            let size = catalogue.sizes()[entry.object as usize];
            entry_blocks(size, entry).map(|block| (entry.object, block))
        });
        // The table of large objects says where the digests of their blocks are.
        if let Some((object, block)) = blocks.clone().next() {
            let deadline = Instant::now() + METADATA_TIMEOUT;
            self.image.with_blocks(deadline, |image| image.block_of_object(object, block))?;
        }
        self.image.start_fetch_for_all(blocks, |image, (object, block)| image.block_of_object(object, block));
        Ok(())
    }

    /// Waits until the ids and digests of everything that `profile` lists are stored.
    pub(crate) fn wait_for_profile_metadata(
        self: &Arc<Self>,
        catalogue: &Catalogue,
        profile: &Profile,
    ) -> Result<(), LazyFetchError> {
        let deadline = Instant::now() + METADATA_TIMEOUT;
        for entry in &profile.entries {
            let Some(size) = catalogue.sizes().get(entry.object as usize) else { continue };
            self.image.with_blocks(deadline, |image| image.object_by_index(entry.object))?;
            for block in entry_blocks(*size, entry) {
                self.image.with_blocks(deadline, |image| image.block_of_object(entry.object, block))?;
            }
        }
        Ok(())
    }
}

/// Returns the blocks of a large object that an entry lists; an empty range for a small object.
fn entry_blocks(size: u64, entry: &ProfileEntry) -> std::ops::Range<u32> {
    if size <= LARGE_OBJECT {
        return 0..0;
    }
    let count = u32::try_from(size.div_ceil(BLOCK_SIZE)).unwrap_or(u32::MAX);
    let end = if entry.blocks == 0 { count } else { entry.first.saturating_add(entry.blocks).min(count) };
    entry.first.min(end)..end
}

/// Returns the frames of an entry; `None` when the image or the locator does not have them.
fn entry_frames(catalogue: &Catalogue, entry: &ProfileEntry) -> Option<std::ops::Range<u32>> {
    let size = *catalogue.sizes().get(entry.object as usize)?;
    let blocks = entry_blocks(size, entry);
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
