//! Making room: what no whole commit needs goes, least recently used first.
//!
//! Objects of commits that are here lazily can be fetched again, so a repository with a limit lets go of them. Objects in
//! packs go when half of a pack has to: the other half moves to a new one, and takes the memory of when it was used along.
//! Like garbage collection, which this is a kind of, it happens under both locks and survives being killed at any moment;
//! running mounts read on from what they have open, and fetch again what they have not.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use super::gc::{Gc, GcError, object_files, remove_files};
use super::inventory::STAT_BLOCK;
use super::pack::Pack;
use super::reach::needed_by_whole;
use super::recency::{Seconds, seconds};
use crate::model::{ImageId, ObjectId};

/// A pack is rewritten when one part in so many of its bytes is to go.
const WORTHWHILE: u64 = 2;

/// While packs are rewritten, so many bytes may be here twice: one part in so many of the limit.
const TWICE: u64 = 8;

/// What is to go.
#[derive(Debug, Default)]
pub struct EvictionPlan {
    /// Bytes that no whole commit needs, before.
    pub used: u64,
    /// Bytes that become free.
    pub freed: u64,
    /// Objects that go, whole ones and parts.
    pub objects: u64,
    limit: u64,
    packs: Vec<PackEviction>,
    files: Vec<PathBuf>,
}

#[derive(Debug)]
struct PackEviction {
    name: String,
    drop: HashSet<ObjectId>,
    /// What moves, with when it was used.
    keep: HashMap<ObjectId, Seconds>,
    kept_bytes: u64,
}

/// Something that can go by itself.
struct Unit {
    used: Seconds,
    bytes: u64,
    place: Place,
}

/// Ordered as things of the same age go.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// Number of the pack, and row in it.
    Row(usize, usize),
    File(PathBuf),
}

impl Gc {
    /// Finds what has to go so that what no whole commit needs takes `target` bytes at most, if it takes more than `limit`.
    ///
    /// # Errors
    /// [`GcError`]; also when it cannot be known what a whole commit needs.
    pub fn plan_eviction(&self, limit: u64, target: u64) -> Result<EvictionPlan, GcError> {
        let store = self.writer.store();
        let roots = store.mount_roots()?;
        let tips = store.refs()?.into_iter().map(|(_, id)| id).chain(roots.iter().copied());
        let needed = needed_by_whole(store, tips)?;
        let mounted: BTreeSet<ImageId> = roots.iter().filter_map(|id| Some(store.commit(*id).ok()?.image)).collect();
        let packs = self.packs()?;
        let mut units = self.packed_units(&packs, &needed);
        units.extend(self.object_units(&needed)?);
        units.extend(self.partial_units(&mounted)?);
        let used = units.iter().map(|unit| unit.bytes).sum();
        let mut plan = EvictionPlan { used, limit, ..EvictionPlan::default() };
        if used > limit {
            units.sort_unstable_by(|a, b| (a.used, &a.place).cmp(&(b.used, &b.place)));
            self.choose(units, &packs, used.saturating_sub(target), &mut plan);
        }
        Ok(plan)
    }

    fn packed_units(&self, packs: &[Arc<Pack>], needed: &HashSet<ObjectId>) -> Vec<Unit> {
        let mut units = Vec::new();
        for (number, pack) in packs.iter().enumerate() {
            let uses = self.writer.store().uses_of(pack);
            for (row, used) in uses.into_iter().enumerate() {
                let (id, slot) = pack.row(row);
                if !needed.contains(&id) {
                    let bytes = slot.map_or(0, |slot| u64::from(slot.length)) + Pack::ROW_BYTES;
                    units.push(Unit { used, bytes, place: Place::Row(number, row) });
                }
            }
        }
        units
    }

    fn object_units(&self, needed: &HashSet<ObjectId>) -> Result<Vec<Unit>, GcError> {
        let layout = self.writer.store().layout();
        let files = object_files(layout)?.into_iter().filter(|(id, _)| !needed.contains(id));
        Ok(files.filter_map(|(id, _)| unit_of_file(layout.object(id))).collect())
    }

    /// Parts of large objects, and of images that are not mounted.
    fn partial_units(&self, mounted: &BTreeSet<ImageId>) -> Result<Vec<Unit>, GcError> {
        let directory = self.writer.store().layout().partial();
        let failed = |source| GcError::Io { action: "list", path: directory.clone(), source };
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut units = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let image = name.to_str().and_then(|name| name.get(..2 * ImageId::LEN)?.parse::<ImageId>().ok());
            if image.is_some_and(|image| !mounted.contains(&image)) {
                units.extend(unit_of_file(entry.path()));
            }
        }
        Ok(units)
    }

    /// Takes units, in order, until enough becomes free.
    fn choose(&self, units: Vec<Unit>, packs: &[Arc<Pack>], enough: u64, plan: &mut EvictionPlan) {
        let mut dead: Vec<(HashSet<usize>, u64)> = packs.iter().map(|_| (HashSet::new(), 0)).collect();
        let is_chosen = |number: usize, bytes: u64| bytes * WORTHWHILE >= packs[number].size();
        for unit in units {
            if plan.freed >= enough {
                break;
            }
            match unit.place {
                Place::File(path) => {
                    plan.files.push(path);
                    plan.freed += unit.bytes;
                    plan.objects += 1;
                }
                Place::Row(number, row) => {
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
        for (number, (rows, bytes)) in dead.into_iter().enumerate() {
            if bytes > 0 && is_chosen(number, bytes) {
                plan.objects += rows.len() as u64;
                plan.packs.push(self.pack_eviction(&packs[number], &rows));
            }
        }
    }

    fn pack_eviction(&self, pack: &Pack, rows: &HashSet<usize>) -> PackEviction {
        let uses = self.writer.store().uses_of(pack);
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
    pub fn evict(&self, plan: &EvictionPlan) -> Result<(), GcError> {
        let layout = self.writer.store().layout();
        remove_files(plan.files.iter().cloned(), layout.root())?;
        self.writer.store().forget_open_files();
        let mut together: Vec<&PackEviction> = Vec::new();
        for pack in &plan.packs {
            let bytes: u64 = together.iter().map(|pack| pack.kept_bytes).sum();
            if !together.is_empty() && bytes + pack.kept_bytes > plan.limit / TWICE {
                self.rewrite(&together)?;
                together.clear();
            }
            together.push(pack);
        }
        self.rewrite(&together)
    }

    fn rewrite(&self, packs: &[&PackEviction]) -> Result<(), GcError> {
        let names: Vec<&str> = packs.iter().map(|pack| pack.name.as_str()).collect();
        self.rewrite_packs(&names, &|id| packs.iter().any(|pack| pack.keep.contains_key(id)))?;
        let moved = packs.iter().flat_map(|pack| pack.keep.iter().map(|(id, used)| (*id, *used))).collect();
        self.writer.store().note_uses(&moved);
        Ok(())
    }
}

fn unit_of_file(path: PathBuf) -> Option<Unit> {
    let metadata = fs::metadata(&path).ok()?;
    let used = metadata.modified().map_or(0, seconds);
    Some(Unit { used, bytes: metadata.blocks() * STAT_BLOCK, place: Place::File(path) })
}
