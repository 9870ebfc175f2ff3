//! The inventory of a published repository: the existing files, and which of them are needed.
//!
//! *Not here*: decisions (`plan`).
//!
//! *Invariants*: files are listed before refs are read, so a file that is published meanwhile is needed but not listed,
//! never the other way round.
//!
//! *Used by* `apply`, `regroup`, `repack` and `plan`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::SystemTime;

use super::Keep;
use super::error::PruneError;
use crate::model::{Commit, CommitId, LocatorId, PackId, RefName};
use crate::remote::format::{FileRef, PackFrame, PackRef, Placement};
use crate::remote::layout;
use crate::remote::published::{self, PublishedRef};
use crate::remote::transport::Transport;

/// Number of locators in memory at a time: some MiB each.
const LOCATORS_AT_ONCE: usize = 8;

/// A commit that is kept.
#[derive(Debug, Clone)]
pub(super) struct KeptCommit {
    pub(crate) commit: Commit,
    /// The placement in the ref that names the commit, if there is one.
    pub(crate) named: Option<Placement>,
    /// The placement in the commit's own file, corrected if it is outdated.
    pub(crate) own: Option<Placement>,
    /// Whether the commit's own file is outdated: a prune was killed after it had written the ref.
    pub(crate) is_behind: bool,
}

impl KeptCommit {
    /// Returns both placements.
    pub(super) fn placements(&self) -> impl Iterator<Item = &Placement> {
        self.named.iter().chain(&self.own)
    }
}

/// The published files and refs at a URL.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    pub(crate) refs: BTreeMap<RefName, PublishedRef>,
    pub(crate) commits: BTreeMap<CommitId, KeptCommit>,
    /// The files that may be removed, with their lengths.
    pub(crate) files: BTreeMap<String, u64>,
    /// The marked files, with the times of their marks.
    pub(crate) marks: BTreeMap<String, SystemTime>,
}

/// An index of what was read: commits and locators, which never change, and the needed frames of packs.
#[derive(Debug, Default)]
pub(super) struct PruneIndex {
    commits: HashMap<CommitId, Commit>,
    pub(crate) packs_of: HashMap<LocatorId, Vec<PackRef>>,
    /// The needed frames of each pack, as of the first reading.
    pub(crate) live: BTreeMap<PackId, PackUse>,
    /// The packs of newest commits, which are regrouped and not merged by [`super::plan::packs_to_copy`].
    pub(crate) of_newest: BTreeSet<PackId>,
    /// Locators that a plan replaces.
    pub(crate) replaced: BTreeSet<LocatorId>,
}

/// The needed part of a pack.
#[derive(Debug, Clone)]
pub(super) struct PackUse {
    /// Number of the pack in the order in which packs are first referenced: neighbours of one commit stay together.
    pub(crate) order: usize,
    /// Length of the pack in bytes.
    pub(crate) length: u64,
    /// Compressed and decompressed length of each needed frame, by offset.
    pub(crate) frames: BTreeMap<u32, (u32, u32)>,
}

impl PruneIndex {
    /// Adds the locator of a newest commit.
    pub(super) fn add_newest_locator(&mut self, id: LocatorId, frames: impl Iterator<Item = (PackRef, PackFrame)>) {
        self.add_locator(id, frames);
        self.of_newest.extend(self.packs_of.get(&id).into_iter().flatten().map(|pack| pack.id));
    }

    /// Adds a locator: its packs and frames are needed.
    pub(super) fn add_locator(&mut self, id: LocatorId, frames: impl Iterator<Item = (PackRef, PackFrame)>) {
        let mut packs: BTreeMap<PackId, PackRef> = BTreeMap::new();
        for (pack, frame) in frames {
            packs.insert(pack.id, pack);
            let order = self.live.len();
            let new = || PackUse { order, length: pack.length, frames: BTreeMap::new() };
            let used = self.live.entry(pack.id).or_insert_with(new);
            used.frames.insert(frame.offset, (frame.length, frame.raw_length));
        }
        self.packs_of.insert(id, packs.into_values().collect());
    }
}

impl Inventory {
    /// Reads everything.
    pub(super) fn read(transport: &Transport, keep: Keep, known: &mut PruneIndex) -> Result<Self, PruneError> {
        let inventory = Self::read_names(transport, keep, known)?;
        inventory.read_locators(transport, known)?;
        Ok(inventory)
    }

    /// Reads everything but the locators.
    pub(super) fn read_names(transport: &Transport, keep: Keep, known: &mut PruneIndex) -> Result<Self, PruneError> {
        let mut inventory = Self::default();
        for directory in layout::REMOVABLE {
            let listed = transport.list(directory)?.into_iter();
            let listed = listed.filter(|listed| layout::is_removable(&listed.path));
            inventory.files.extend(listed.map(|listed| (listed.path, listed.length)));
        }
        for listed in transport.list(layout::SUPERSEDED)? {
            let path = listed.path.strip_prefix(layout::SUPERSEDED).and_then(|path| path.strip_prefix('/'));
            if let Some(path) = path.filter(|path| layout::is_removable(path)) {
                inventory.marks.insert(path.to_owned(), listed.modified);
            }
        }
        // Refs are read after the files are listed: what is published meanwhile is needed and not listed, never the
        // other way round.
        inventory.read_refs(transport, keep, known)?;
        Ok(inventory)
    }

