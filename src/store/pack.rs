//! Local packs: many small objects in one file.
//!
//! ```text
//! offset size
//!      0    8  magic "SAPWOBJ\0"
//!      8    4  version = 1
//!     12    4  zero
//!     16       the objects' bytes, back to back
//!      i   44  for each object, ascending:  id (32) · u64 offset · u32 length
//!     -48    8  u64 i, the position of the index
//!     -40    4  u32 number of objects
//!     -36    4  zero
//!     -32   32  SHA-256 of the rows and the 16 bytes behind them; also the name of the pack
//! ```
//!
//! The name of a pack is the digest with the suffix `.objects`. Earlier versions wrote the magic `SAPWPCK\0` and the suffix
//! `.pack`, with everything else the same: the *former form*.
//!
//! All integers are little-endian. The index is mapped, and since ids are uniformly distributed, a look-up guesses the row by
//! interpolation and reads one or two pages.
//!
//! *Not here*: published packs (`remote::format::pack`), whose format is another one; the set of packs (`pack_set`); when packs of the
//! former form are rewritten (`former_packs`).
//!
//! *Invariants*: a pack is written once, under a temporary name, and gets its name only when it is complete. A pack whose magic
//! is that of the other suffix is read, since its objects are the same, and `fsck` names it.
//!
//! *Used by* `store`.

use std::collections::HashSet;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::Advice;
use sha2::{Digest as _, Sha256};

use super::layout::StoreLayout;
use super::open_files::OpenFiles;
use crate::disk::{TemporaryFile, read_from};
use crate::model::ObjectId;
use crate::sys::Mapping;

const HEADER: usize = 16;
const ROW: usize = 44;
const FOOTER: usize = 48;

/// A pack of this many bytes is sealed and the next object begins another one. 256 MiB bound what `gc` rewrites at a time.
pub(super) const PACK_TARGET: u64 = 256 << 20;

/// Writes to a pack are buffered up to this size. With 1 MiB there are few calls, each of which starts its own write-back.
const WRITE_BUFFER: usize = 1 << 20;

/// Bytes of a pack read at a time. 256 KiB stay in the second-level cache until they are hashed.
const READ_BUFFER: usize = 256 << 10;

/// The position and length of an object in its pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PackSlot {
    pub(super) offset: u64,
    pub(super) length: u32,
}

/// The form of a pack, which its suffix tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum PackForm {
    /// As this version writes packs.
    #[default]
    Current,
    /// As earlier versions wrote packs.
    Former,
}

impl PackForm {
    const ALL: [Self; 2] = [Self::Current, Self::Former];

    const fn header(self) -> &'static [u8; HEADER] {
        match self {
            Self::Current => b"SAPWOBJ\0\x01\0\0\0\0\0\0\0",
            Self::Former => b"SAPWPCK\0\x01\0\0\0\0\0\0\0",
        }
    }

    const fn suffix(self) -> &'static str {
        match self {
            Self::Current => StoreLayout::PACK_SUFFIX,
            Self::Former => StoreLayout::FORMER_PACK_SUFFIX,
        }
    }

    /// Returns the form of the pack of that name; `None` if the file is no pack.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|form| name.ends_with(form.suffix()))
    }

    /// Returns the names that a pack with this digest may have.
    pub(super) fn names_of(digest: ObjectId) -> [String; 2] {
        Self::ALL.map(|form| form.name_of(digest))
    }

    fn name_of(self, digest: ObjectId) -> String {
        format!("{digest}{}", self.suffix())
    }
}

/// A pack whose index is mapped. It holds no descriptor: a reader of objects gets one from [`OpenFiles::pack`], and searches
/// other packs if the file does not exist any more, since packs are merged while they are in use.
pub(super) struct Pack {
    pub(super) name: Arc<str>,
    pub(super) form: PackForm,
    map: Mapping,
    index: usize,
    count: usize,
}

impl Pack {
    /// Bytes of the row of an object in the index.
    pub(super) const ROW_BYTES: u64 = ROW as u64;

