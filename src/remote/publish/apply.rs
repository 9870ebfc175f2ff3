//! Carrying out a plan: packs, locators, images, profiles, commits, placements, and refs last.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;

use super::deltas::make_deltas;
use super::error::PublishError;
use super::existing::Survey;
use super::options::PublishOptions;
use super::packs::{NewPacks, pack_and_upload};
use super::plan::{CommitPlan, PublishPlan, frame_count};
use super::refs;
use crate::image::Image;
use crate::model::{CommitId, LocatorId, ObjectId, PackId, ProfileId};
use crate::remote::format::wire::encode_image;
use crate::remote::format::{FileRef, Frame, ImageRef, LocatorBuilder, PackRef, Placement, Spot};
use crate::remote::layout;
use crate::remote::transport::{Traffic, Transport};
use crate::store::{Hold, Store};

/// A commit that is published now.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Published {
    /// Which.
    pub commit: CommitId,
    /// Objects packed for it.
    pub new_objects: usize,
    /// Bytes of the published image.
    pub image_bytes: u64,
}

/// What was done.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct PublishReport {
    /// Commits, older ones before newer ones.
    pub commits: Vec<Published>,
    /// Packs made.
    pub packs: usize,
    /// Bytes of those.
    pub pack_bytes: u64,
    /// Bytes of content in them.
    pub content_bytes: u64,
    /// Bytes of the deltas that lead to the commits.
    pub delta_bytes: u64,
    /// What went over the line.
    pub traffic: Traffic,
}

/// The level for what is small and read by everybody: images and locators. A second for a Debian root.
const METADATA_LEVEL: i32 = 19;

/// Carries out `plan`. `progress` counts bytes of content up to [`PublishPlan::raw_bytes`].
///
/// # Errors
/// [`PublishError`]; no ref that was not reported changed, and running again goes on where this stopped.
pub fn apply(
    store: &Store,
    transport: &Transport,
    survey: &Survey,
    plan: &PublishPlan,
    options: &PublishOptions,
    progress: &AtomicU64,
) -> Result<PublishReport, PublishError> {
    // A collection must not take what is being read.
    let _hold: Option<Hold> = store.hold(crate::disk::Wait::Announced(&|_| {})).ok();
    let objects: Vec<(ObjectId, u64)> = plan.commits.iter().flat_map(|commit| &commit.objects).copied().collect();
    let new = pack_and_upload(store, transport, &objects, options, progress)?;
    let mut report = PublishReport {
        packs: new.packs.len(),
        pack_bytes: new.packs.iter().map(|pack| pack.length).sum(),
        content_bytes: plan.raw_bytes(),
        ..PublishReport::default()
    };
    let mut placements = HashMap::new();
    for commit in &plan.commits {
        let mut placement = place(store, transport, survey, &new, commit, options)?;
        placement.deltas = make_deltas(store, transport, survey, commit, options, progress)?;
        report.delta_bytes += placement.deltas.iter().map(|delta| delta.length).sum::<u64>();
        refs::put_commit(transport, commit, &options.signers)?;
        refs::put_placement(transport, commit.id, &placement)?;
        let (commit, new_objects) = (commit.id, commit.objects.len());
        report.commits.push(Published { commit, new_objects, image_bytes: placement.image.length });
        placements.insert(commit, placement);
    }
    refs::put_announcements(transport, &options.announcements)?;
    for name in &plan.refs {
        let commit = plan.commits.iter().find(|commit| commit.id == name.commit).map(|commit| &commit.commit);
        if let (Some(commit), Some(placement)) = (commit, placements.get(&name.commit)) {
            refs::put_ref(transport, survey, name, (commit, placement), &options.signers, options.now)?;
        }
    }
    report.traffic = transport.counters().traffic();
    Ok(report)
}

/// Uploads the image, the locator and the profile of a commit, and says where they are.
fn place(
    store: &Store,
    transport: &Transport,
    survey: &Survey,
    new: &NewPacks,
    plan: &CommitPlan,
    options: &PublishOptions,
) -> Result<Placement, PublishError> {
    let id = plan.commit.image;
    let image = store.image(id)?;
    let wire = encode_image(image.as_bytes(), METADATA_LEVEL).map_err(|source| PublishError::Wire { id, source })?;
    let image_ref = ImageRef { length: wire.bytes.len() as u64, prefix: wire.prefix };
    refs::put_immutable(transport, &layout::image(id), wire.bytes)?;
    let bytes = locator(&image, survey, new)?;
    let locator = FileRef { id: LocatorId::of(&bytes), length: bytes.len() as u64 };
    refs::put_immutable(transport, &layout::locator(locator.id), bytes)?;
    let mut placement = Placement::new(image_ref, locator);
    if let Some(profile) = &options.profile {
        let damaged = |source| PublishError::Image { id, source };
        let bytes = profile.resolve(&image).map_err(damaged)?.encode()?;
        let profile = FileRef { id: ProfileId::of(&bytes), length: bytes.len() as u64 };
        refs::put_immutable(transport, &layout::profile(profile.id), bytes)?;
        placement.profile = Some(profile);
    }
    Ok(placement)
}

/// Says for every object of the image where it is: in a pack made now, or in one that was there.
fn locator(image: &Image, survey: &Survey, new: &NewPacks) -> Result<Vec<u8>, PublishError> {
    let damaged = |source| PublishError::Image { id: image.id(), source };
    let mut placed = Placed::default();
    for object in image.objects_with_sizes().map_err(damaged)? {
        let (id, size) = object.map_err(damaged)?;
        let count = frame_count(size);
        if let Some((first, offset)) = new.objects.get(&id) {
            let frames = &new.frames[*first as usize..][..count];
            placed.add(&new.packs, frames, *offset);
        } else if let Some(there) = survey.find(&id, count) {
            placed.add(there.packs, there.frames, there.offset);
        } else {
            // Planned as published, and gone since the survey.
            return Err(PublishError::damaged(layout::REFS.to_owned(), format_args!("object {id} is in no pack")));
        }
    }
    Ok(placed.builder.finish()?)
}

/// The locator that is being filled.
#[derive(Default)]
struct Placed {
    builder: LocatorBuilder,
    packs: HashMap<PackId, u32>,
    frames: HashMap<(u32, u32), u32>,
}

impl Placed {
    /// Adds the next object, which begins at `offset` of the first of `frames`.
    fn add(&mut self, packs: &[PackRef], frames: &[Frame], offset: u32) {
        let mut first = None;
        for frame in frames {
            let PackRef { id, length } = packs[frame.pack as usize];
            let builder = &mut self.builder;
            let pack = *self.packs.entry(id).or_insert_with(|| builder.pack(id, length));
            let here = Frame { pack, ..*frame };
            // Frames of a large object follow each other and belong to nobody else; shared ones are added once.
            let number = *self.frames.entry((pack, frame.offset)).or_insert_with(|| builder.frame(here));
            first.get_or_insert(number);
        }
        self.builder.object(Spot { frame: first.unwrap_or_default(), offset });
    }
}
