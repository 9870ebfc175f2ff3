//! What there is and what of it is needed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::SystemTime;

use super::Keep;
use super::error::PruneError;
use crate::model::{Commit, CommitId, LocatorId, PackId, RefName};
use crate::remote::format::{FileRef, Frame, PackRef, Placement};
use crate::remote::layout;
use crate::remote::published::{self, PublishedRef};
use crate::remote::transport::Transport;

/// Locators that are in memory at once: some MiB each.
const LOCATORS_AT_ONCE: usize = 8;

/// A commit that is kept.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub commit: Commit,
    /// Where its parts are, as the ref says that names it.
    pub named: Option<Placement>,
    /// The same as its own file says, or should say.
    pub own: Option<Placement>,
    /// Whether its file says something else: a prune was killed after it had written the ref.
    pub is_behind: bool,
}

impl Kept {
    /// Both.
    pub(super) fn placements(&self) -> impl Iterator<Item = &Placement> {
        self.named.iter().chain(&self.own)
    }
}

/// What is at a URL.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    pub refs: BTreeMap<RefName, PublishedRef>,
    pub commits: BTreeMap<CommitId, Kept>,
    /// The files that may be removed, with their lengths.
    pub files: BTreeMap<String, u64>,
    /// Files that nothing needed when this was written.
    pub marks: BTreeMap<String, SystemTime>,
}

/// What is learned once and never changes, and what lives.
#[derive(Debug, Default)]
pub(super) struct Known {
    commits: HashMap<CommitId, Commit>,
    pub packs_of: HashMap<LocatorId, Vec<PackRef>>,
    /// By pack. As of the first look.
    pub live: BTreeMap<PackId, PackUse>,
    /// The packs of newest commits, which are regrouped and not put together by [`super::plan::packs_to_copy`].
    pub of_newest: BTreeSet<PackId>,
    /// Locators whose place another takes, when that is only planned.
    pub replaced: BTreeSet<LocatorId>,
}

/// What of a pack is needed.
#[derive(Debug, Clone)]
pub(super) struct PackUse {
    /// In which order the packs are named first: neighbours of one commit stay together.
    pub order: usize,
    /// Bytes of the pack.
    pub length: u64,
    /// By offset: length and length when unpacked.
    pub frames: BTreeMap<u32, (u32, u32)>,
}

impl Known {
    /// Notes what the locator of a newest commit leads to.
    pub(super) fn learn_newest(&mut self, id: LocatorId, frames: impl Iterator<Item = (PackRef, Frame)>) {
        self.learn(id, frames);
        self.of_newest.extend(self.packs_of.get(&id).into_iter().flatten().map(|pack| pack.id));
    }

    /// Notes what a locator leads to.
    pub(super) fn learn(&mut self, id: LocatorId, frames: impl Iterator<Item = (PackRef, Frame)>) {
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
    /// Looks at everything.
    pub(super) fn read(transport: &Transport, keep: Keep, known: &mut Known) -> Result<Self, PruneError> {
        let inventory = Self::read_names(transport, keep, known)?;
        inventory.read_locators(transport, known)?;
        Ok(inventory)
    }

    /// Looks at everything but the locators.
    pub(super) fn read_names(transport: &Transport, keep: Keep, known: &mut Known) -> Result<Self, PruneError> {
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
        // After the files: what is published meanwhile is needed and not listed, never the other way round.
        inventory.read_refs(transport, keep, known)?;
        Ok(inventory)
    }

    fn read_refs(&mut self, transport: &Transport, keep: Keep, known: &mut Known) -> Result<(), PruneError> {
        let names = published::ref_names(transport)?;
        let seen = &known.commits;
        let histories = published::at_once(&names, |name| {
            let Some(reference) = published::read_ref(transport, name)? else { return Ok(None) };
            let history = self.history(transport, name, &reference, keep, seen)?;
            Ok::<_, PruneError>(Some((reference, history)))
        });
        for (name, found) in names.into_iter().zip(histories) {
            let Some((reference, history)) = found? else { continue };
            for (id, kept) in history {
                known.commits.insert(id, kept.commit.clone());
                let there = self.commits.entry(id).or_insert_with(|| kept.clone());
                there.named = there.named.take().or(kept.named);
            }
            self.refs.insert(name, reference);
        }
        Ok(())
    }

    /// The commits of a ref that are kept, newest first. History ends where a commit is not there.
    fn history(
        &self,
        transport: &Transport,
        name: &RefName,
        reference: &PublishedRef,
        keep: Keep,
        seen: &HashMap<CommitId, Commit>,
    ) -> Result<Vec<(CommitId, Kept)>, PruneError> {
        let mut history: Vec<(CommitId, Kept)> = Vec::new();
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
            history.push((id, Kept { commit, named, own, is_behind }));
        }
        if history.is_empty() {
            return Err(PruneError::NoCommit { name: name.clone(), commit: reference.record.commit });
        }
        Ok(history)
    }

    /// Reads the locators that are not known yet.
    pub(super) fn read_locators(&self, transport: &Transport, known: &mut Known) -> Result<(), PruneError> {
        let placed = self.commits.values().flat_map(|kept| kept.placements().map(move |it| (&kept.commit, it)));
        let mut seen = BTreeSet::new();
        let new: Vec<(&Commit, &Placement)> = placed
            .filter(|(_, placement)| !known.packs_of.contains_key(&placement.locator.id))
            .filter(|(_, placement)| seen.insert(placement.locator.id))
            .collect();
        for some in new.chunks(LOCATORS_AT_ONCE) {
            let read =
                published::at_once(some, |(commit, placement)| published::read_locator(transport, commit, placement));
            for ((_, placement), locator) in some.iter().zip(read) {
                let locator = locator?;
                let packs = locator.packs();
                let frames = locator.frames().iter().map(|frame| (packs[frame.pack as usize], *frame));
                known.learn(placement.locator.id, frames);
            }
        }
        Ok(())
    }

    /// Takes notice of new locators, by the names of those whose places they take.
    pub(super) fn relocate(&mut self, locators: &HashMap<LocatorId, FileRef<LocatorId>>) {
        let named = self.refs.values_mut().map(|reference| &mut reference.placement);
        let kept = self.commits.values_mut().flat_map(|kept| kept.named.iter_mut().chain(&mut kept.own));
        for placement in named.chain(kept) {
            if let Some(locator) = locators.get(&placement.locator.id) {
                placement.locator = *locator;
            }
        }
    }

    /// The paths of all files that are needed.
    pub(super) fn needed(&self, known: &Known) -> BTreeSet<String> {
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
