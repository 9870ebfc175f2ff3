//! What is published already: refs, placements, and where each object is.
//!
//! A publisher believes its destination as far as placement goes: whoever can write there can spoil it anyway, and clients
//! check everything. What cannot be read is treated as not there, and published again under other names.

use std::collections::{BTreeMap, HashMap};

use super::error::PublishError;
use crate::image::Image;
use crate::model::{CommitId, ImageId, ObjectId, RefName};
use crate::remote::format::wire::{IMAGE_SIZE_MAX, decode_image};
use crate::remote::format::{Frame, Locator, LocatorBound, PLACEMENT_SIZE_MAX, PackRef, Placement};
use crate::remote::layout;
use crate::remote::transport::{Transport, TransportError, Version};
use crate::store::{ReadError, Store};
use crate::sys::Mapping;
use crate::trust::{Envelope, PublicKey, RefRecord};

/// Largest ref file in bytes.
const REF_SIZE_MAX: u64 = 1 << 20;

/// A ref as it is published.
#[derive(Debug, Clone)]
pub struct PublishedRef {
    /// What it says.
    pub record: RefRecord,
    /// Its signed part, as it is.
    pub envelope: Envelope,
    /// The placement of its commit.
    pub placement: Placement,
    /// The version of the file, for replacing it.
    pub version: Version,
}

impl PublishedRef {
    /// Whether all of these have signed it.
    pub(super) fn is_signed_by(&self, keys: &[PublicKey]) -> bool {
        let signers: Vec<PublicKey> = self.envelope.claimed_signers().collect();
        keys.iter().all(|key| signers.contains(key))
    }
}

/// What is published.
#[derive(Default)]
pub struct Survey {
    pub(super) refs: BTreeMap<RefName, PublishedRef>,
    pub(super) placements: HashMap<CommitId, Placement>,
    locators: Vec<Locator>,
    /// Locator and index there of each object.
    objects: HashMap<ObjectId, (u32, u32)>,
}

/// The frames of a published object.
pub(super) struct PublishedObject<'a> {
    pub packs: &'a [PackRef],
    pub frames: &'a [Frame],
    pub offset: u32,
}

impl Survey {
    /// Whether the object is in some pack.
    #[must_use]
    pub fn has(&self, id: &ObjectId) -> bool {
        self.objects.contains_key(id)
    }

    /// Where an object of `frames` frames is.
    pub(super) fn find(&self, id: &ObjectId, frames: usize) -> Option<PublishedObject<'_>> {
        let (locator, object) = *self.objects.get(id)?;
        let locator = &self.locators[locator as usize];
        let spot = locator.object(object)?;
        let first = spot.frame as usize;
        let frames = locator.frames().get(first..first.checked_add(frames)?)?;
        Some(PublishedObject { packs: locator.packs(), frames, offset: spot.offset })
    }
}