    fn read_refs(&mut self, transport: &Transport, keep: Keep, known: &mut PruneIndex) -> Result<(), PruneError> {
        let names = published::list_refs(transport)?;
        let seen = &known.commits;
        let histories = published::map_in_parallel(&names, |name| {
            let Some(reference) = published::read_ref(transport, name)? else { return Ok(None) };
            let history = self.read_history(transport, name, &reference, keep, seen)?;
            Ok::<_, PruneError>(Some((reference, history)))
        });
        for (name, found) in names.into_iter().zip(histories) {
            let Some((reference, history)) = found? else { continue };
            for (id, kept) in history {
                known.commits.insert(id, kept.commit.clone());
                let entry = self.commits.entry(id).or_insert_with(|| kept.clone());
                entry.named = entry.named.take().or(kept.named);
            }
            self.refs.insert(name, reference);
        }
        Ok(())
    }

    /// Returns the kept commits of a ref, newest first. The history ends where a commit is missing.
    fn read_history(
        &self,
        transport: &Transport,
        name: &RefName,
        reference: &PublishedRef,
        keep: Keep,
        seen: &HashMap<CommitId, Commit>,
    ) -> Result<Vec<(CommitId, KeptCommit)>, PruneError> {
        let mut history: Vec<(CommitId, KeptCommit)> = Vec::new();
        let mut next = Some(reference.record.commit);
        while let Some(id) = next {
            let number = history.len() as u64;
            let commit = match seen.get(&id) {
                Some(commit) => Some(commit.clone()),
                None if number > 0 && !self.files.contains_key(&layout::commit(id)) => None,
                None => published::read_commit(transport, id)?,
            };
            let Some(commit) = commit.filter(|commit| keep.keeps(number, commit.timestamp)) else { break };
            let named = (number == 0).then(|| reference.placement.clone());
            let is_there = self.files.contains_key(&layout::placement(id));
            let own = if is_there { published::read_placement(transport, id)? } else { None };
            next = commit.parent;
            let is_behind = named.as_ref().zip(own.as_ref()).is_some_and(|(named, own)| named.locator != own.locator);
            let own = if is_behind { named.clone() } else { own };
            history.push((id, KeptCommit { commit, named, own, is_behind }));
        }
        if history.is_empty() {
            return Err(PruneError::NoCommit { name: name.clone(), commit: reference.record.commit });
        }
        Ok(history)
    }

    /// Reads the locators that are not in the index yet.
    pub(super) fn read_locators(&self, transport: &Transport, known: &mut PruneIndex) -> Result<(), PruneError> {
        let placed = self.commits.values().flat_map(|kept| kept.placements().map(move |it| (&kept.commit, it)));
        let mut seen = BTreeSet::new();
        let new: Vec<(&Commit, &Placement)> = placed
            .filter(|(_, placement)| !known.packs_of.contains_key(&placement.locator.id))
            .filter(|(_, placement)| seen.insert(placement.locator.id))
            .collect();
        for some in new.chunks(LOCATORS_AT_ONCE) {
            let read = published::map_in_parallel(some, |(commit, placement)| {
                published::read_locator(transport, commit, placement)
            });
            for ((_, placement), locator) in some.iter().zip(read) {
                let locator = locator?;
                let packs = locator.packs();
                let frames = locator.frames().iter().map(|frame| (packs[frame.pack as usize], *frame));
                known.add_locator(placement.locator.id, frames);
            }
        }
        Ok(())
    }

    /// Replaces locators in all placements, by the ids of the replaced ones.
    pub(super) fn replace_locators(&mut self, locators: &HashMap<LocatorId, FileRef<LocatorId>>) {
        let named = self.refs.values_mut().map(|reference| &mut reference.placement);
        let kept = self.commits.values_mut().flat_map(|kept| kept.named.iter_mut().chain(&mut kept.own));
        for placement in named.chain(kept) {
            if let Some(locator) = locators.get(&placement.locator.id) {
                placement.locator = *locator;
            }
        }
    }

    /// Returns the paths of all needed files.
    pub(super) fn needed_files(&self, known: &PruneIndex) -> BTreeSet<String> {
        let mut needed = BTreeSet::new();
        for (id, kept) in &self.commits {
            needed.extend([layout::commit(*id), layout::placement(*id)]);
            for placement in kept.placements() {
                needed.insert(layout::image(kept.commit.image));
                if !known.replaced.contains(&placement.locator.id) {
                    needed.insert(layout::locator(placement.locator.id));
                }
                needed.extend(placement.profile.map(|profile| layout::profile(profile.id)));
                needed.extend(placement.deltas.iter().map(|delta| layout::delta(delta.id)));
                let packs = known.packs_of.get(&placement.locator.id).into_iter().flatten();
                needed.extend(packs.map(|pack| layout::pack(pack.id)));
            }
        }
        needed
    }
}