    pub(super) fn open(files: &OpenFiles, name: &Arc<str>) -> io::Result<Self> {
        let map = Mapping::of_file(&files.open(&Path::new(StoreLayout::PACKS).join(&**name))?)?;
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, format!("pack {name} is damaged"));
        let footer = map.len().checked_sub(FOOTER).ok_or_else(damaged)?;
        let form = PackForm::of_name(name).ok_or_else(damaged)?;
        if !PackForm::ALL.iter().any(|form| map.starts_with(form.header())) {
            return Err(damaged());
        }
        let index = usize::try_from(read_number(&map[footer..footer + 8])).map_err(|_| damaged())?;
        let count = usize::try_from(read_number(&map[footer + 8..footer + 12])).map_err(|_| damaged())?;
        if index < HEADER || count.checked_mul(ROW).and_then(|rows| rows.checked_add(index)) != Some(footer) {
            return Err(damaged());
        }
        Ok(Self { name: Arc::clone(name), form, map, index, count })
    }

    /// Returns the number of objects.
    pub(super) const fn len(&self) -> usize {
        self.count
    }

    /// Returns the number of bytes of the file.
    pub(super) fn size(&self) -> u64 {
        self.map.len() as u64
    }

    /// Returns the object in row `row`, which must be below [`Self::len`], and its slot if that is inside the pack.
    pub(super) fn row(&self, row: usize) -> (ObjectId, Option<PackSlot>) {
        let start = self.index + row * ROW;
        let bytes = &self.map[start..start + ROW];
        let id = ObjectId::from_slice(&bytes[..32]).expect("32 bytes were cut out");
        let slot = PackSlot {
            offset: read_number(&bytes[32..40]),
            length: u32::try_from(read_number(&bytes[40..44])).expect("four bytes make at most 2^32 - 1"),
        };
        let end = slot.offset.checked_add(u64::from(slot.length));
        (id, end.is_some_and(|end| end <= self.index as u64).then_some(slot))
    }

    /// Returns the slot of `id`, if the pack has it.
    pub(super) fn find(&self, id: &ObjectId) -> Option<PackSlot> {
        self.row(self.find_row(id)?).1
    }

    /// Returns the row of `id`, if the pack has it.
    pub(super) fn find_row(&self, id: &ObjectId) -> Option<usize> {
        interpolate(self.count, id, |row| self.row(row).0)
    }

    /// Calls `visit` for every object of the pack, in the order of their positions, with its bytes if they can be read. The
    /// file is read in large pieces, since a system call for each small object would cost more than reading it. The digests of
    /// the bytes are not verified.
    pub(super) fn read_all<E: From<io::Error>>(
        &self,
        files: &OpenFiles,
        mut visit: impl FnMut(ObjectId, Option<&[u8]>) -> Result<(), E>,
    ) -> Result<(), E> {
        let file = files.pack(&self.name)?;
        let mut rows: Vec<(ObjectId, Option<PackSlot>)> = (0..self.count).map(|row| self.row(row)).collect();
        rows.sort_by_key(|(_, slot)| slot.map(|slot| slot.offset));
        let (mut buffer, mut start) = (Vec::new(), 0_u64);
        for (id, slot) in rows {
            let Some(slot) = slot else {
                visit(id, None)?;
                continue;
            };
            let end = slot.offset + u64::from(slot.length);
            if slot.offset < start || end > start + buffer.len() as u64 {
                start = slot.offset;
                let rest = (self.index as u64).saturating_sub(start);
                let wanted = u64::from(slot.length).max(READ_BUFFER as u64).min(rest);
                buffer.resize(usize::try_from(wanted).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?, 0);
                let read = read_from(&file, start, &mut buffer)?;
                buffer.truncate(read);
            }
            let from = usize::try_from(slot.offset - start).ok();
            visit(id, from.and_then(|from| buffer.get(from..from.checked_add(slot.length as usize)?)))?;
        }
        Ok(())
    }

    /// Returns the digest that the name consists of; `None` for another name.
    pub(super) fn digest_of_name(&self) -> Option<ObjectId> {
        self.name.strip_suffix(self.form.suffix())?.parse().ok()
    }

    /// Returns what is wrong with the pack beside its objects; `None` if its magic and its index are intact.
    pub(super) fn problem(&self) -> Option<&'static str> {
        let end = self.map.len() - 32;
        let digest = ObjectId::of(&self.map[self.index..end]);
        if !self.map.starts_with(self.form.header()) {
            Some("its magic and its suffix do not agree")
        } else if digest.as_bytes() != &self.map[end..] || self.digest_of_name() != Some(digest) {
            Some("its index does not have the digest it is named by")
        } else {
            None
        }
    }
}