/// Reads what is published: the refs `names` with `depth` ancestors as they are known here, and all others if the
/// destination can be listed.
///
/// # Errors
/// [`PublishError::Transport`] when the destination does not answer, [`PublishError::Damaged`] for a ref of `names` that
/// cannot be understood.
pub fn survey(store: &Store, transport: &Transport, names: &[RefName], depth: u64) -> Result<Survey, PublishError> {
    let mut survey = Survey::default();
    let others = match transport.list(layout::REFS) {
        Ok(listed) => listed,
        Err(TransportError::CannotList { .. }) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let prefix = format!("{}/", layout::REFS);
    let others = others.iter().filter_map(|listed| listed.path.strip_prefix(&prefix)?.parse::<RefName>().ok());
    let mut all: Vec<RefName> = names.iter().cloned().chain(others.filter(|other| !names.contains(other))).collect();
    all.dedup();
    for name in all {
        let found = match read_ref(transport, &name) {
            Err(PublishError::Damaged { path, reason }) if !names.contains(&name) => {
                tracing::warn!("{path} is not used: {reason}");
                continue;
            }
            other => other?,
        };
        if let Some(found) = found {
            survey.placements.insert(found.record.commit, found.placement.clone());
            survey.refs.insert(name, found);
        }
    }
    for name in names {
        for id in ancestors(store, name, depth)? {
            survey.read_placement(transport, id)?;
        }
    }
    let all: Vec<(CommitId, Placement)> = survey.placements.iter().map(|(id, it)| (*id, it.clone())).collect();
    for (id, placement) in all {
        survey.add_objects(store, transport, id, &placement)?;
    }
    Ok(survey)
}

/// The commits that may be published, as far as they are here.
fn ancestors(store: &Store, name: &RefName, depth: u64) -> Result<Vec<CommitId>, PublishError> {
    let mut ids = Vec::new();
    let mut next = store.read_ref(name)?;
    while let Some(id) = next.filter(|_| ids.len() as u64 <= depth) {
        ids.push(id);
        next = match store.commit(id) {
            Ok(commit) => commit.parent,
            Err(ReadError::MissingCommit { .. }) => None,
            Err(error) => return Err(error.into()),
        };
    }
    Ok(ids)
}

/// A ref as it is published now, if it is.
pub(super) fn read_ref(transport: &Transport, name: &RefName) -> Result<Option<PublishedRef>, PublishError> {
    let path = layout::reference(name);
    let Some((bytes, version)) = transport.get(&path, REF_SIZE_MAX)? else { return Ok(None) };
    let damaged = |error: &dyn std::fmt::Display| PublishError::damaged(path.clone(), error);
    let (envelope, rest) = Envelope::parse(&bytes).map_err(|error| damaged(&error))?;
    let record = RefRecord::parse(envelope.payload()).map_err(|error| damaged(&error))?;
    let placement = Placement::parse(rest).map_err(|error| damaged(&error))?;
    Ok(Some(PublishedRef { record, envelope, placement, version }))
}

impl Survey {
    /// Learns the placement of a commit, if it is published.
    fn read_placement(&mut self, transport: &Transport, id: CommitId) -> Result<(), PublishError> {
        if self.placements.contains_key(&id) {
            return Ok(());
        }
        let path = layout::placement(id);
        if let Some((bytes, _)) = transport.get(&path, PLACEMENT_SIZE_MAX as u64)? {
            let placement = Placement::parse(&bytes).map_err(|error| PublishError::damaged(path, error))?;
            self.placements.insert(id, placement);
        }
        Ok(())
    }

    /// Learns where the objects of a published commit are. A commit whose image is neither here nor there teaches
    /// nothing.
    pub(super) fn add_objects(
        &mut self,
        store: &Store,
        transport: &Transport,
        commit: CommitId,
        placement: &Placement,
    ) -> Result<(), PublishError> {
        let Some(image) = image_of(store, transport, commit, placement)? else { return Ok(()) };
        let path = layout::locator(placement.locator.id);
        let damaged = |source| PublishError::Image { id: image.id(), source };
        let bound = LocatorBound::new(image.object_sizes().map_err(damaged)?);
        let Some((bytes, _)) = transport.get(&path, bound.length())? else { return Ok(()) };
        let locator = Locator::parse(&bytes, bound).map_err(|error| PublishError::damaged(path, error))?;
        let number = u32::try_from(self.locators.len()).expect("one a ref");
        for (index, id) in image.objects().map_err(damaged)?.enumerate() {
            let Ok(index) = u32::try_from(index) else { break };
            if locator.object(index).is_some() {
                self.objects.entry(id).or_insert((number, index));
            }
        }
        self.locators.push(locator);
        Ok(())
    }
}

/// The image of a published commit, from here or else from there.
fn image_of(
    store: &Store,
    transport: &Transport,
    commit: CommitId,
    placement: &Placement,
) -> Result<Option<Image>, PublishError> {
    let id = match store.commit(commit) {
        Ok(record) => record.image,
        Err(ReadError::MissingCommit { .. }) => match commit_image(transport, commit)? {
            Some(id) => id,
            None => return Ok(None),
        },
        Err(error) => return Err(error.into()),
    };
    match store.image(id) {
        Ok(image) => return Ok(Some(image)),
        Err(ReadError::MissingImage { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let path = layout::image(id);
    let Some((published, _)) = transport.get(&path, placement.image.length.min(IMAGE_SIZE_MAX))? else {
        return Ok(None);
    };
    let bytes = decode_image(&published, id).map_err(|error| PublishError::damaged(path, error))?;
    let image = Image::open(Mapping::of_bytes(bytes)).map_err(|source| PublishError::Image { id, source })?;
    Ok(Some(image))
}

fn commit_image(transport: &Transport, id: CommitId) -> Result<Option<ImageId>, PublishError> {
    let path = layout::commit(id);
    let Some((bytes, _)) = transport.get(&path, crate::trust::ENVELOPE_SIZE_MAX as u64)? else { return Ok(None) };
    let (envelope, _) = Envelope::parse(&bytes).map_err(|error| PublishError::damaged(path.clone(), error))?;
    let commit = crate::model::Commit::decode(envelope.payload(), id);
    Ok(Some(commit.map_err(|error| PublishError::damaged(path, error))?.image))
}
