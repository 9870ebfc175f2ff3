//! Reads what is published already: refs, commits, and the positions of the objects that are to be published.
//!
//! A file that cannot be parsed is treated as missing, and is published again.
//!
//! *Invariants*: memory does not grow with what is published, only with what is to be published: of a locator, only the
//! positions of wanted objects are kept.
//!
//! *Used by* `plan`, `apply` and `names`.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::error::PublishError;
use super::locations::ObjectLocations;
use super::request::{PublishRequest, read_history};
use crate::image::Image;
use crate::model::{CommitId, ImageId, ObjectId, RefName};
use crate::remote::format::wire::{IMAGE_SIZE_MAX, decode_image};
use crate::remote::format::{Locator, LocatorBound, Placement};
use crate::remote::layout;
use crate::remote::published::{self, PublishedError, PublishedRef};
use crate::remote::transport::Transport;
use crate::store::{ReadError, Store};
use crate::sys::Mapping;

/// The state of the destination.
#[derive(Default)]
pub(crate) struct Survey {
    pub(super) refs: BTreeMap<RefName, PublishedRef>,
    /// All published commits, of any ref.
    pub(super) commits: HashSet<CommitId>,
    /// The placements of the commits that were read.
    pub(super) placements: HashMap<CommitId, Placement>,
    /// The positions of those objects to be published that are in published packs.
    pub(super) locations: ObjectLocations,
}

/// Reads what is published: all refs, the list of commits, and the positions of the contents of `request`.
///
/// # Errors
/// [`PublishError::Published`] when the destination does not answer, or a ref of the request cannot be parsed.
pub(crate) fn survey(store: &Store, transport: &Transport, request: &PublishRequest) -> Result<Survey, PublishError> {
    let mut survey = Survey::default();
    survey.read_refs(transport, &request.names)?;
    survey.commits = published::list_commits(transport)?;
    let mut commits = Vec::new();
    for name in &request.names {
        for (id, _) in read_history(store, name, request.depth)? {
            commits.push(id);
            survey.read_placement(transport, id)?;
        }
    }
    let mut wanted = HashSet::new();
    for id in commits.iter().filter(|id| !survey.placements.contains_key(id)) {
        wanted.extend(list_objects(&store.image(store.commit(*id)?.image)?)?.map(|(id, _)| id));
    }
    // The published commits of the same refs have most of the wanted objects, so they are read first.
    let mut sources: Vec<CommitId> = request.names.iter().filter_map(|name| survey.newest_commit(name)).collect();
    sources.extend(&commits);
    sources.extend(survey.refs.keys().filter_map(|name| survey.newest_commit(name)));
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
    /// Returns whether the object is in a published pack.
    pub(crate) fn has_object(&self, id: &ObjectId) -> bool {
        self.locations.has_object(id)
    }

    /// Returns the commit that a ref names.
    fn newest_commit(&self, name: &RefName) -> Option<CommitId> {
        Some(self.refs.get(name)?.record.commit)
    }

    /// Reads every published ref. A damaged ref that is not part of the request is skipped.
    fn read_refs(&mut self, transport: &Transport, names: &[RefName]) -> Result<(), PublishError> {
        let mut all = published::list_refs(transport).map_err(PublishedError::from)?;
        all.extend(names.iter().filter(|name| !all.contains(name)).cloned().collect::<Vec<_>>());
        let read = published::map_in_parallel(&all, |name| published::read_ref(transport, name));
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

    /// Reads the placement of a commit, if it is published.
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

    /// Reads the positions of the `wanted` objects from the locator of a published commit. Nothing is learned from a
    /// commit whose image exists in neither repository, or whose locator is damaged.
    fn find_objects(
        &mut self,
        store: &Store,
        transport: &Transport,
        commit: CommitId,
        wanted: &mut HashSet<ObjectId>,
    ) -> Result<(), PublishError> {
        let Some(placement) = self.placements.get(&commit) else { return Ok(()) };
        let Some(image) = load_image(store, transport, commit, placement)? else { return Ok(()) };
        let path = layout::locator(placement.locator.id);
        let bound = LocatorBound::new(list_objects(&image)?.map(|(_, size)| size));
        let Some((bytes, _)) = transport.get(&path, bound.max_length()).map_err(PublishedError::from)? else {
            return Ok(());
        };
        match Locator::parse(&bytes, bound) {
            Ok(locator) => self.locations.take_from_locator(&locator, list_objects(&image)?, wanted),
            Err(error) => tracing::warn!("{path} is not used: {error}"),
        }
        Ok(())
    }
}

/// Returns the objects of an image with their sizes, in order.
pub(in crate::remote) fn list_objects(image: &Image) -> Result<impl Iterator<Item = (ObjectId, u64)>, PublishError> {
    let damaged = |source| PublishError::Image { id: image.id(), source };
    let all = image.objects_with_sizes().map_err(damaged)?.collect::<Result<Vec<_>, _>>().map_err(damaged)?;
    Ok(all.into_iter())
}

/// Returns the image of a published commit, from the local repository or else from the published one.
fn load_image(
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
    fetch_image(transport, id, placement)
}

/// Fetches a published image; `None` when it is missing or damaged.
pub(in crate::remote) fn fetch_image(
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
