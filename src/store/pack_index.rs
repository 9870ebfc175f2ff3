//! The index that says in which of many large packs an object is, so that a look-up opens only one of them.
//!
//! ```text
//! offset size
//!      0    8  magic "SAPWPIX\0"
//!      8    4  version = 1
//!     12    4  u32 number of packs
//!     16    8  u64 number of rows
//!     24    8  zero
//!     32       for each pack:  the digest that names it (32)
//!      r   16  for each object, ascending:  u64 first eight bytes of its id, as a big-endian number · u32 pack · u32 row
//!    -32   32  SHA-256 of all before
//! ```
//!
//! *Not here*: small packs, which change with every commit and are few since they are merged (`merge`).
//!
//! *Invariants*: the index is a cache of the packs' own indexes. A row is a hint that is checked in the pack. Listed packs that
//! do not exist any more are ignored, and packs that are not listed are searched one by one.
//!
//! *Used by* `store::pack_set` for look-ups, by `store::merge` and `store::gc` when the set of large packs has changed, and by
//! `store::fsck`.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::layout::StoreLayout;
use super::open_files::OpenFiles;
use super::pack::Pack;
use crate::disk::TemporaryFile;
use crate::model::ObjectId;
use crate::sys::Mapping;

const MAGIC: [u8; 12] = *b"SAPWPIX\0\x01\0\0\0";
const HEADER: usize = 32;
const NAME: usize = 32;
const ROW: usize = 16;
const DIGEST: usize = 32;

/// An open index, mapped. It holds no descriptor.
pub(super) struct PackIndex {
    map: Mapping,
    packs: usize,
    rows: usize,
}

impl PackIndex {
    /// Opens the index; returns `None` when it is damaged, which only makes look-ups slower.
    pub(super) fn open(files: &OpenFiles) -> io::Result<Option<Self>> {
        let map = match files.open(Path::new(StoreLayout::PACK_INDEX)) {
            // The index was removed since the directory was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => Mapping::of_file(&file?)?,
        };
        let index = Self::parse(map);
        if index.is_none() {
            tracing::warn!("the index of packs is damaged and not used; 'sapwood gc' makes a new one");
        }
        Ok(index)
    }

    fn parse(map: Mapping) -> Option<Self> {
        let header = map.get(..HEADER).filter(|header| header.starts_with(&MAGIC))?;
        let packs = usize::try_from(u32::from_le_bytes(header[12..16].try_into().ok()?)).ok()?;
        let rows = usize::try_from(u64::from_le_bytes(header[16..24].try_into().ok()?)).ok()?;
        let names = packs.checked_mul(NAME)?;
        let length = rows.checked_mul(ROW)?.checked_add(names)?.checked_add(HEADER + DIGEST)?;
        (length == map.len()).then_some(Self { map, packs, rows })
    }

    /// Returns the digests that name the packs, in the order of their numbers.
    pub(super) fn digests(&self) -> impl Iterator<Item = ObjectId> {
        let names = self.map[HEADER..HEADER + self.packs * NAME].chunks_exact(NAME);
        names.map(|name| ObjectId::from_slice(name).expect("a name has the length of a digest"))
    }

    fn row(&self, row: usize) -> (u64, usize, usize) {
        let start = HEADER + self.packs * NAME + row * ROW;
        let bytes = &self.map[start..start + ROW];
        let number = |range: std::ops::Range<usize>| {
            bytes[range].iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
        };
        let index = |range| usize::try_from(number(range)).expect("four bytes make at most 2^32 - 1");
        (number(0..8), index(8..12), index(12..16))
    }

    /// Returns the rows in which `id` may be, each as the number of a pack and the row in it.
    pub(super) fn candidates(&self, id: &ObjectId) -> impl Iterator<Item = (usize, usize)> {
        let wanted = prefix(id);
        let (mut low, mut high) = (0, self.rows);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.row(middle).0 < wanted { low = middle + 1 } else { high = middle }
        }
        let same = (low..self.rows).map(|row| self.row(row)).take_while(move |(found, ..)| *found == wanted);
        same.map(|(_, pack, row)| (pack, row))
    }

    /// Returns whether the digest of the index is correct.
    pub(super) fn is_intact(&self) -> bool {
        let (body, digest) = self.map.split_at(self.map.len() - DIGEST);
        Sha256::digest(body)[..] == *digest
    }
}

/// Returns whether the pack's name is a digest, as the index needs it.
pub(super) fn can_list(pack: &Pack) -> bool {
    pack.digest_of_name().is_some()
}

fn prefix(id: &ObjectId) -> u64 {
    u64::from_be_bytes(id.as_bytes()[..8].try_into().expect("eight of 32 bytes"))
}

/// Writes the index of `packs` to a temporary file. Needs memory for one row of each pack.
pub(super) fn write(temporary: &Path, packs: &[Arc<Pack>]) -> io::Result<TemporaryFile> {
    let too_many = |_| io::Error::from(io::ErrorKind::FileTooLarge);
    let file = TemporaryFile::create(temporary)?;
    let mut out = HashingWriter { out: BufWriter::new(file.file()), hasher: Sha256::new() };
    out.write_all(&MAGIC)?;
    out.write_all(&u32::try_from(packs.len()).map_err(too_many)?.to_le_bytes())?;
    let rows: u64 = packs.iter().map(|pack| pack.len() as u64).sum();
    out.write_all(&rows.to_le_bytes())?;
    out.write_all(&[0; 8])?;
    for pack in packs {
        out.write_all(pack.digest_of_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?.as_bytes())?;
    }
    let head =
        |pack: usize, row: usize| (row < packs[pack].len()).then(|| Reverse((packs[pack].row(row).0, pack, row)));
    let mut heads: BinaryHeap<_> = (0..packs.len()).filter_map(|pack| head(pack, 0)).collect();
    while let Some(Reverse((id, pack, row))) = heads.pop() {
        out.write_all(&prefix(&id).to_le_bytes())?;
        out.write_all(&u32::try_from(pack).map_err(too_many)?.to_le_bytes())?;
        out.write_all(&u32::try_from(row).map_err(too_many)?.to_le_bytes())?;
        heads.extend(head(pack, row + 1));
    }
    out.finish()?;
    Ok(file)
}

/// A writer that also hashes the bytes that it writes.
struct HashingWriter<'a> {
    out: BufWriter<&'a File>,
    hasher: Sha256,
}

impl HashingWriter<'_> {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.out.write_all(bytes)
    }

    fn finish(mut self) -> io::Result<()> {
        self.out.write_all(&self.hasher.finalize())?;
        self.out.flush()
    }
}