/// Finds `id` among `count` ascending ids that are uniformly distributed, as digests are. Every second step halves the range,
/// so even ids chosen by an attacker cost no more than twice a binary search.
fn interpolate(count: usize, id: &ObjectId, row: impl Fn(usize) -> ObjectId) -> Option<usize> {
    let key = |id: &ObjectId| u64::from_be_bytes(id.as_bytes()[..8].try_into().expect("eight of 32 bytes"));
    let (mut low, mut high) = (0, count);
    let (mut low_key, mut high_key) = (0, u64::MAX);
    let mut guess = true;
    while low < high {
        let middle = if guess {
            let share = u128::from(key(id).saturating_sub(low_key)) * (high - low) as u128;
            let step = share / (u128::from(high_key - low_key) + 1);
            low + usize::try_from(step).unwrap_or(0).min(high - low - 1)
        } else {
            low + (high - low) / 2
        };
        guess = !guess;
        let found = row(middle);
        match found.cmp(id) {
            std::cmp::Ordering::Equal => return Some(middle),
            std::cmp::Ordering::Less => (low, low_key) = (middle + 1, key(&found)),
            std::cmp::Ordering::Greater => (high, high_key) = (middle, key(&found)),
        }
        if low_key > key(id) || high_key < key(id) || low_key > high_key {
            // The ids are not ascending, so the index is damaged.
            return None;
        }
    }
    None
}

/// A pack that is being written.
pub(super) struct LocalPackWriter {
    form: PackForm,
    out: BufWriter<WriteBehind>,
    position: u64,
    rows: Vec<(ObjectId, PackSlot)>,
    present: HashSet<ObjectId>,
}

/// A writer that starts the write-back of each write, so that little is left to do for the sync at the end.
struct WriteBehind {
    file: TemporaryFile,
    position: u64,
}

impl Write for WriteBehind {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.file.file().write(bytes)?;
        start_write_back(self.file.file(), self.position);
        self.position += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes the kernel write out the dirty pages of `file` from `offset` on, without waiting. `POSIX_FADV_DONTNEED` does that as
/// its first step, and drops only pages that are clean by then.
pub(super) fn start_write_back(file: impl AsFd, offset: u64) {
    if let Err(error) = rustix::fs::fadvise(file, offset, None, Advice::DontNeed) {
        tracing::trace!(%error, "no early write-back");
    }
}

impl LocalPackWriter {
    pub(super) fn create(temporary: &Path, form: PackForm) -> io::Result<Self> {
        let file = TemporaryFile::create(temporary)?;
        let mut out = BufWriter::with_capacity(WRITE_BUFFER, WriteBehind { file, position: 0 });
        out.write_all(form.header())?;
        Ok(Self { form, out, position: HEADER as u64, rows: Vec::new(), present: HashSet::new() })
    }

    /// Returns the number of bytes written so far.
    pub(super) const fn size(&self) -> u64 {
        self.position
    }

    /// Returns the number of bytes that the pack would have if it were sealed now.
    pub(super) const fn sealed_size(&self) -> u64 {
        self.position + (self.rows.len() * ROW + FOOTER) as u64
    }

    pub(super) fn contains(&self, id: &ObjectId) -> bool {
        self.present.contains(id)
    }

    /// Appends an object, which must not be in the pack yet.
    pub(super) fn add(&mut self, id: ObjectId, bytes: &[u8]) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        self.out.write_all(bytes)?;
        self.rows.push((id, PackSlot { offset: self.position, length }));
        self.present.insert(id);
        self.position += u64::from(length);
        Ok(())
    }

