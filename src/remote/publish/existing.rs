//! What is published already: refs, which commits, and where the objects are that are to be published.
//!
//! What cannot be read is treated as not there, and published again. Memory does not grow with what is published, only
//! with what is to be: of all that the locators there tell, what nobody asks for is forgotten at once.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::error::PublishError;
use super::places::Places;
use super::request::{PublishRequest, history};
use crate::image::Image;
use crate::model::{CommitId, ImageId, ObjectId, RefName};
use crate::remote::format::wire::{IMAGE_SIZE_MAX, decode_image};
use crate::remote::format::{Locator, LocatorBound, Placement};
use crate::remote::layout;
use crate::remote::published::{self, PublishedError, PublishedRef};
use crate::remote::transport::Transport;
use crate::store::{ReadError, Store};
use crate::sys::Mapping;

/// What is published.
#[derive(Default)]
pub struct Survey {
    pub(super) refs: BTreeMap<RefName, PublishedRef>,
    /// All commits that are published, of any ref.
    pub(super) commits: HashSet<CommitId>,
    /// Of those that were looked at.
    pub(super) placements: HashMap<CommitId, Placement>,
    /// Of the objects that are to be published, those that are there.
    pub(super) there: Places,
}

/// Reads what is published: all refs, which commits, and where the contents are of what `request` asks for.
///
/// # Errors
/// [`PublishError::Published`] when the destination does not answer, or a ref of the request cannot be understood.
pub fn survey(store: &Store, transport: &Transport, request: &PublishRequest) -> Result<Survey, PublishError> {
    let mut survey = Survey::default();
    survey.read_refs(transport, &request.names)?;
    survey.commits = published::commits(transport)?;
    let mut ours = Vec::new();
    for name in &request.names {
        for (id, _) in history(store, name, request.depth)? {
            ours.push(id);
            survey.read_placement(transport, id)?;
        }
    }
    let mut wanted = HashSet::new();
    for id in ours.iter().filter(|id| !survey.placements.contains_key(id)) {
        wanted.extend(objects(&store.image(store.commit(*id)?.image)?)?.map(|(id, _)| id));
    }
    // What was published of the same refs knows most of them.
    let mut sources: Vec<CommitId> = request.names.iter().filter_map(|name| survey.newest(name)).collect();
    sources.extend(&ours);
    sources.extend(survey.refs.keys().filter_map(|name| survey.newest(name)));
    let mut seen = HashSet::new();
    for id in sources.into_iter().filter(|id| seen.insert(*id)) {
        if wanted.is_empty() {
            break;
        }
        survey.find_objects(store, transport, id, &mut wanted)?;
    }
    Ok(survey)
}

impl Survey {
    /// Whether the object is in some pack.
    #[must_use]
    pub fn has(&self, id: &ObjectId) -> bool {
        self.there.has(id)
    }

    /// What a ref names.
    fn newest(&self, name: &RefName) -> Option<CommitId> {
        Some(self.refs.get(name)?.record.commit)
    }

    /// Reads every ref there is. One that nobody asks about and nobody can read is nobody's business.
    fn read_refs(&mut self, transport: &Transport, names: &[RefName]) -> Result<(), PublishError> {
        let mut all = published::ref_names(transport).map_err(PublishedError::from)?;
        all.extend(names.iter().filter(|name| !all.contains(name)).cloned().collect::<Vec<_>>());
        let read = published::at_once(&all, |name| published::read_ref(transport, name));
        for (name, found) in all.into_iter().zip(read) {
            let found = match found {
                Err(PublishedError::Damaged { path, reason }) if !names.contains(&name) => {
                    tracing::warn!("{path} is not used: {reason}");
                    continue;
                }
                other => other?,
            };
            if let Some(found) = found {
                self.placements.insert(found.record.commit, found.placement.clone());
                self.refs.insert(name, found);
            }
        }
        Ok(())
    }

    /// Learns the placement of a commit, if it is published.
    fn read_placement(&mut self, transport: &Transport, id: CommitId) -> Result<(), PublishError> {
        if self.placements.contains_key(&id) || !self.commits.contains(&id) {
            return Ok(());
        }
        match published::read_placement(transport, id) {
            Ok(found) => self.placements.extend(found.map(|placement| (id, placement))),
            Err(PublishedError::Damaged { path, reason }) => {
                tracing::warn!("{path} is written again: {reason}");
                self.commits.remove(&id);
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Learns where the objects of a published commit are that are `wanted`. A commit whose image is neither here nor there
    /// teaches nothing, nor does one whose locator is not what it should be.
    fn find_objects(
        &mut self,
        store: &Store,
        transport: &Transport,
        commit: CommitId,
        wanted: &mut HashSet<ObjectId>,
    ) -> Result<(), PublishError> {
        let Some(placement) = self.placements.get(&commit) else { return Ok(()) };
        let Some(image) = image_of(store, transport, commit, placement)? else { return Ok(()) };
        let path = layout::locator(placement.locator.id);
        let bound = LocatorBound::new(objects(&image)?.map(|(_, size)| size));
        let Some((bytes, _)) = transport.get(&path, bound.length()).map_err(PublishedError::from)? else {
            return Ok(());
        };
        match Locator::parse(&bytes, bound) {
            Ok(locator) => self.there.learn(&locator, objects(&image)?, wanted),
            Err(error) => tracing::warn!("{path} is not used: {error}"),
        }
        Ok(())
    }
}

/// The objects of an image with their sizes, in order.
pub(in crate::remote) fn objects(image: &Image) -> Result<impl Iterator<Item = (ObjectId, u64)>, PublishError> {
    let damaged = |source| PublishError::Image { id: image.id(), source };
    let all = image.objects_with_sizes().map_err(damaged)?.collect::<Result<Vec<_>, _>>().map_err(damaged)?;
    Ok(all.into_iter())
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
        Err(ReadError::MissingCommit { .. }) => match published::read_commit(transport, commit)? {
            Some(record) => record.image,
            None => return Ok(None),
        },
        Err(error) => return Err(error.into()),
    };
    match store.image(id) {
        Ok(image) => return Ok(Some(image)),
        Err(ReadError::MissingImage { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    published_image(transport, id, placement)
}

/// A published image; `None` when it is not there or cannot be used.
pub(in crate::remote) fn published_image(
    transport: &Transport,
    id: ImageId,
    placement: &Placement,
) -> Result<Option<Image>, PublishError> {
    let path = layout::image(id);
    let limit = placement.image.length.min(IMAGE_SIZE_MAX);
    let Some((bytes, _)) = transport.get(&path, limit).map_err(PublishedError::from)? else { return Ok(None) };
    match decode_image(&bytes, id) {
        Ok(bytes) => {
            let image = Image::open(Mapping::of_bytes(bytes));
            Ok(Some(image.map_err(|source| PublishError::Image { id, source })?))
        }
        Err(error) => {
            tracing::warn!("{path} is not used: {error}");
            Ok(None)
        }
    }
}
