//! Evicts objects that no complete commit needs, least recently used first, to keep a repository within its limit.
//!
//! Objects of lazy commits can be fetched again, so a repository with a limit may remove them. Objects in packs are removed
//! when they make up at least half of their pack: the other objects are copied to a new pack, with their times of last use.
//! A pack of the former form that an earlier program may need (`former_packs`) is removed as a whole or not at all.
//!
//! *Invariants*: eviction is a kind of garbage collection: it holds both locks and can be killed at any moment. Running mounts
//! continue to read from files that they have open, and fetch other objects again.
//!
//! *Used by* `cache`, whose evictor keeps the limit.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::gc::{Gc, GcError, object_files, remove_files};
use super::inventory::STAT_BLOCK;
use super::pack::{Pack, PackForm};
use super::reach::needed_by_complete;
use super::recency::{Seconds, seconds};
use crate::model::{ImageId, ObjectId};

/// A pack is rewritten when at least one part in this many of its bytes is to be removed.
const REWRITE_SHARE: u64 = 2;

/// While packs are rewritten, some bytes are stored twice: at most one part in this many of the limit.
const DUPLICATE_SHARE: u64 = 8;

/// The objects and files that an eviction removes.
#[derive(Debug, Default)]
pub(crate) struct EvictionPlan {
    /// Bytes that no complete commit needs, before the eviction.
    pub(crate) used: u64,
    /// Bytes that become free.
    pub(crate) freed: u64,
    /// Number of objects that are removed, complete and partial ones.
    pub(crate) objects: u64,
    limit: u64,
    /// Whether packs of the former form are removed only as a whole.
    keeps_former_packs: bool,
    packs: Vec<PackEviction>,
    files: Vec<PathBuf>,
}

#[derive(Debug)]
struct PackEviction {
    name: String,
    drop: HashSet<ObjectId>,
    /// The objects that are copied to a new pack, with their times of last use.
    keep: HashMap<ObjectId, Seconds>,
    kept_bytes: u64,
}

/// An object or file that can be removed.
struct Evictable {
    used: Seconds,
    bytes: u64,
    location: EvictableLocation,
}

/// Where something evictable is. Those of the same age are removed in this order.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum EvictableLocation {
    /// The number of the pack, and the row in it.
    Row(usize, usize),
    File(PathBuf),
}

impl Gc {
    /// Plans an eviction after which objects that no complete commit needs take at most `target` bytes. The plan is empty if
    /// they take no more than `limit` bytes now.
    ///
    /// # Errors
    /// [`GcError`]; also when it cannot be determined what complete commits need.
    pub(crate) fn plan_eviction(&self, limit: u64, target: u64) -> Result<EvictionPlan, GcError> {
        let store = self.writer.store();
        let roots = store.mount_roots()?;
        let tips = store.refs()?.into_iter().map(|(_, id)| id).chain(roots.iter().copied());
        let needed = needed_by_complete(store, tips)?;
        let mounted: BTreeSet<ImageId> = roots.iter().filter_map(|id| Some(store.commit(*id).ok()?.image)).collect();
        let keeps_former_packs = store.must_keep_former_packs();
        let mut packs = self.packs()?;
        packs.retain(|pack| {
            let is_needed = |row| needed.contains(&pack.row(row).0);
            !(keeps_former_packs && pack.form == PackForm::Former && (0..pack.len()).any(is_needed))
        });
        let mut units = self.packed_units(&packs, &needed);
        units.extend(self.object_units(&needed)?);
        units.extend(self.partial_units(&mounted)?);
        let used = units.iter().map(|unit| unit.bytes).sum();
        let mut plan = EvictionPlan { used, limit, keeps_former_packs, ..EvictionPlan::default() };
        if used > limit {
            units.sort_unstable_by(|a, b| (a.used, &a.location).cmp(&(b.used, &b.location)));
            self.choose(units, &packs, used.saturating_sub(target), &mut plan);
        }
        Ok(plan)
    }

    fn packed_units(&self, packs: &[Arc<Pack>], needed: &HashSet<ObjectId>) -> Vec<Evictable> {
        let mut units = Vec::new();
        for (number, pack) in packs.iter().enumerate() {
            let uses = self.writer.store().use_times_of(pack);
            for (row, used) in uses.into_iter().enumerate() {
                let (id, slot) = pack.row(row);
                if !needed.contains(&id) {
                    let bytes = slot.map_or(0, |slot| u64::from(slot.length)) + Pack::ROW_BYTES;
                    units.push(Evictable { used, bytes, location: EvictableLocation::Row(number, row) });
                }
            }
        }
        units
    }

    fn object_units(&self, needed: &HashSet<ObjectId>) -> Result<Vec<Evictable>, GcError> {
        let layout = self.writer.store().layout();
        let files = object_files(layout)?.into_iter().filter(|(id, _)| !needed.contains(id));
        Ok(files.filter_map(|(id, _)| unit_of_file(layout.object(id))).collect())
    }