    /// Writes the index. Returns the pack, still under its temporary name and not synced, its final name, and its objects in
    /// ascending order.
    pub(super) fn seal(mut self) -> io::Result<(TemporaryFile, String, Vec<ObjectId>)> {
        self.rows.sort_unstable_by_key(|(id, _)| *id);
        let mut tail = Vec::with_capacity(self.rows.len() * ROW + FOOTER);
        for (id, slot) in &self.rows {
            tail.extend_from_slice(id.as_bytes());
            tail.extend_from_slice(&slot.offset.to_le_bytes());
            tail.extend_from_slice(&slot.length.to_le_bytes());
        }
        let count = u32::try_from(self.rows.len()).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        tail.extend_from_slice(&self.position.to_le_bytes());
        tail.extend_from_slice(&count.to_le_bytes());
        tail.extend_from_slice(&[0; 4]);
        let digest = ObjectId::from_bytes(Sha256::digest(&tail).into());
        tail.extend_from_slice(digest.as_bytes());
        self.out.write_all(&tail)?;
        self.out.flush()?;
        let behind = self.out.into_inner().map_err(io::IntoInnerError::into_error)?;
        let ids = self.rows.into_iter().map(|(id, _)| id).collect();
        Ok((behind.file, self.form.name_of(digest), ids))
    }
}

fn read_number(bytes: &[u8]) -> u64 {
    let mut wide = [0; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(wide)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests make damaged files")]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::disk;
    use crate::store::pack_set::PackSet;

    fn files_of(repository: &Path) -> OpenFiles {
        OpenFiles::new(disk::open_directory(repository).expect("opened"))
    }

    fn repository() -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(directory.path().join(StoreLayout::PACKS)).expect("created");
        directory
    }

    #[test]
    fn pack_set_finds_only_the_added_objects() {
        let repository = repository();
        let contents: Vec<Vec<u8>> = (0..5000_u32).map(|i| i.to_string().into_bytes()).collect();
        let mut writer = LocalPackWriter::create(repository.path(), PackForm::Current).expect("created");
        for bytes in &contents {
            writer.add(ObjectId::of(bytes), bytes).expect("added");
        }
        let (file, name, _) = writer.seal().expect("sealed");
        file.persist(&repository.path().join(StoreLayout::PACKS).join(&name)).expect("named");
        let files = files_of(repository.path());
        let set = PackSet::load(&files, None).expect("loaded");
        for bytes in &contents {
            let (pack, slot) = set.find(&files, &ObjectId::of(bytes)).expect("readable").expect("present");
            let mut read = vec![0; slot.length as usize];
            files.pack(&pack.name).expect("exists").read_exact_at(&mut read, slot.offset).expect("readable");
            assert_eq!(&read, bytes);
        }
        let absent = |i: u32| set.find(&files, &ObjectId::of(i.to_string().as_bytes())).expect("readable").is_none();
        assert!((5000..9000_u32).all(absent));
        assert!(set.all(&files).expect("readable").iter().all(|pack| pack.problem().is_none()));
    }

    #[test]
    fn interpolation_finds_ids_that_are_not_uniform() {
        let ids: Vec<ObjectId> = (0..=255_u8)
            .map(|i| ObjectId::from_bytes([[0; 31].as_slice(), &[i]].concat().try_into().expect("32 bytes")))
            .collect();
        for (row, id) in ids.iter().enumerate() {
            assert_eq!(interpolate(ids.len(), id, |row| ids[row]), Some(row));
        }
        assert_eq!(interpolate(ids.len(), &ObjectId::from_bytes([9; 32]), |row| ids[row]), None);
        assert_eq!(interpolate(0, &ids[0], |row| ids[row]), None);
    }

    #[test]
    fn damaged_pack_is_left_out() {
        let repository = repository();
        std::fs::write(
            repository.path().join("packs/x.pack"),
            b"SAPWPCK\0 rubbish that is long enough for a footer, or nearly",
        )
        .expect("written");
        let files = files_of(repository.path());
        let set = PackSet::load(&files, None).expect("loaded");
        assert!(set.all(&files).expect("readable").is_empty());
        assert!(set.find(&files, &ObjectId::of(b"x")).expect("readable").is_none());
    }
}