    /// Returns the partial files of large objects, and those of images that are not mounted.
    fn partial_units(&self, mounted: &BTreeSet<ImageId>) -> Result<Vec<Evictable>, GcError> {
        let store = self.writer.store();
        let failed = |source| GcError::Io { action: "list", path: store.layout().partial(), source };
        let is_mounted = |path: &Path| {
            let name = path.file_name().and_then(|name| name.to_str());
            let image = name.and_then(|name| name.get(..2 * ImageId::LEN)?.parse::<ImageId>().ok());
            image.is_none_or(|image| mounted.contains(&image))
        };
        let files = store.partial_files().map_err(failed)?.into_iter().map(|(_, path)| path);
        Ok(files.filter(|path| !is_mounted(path)).filter_map(unit_of_file).collect())
    }

    /// Adds units to the plan, in order, until `enough` bytes become free.
    fn choose(&self, units: Vec<Evictable>, packs: &[Arc<Pack>], enough: u64, plan: &mut EvictionPlan) {
        let mut dead: Vec<(HashSet<usize>, u64)> = packs.iter().map(|_| (HashSet::new(), 0)).collect();
        let is_chosen = |number: usize, bytes: u64| bytes * REWRITE_SHARE >= packs[number].size();
        for unit in units {
            if plan.freed >= enough {
                break;
            }
            match unit.location {
                EvictableLocation::File(path) => {
                    plan.files.push(path);
                    plan.freed += unit.bytes;
                    plan.objects += 1;
                }
                EvictableLocation::Row(number, row) => {
                    let (rows, bytes) = &mut dead[number];
                    let was_chosen = is_chosen(number, *bytes);
                    rows.insert(row);
                    *bytes += unit.bytes;
                    match (was_chosen, is_chosen(number, *bytes)) {
                        (true, _) => plan.freed += unit.bytes,
                        (false, true) => plan.freed += *bytes,
                        (false, false) => {}
                    }
                }
            }
        }
        for (number, (mut rows, bytes)) in dead.into_iter().enumerate() {
            if bytes > 0 && is_chosen(number, bytes) {
                if plan.keeps_former_packs && packs[number].form == PackForm::Former {
                    rows = (0..packs[number].len()).collect();
                    plan.freed += packs[number].size().saturating_sub(bytes);
                }
                plan.objects += rows.len() as u64;
                plan.packs.push(self.pack_eviction(&packs[number], &rows));
            }
        }
    }

    fn pack_eviction(&self, pack: &Pack, rows: &HashSet<usize>) -> PackEviction {
        let uses = self.writer.store().use_times_of(pack);
        let mut eviction =
            PackEviction { name: pack.name.to_string(), drop: HashSet::new(), keep: HashMap::new(), kept_bytes: 0 };
        for (row, used) in uses.into_iter().enumerate() {
            let (id, slot) = pack.row(row);
            if rows.contains(&row) {
                eviction.drop.insert(id);
            } else {
                eviction.keep.insert(id, used);
                eviction.kept_bytes += slot.map_or(0, |slot| u64::from(slot.length));
            }
        }
        eviction
    }

    /// Removes what the plan lists. The plan must have been made by this collector.
    ///
    /// # Errors
    /// [`GcError`]; what was not removed by then is found again by the next plan.
    pub(crate) fn evict(&self, plan: &EvictionPlan) -> Result<(), GcError> {
        let layout = self.writer.store().layout();
        remove_files(plan.files.iter().cloned(), layout.root())?;
        self.writer.store().forget_open_files();
        let mut batch: Vec<&PackEviction> = Vec::new();
        for pack in &plan.packs {
            let bytes: u64 = batch.iter().map(|pack| pack.kept_bytes).sum();
            if !batch.is_empty() && bytes + pack.kept_bytes > plan.limit / DUPLICATE_SHARE {
                self.rewrite(&batch)?;
                batch.clear();
            }
            batch.push(pack);
        }
        self.rewrite(&batch)
    }

    fn rewrite(&self, packs: &[&PackEviction]) -> Result<(), GcError> {
        let names: Vec<&str> = packs.iter().map(|pack| pack.name.as_str()).collect();
        self.rewrite_packs(&names, PackForm::Current, &|id| packs.iter().any(|pack| pack.keep.contains_key(id)))?;
        let moved = packs.iter().flat_map(|pack| pack.keep.iter().map(|(id, used)| (*id, *used))).collect();
        self.writer.store().write_use_times(&moved, None);
        Ok(())
    }
}

fn unit_of_file(path: PathBuf) -> Option<Evictable> {
    let metadata = fs::metadata(&path).ok()?;
    let used = metadata.modified().map_or(0, seconds);
    Some(Evictable { used, bytes: metadata.blocks() * STAT_BLOCK, location: EvictableLocation::File(path) })
}
