//! Adds objects that arrive from elsewhere under a known id.
//!
//! *Not here*: contents whose id is not known yet (`add`).
//!
//! *Invariants*: nothing with a wrong digest is kept, and no file grows beyond the size that the image states. Blocks of a
//! large object may arrive in any order and from several threads.
//!
//! *Used by* `remote` and `cache`, which fetch objects.

use std::io;
use std::os::unix::fs::FileExt as _;

use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use super::write::{StoreWriter, WriteError};
use crate::disk::{TemporaryFile, read_from};
use crate::model::{BLOCK_SIZE, BlockId, LARGE_OBJECT, ObjectId};

/// Why something that arrived was not added.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiveError {
    /// The bytes of an object have a wrong digest.
    #[error("{length} bytes that arrived as object {id} have the digest {found}")]
    WrongObject {
        /// The expected object.
        id: ObjectId,
        /// The digest of the bytes that arrived.
        found: ObjectId,
        /// The number of bytes that arrived.
        length: u64,
    },
    /// The bytes of a block have a wrong digest or length.
    #[error("block {block} of object {id} has a wrong digest or length")]
    WrongBlock {
        id: ObjectId,
        /// The block, counted from 0.
        block: usize,
    },
    /// The repository could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl StoreWriter {
    /// Adds the object `id` with the content `bytes`.
    ///
    /// # Errors
    /// [`ReceiveError::WrongObject`] when `bytes` have another digest; others when writing fails.
    pub(crate) fn put_object(&self, id: ObjectId, bytes: &[u8]) -> Result<(), ReceiveError> {
        let found = ObjectId::of(bytes);
        let length = bytes.len() as u64;
        if found != id {
            return Err(ReceiveError::WrongObject { id, found, length });
        }
        if length <= self.store().config().pack_limit.min(LARGE_OBJECT) {
            return Ok(self.stage_packed(id, bytes)?);
        }
        if self.has_object(id) {
            self.count_known();
            return Ok(());
        }
        let file = self.temporary_file()?;
        file.file().write_all_at(bytes, 0).map_err(|source| self.cannot_write(source))?;
        Ok(self.stage_file(id, length, file)?)
    }

    /// Starts receiving the large object `id` of `size` bytes, whose blocks have the digests `blocks`.
    ///
    /// # Errors
    /// [`WriteError::Length`] when the number of blocks does not fit the size; others when creating a file fails.
    pub(crate) fn receive(&self, id: ObjectId, size: u64, blocks: Vec<BlockId>) -> Result<IncomingObject, WriteError> {
        let expected = size.div_ceil(BLOCK_SIZE);
        if blocks.len() as u64 != expected {
            return Err(WriteError::Length { expected, found: blocks.len() as u64 });
        }
        let state = State { present: vec![false; blocks.len()], left: blocks.len(), hasher: Sha256::new(), hashed: 0 };
        let file = self.temporary_file()?;
        file.file().set_len(size).map_err(|source| self.cannot_write(source))?;
        Ok(IncomingObject { id, size, blocks, file, state: Mutex::new(state) })
    }

    /// Adds a large object of which all blocks have arrived.
    ///
    /// # Errors
    /// [`ReceiveError::WrongObject`] when blocks are missing, or the whole has another digest.
    pub(crate) fn finish_receive(&self, incoming: IncomingObject) -> Result<(), ReceiveError> {
        let IncomingObject { id, size, file, state, .. } = incoming;
        let found = digest(&file, size, state.into_inner()).map_err(WriteError::Read)?;
        if found != id {
            return Err(ReceiveError::WrongObject { id, found, length: size });
        }
        Ok(self.stage_file(id, size, file)?)
    }

    fn temporary_file(&self) -> Result<TemporaryFile, WriteError> {
        let path = self.store().layout().temporary();
        TemporaryFile::create(&path).map_err(|source| WriteError::Write { action: "create a file in", path, source })
    }

    fn cannot_write(&self, source: io::Error) -> WriteError {
        WriteError::Write { action: "write to", path: self.store().layout().temporary(), source }
    }
}

/// A large object of which blocks are arriving. Dropping it removes the blocks that have arrived.
pub(crate) struct IncomingObject {
    id: ObjectId,
    size: u64,
    blocks: Vec<BlockId>,
    file: TemporaryFile,
    state: Mutex<State>,
}

struct State {
    present: Vec<bool>,
    left: usize,
    /// The digest of the first `hashed` blocks: blocks that arrive in order are hashed while they are in memory.
    hasher: Sha256,
    hashed: usize,
}

impl IncomingObject {
    /// Writes the block number `block` and returns how many blocks are still missing.
    ///
    /// # Errors
    /// [`ReceiveError::WrongBlock`] when `bytes` have another digest or length; others when writing fails.
    pub(crate) fn put_block(&self, writer: &StoreWriter, block: usize, bytes: &[u8]) -> Result<usize, ReceiveError> {
        let wrong = ReceiveError::WrongBlock { id: self.id, block };
        let start = (block as u64).saturating_mul(BLOCK_SIZE);
        let expected_length = self.size.saturating_sub(start).min(BLOCK_SIZE);
        if self.blocks.get(block) != Some(&BlockId::of(bytes)) || bytes.len() as u64 != expected_length {
            return Err(wrong);
        }
        // Zeros need not be written, since the file is a hole where nothing was written yet.
        if bytes.iter().any(|byte| *byte != 0) {
            self.file.file().write_all_at(bytes, start).map_err(|source| writer.cannot_write(source))?;
        }
        let mut state = self.state.lock();
        if state.hashed == block {
            state.hasher.update(bytes);
            state.hashed += 1;
        }
        if !std::mem::replace(&mut state.present[block], true) {
            state.left -= 1;
        }
        Ok(state.left)
    }
}

/// Computes the digest of the whole file, of which `state` has already hashed the beginning.
fn digest(file: &TemporaryFile, size: u64, mut state: State) -> io::Result<ObjectId> {
    let mut position = (state.hashed as u64).saturating_mul(BLOCK_SIZE);
    let mut buffer = Vec::new();
    if position < size {
        buffer.resize(usize::try_from(BLOCK_SIZE).unwrap_or_default(), 0);
    }
    while position < size {
        let read = read_from(file.file(), position, &mut buffer)?;
        if read == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        state.hasher.update(&buffer[..read]);
        position += read as u64;
    }
    Ok(ObjectId::from_bytes(state.hasher.finalize().into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Wait;
    use crate::store::{Config, ObjectSource as _, Store};

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        };
        (0..length).map(|_| next()).collect()
    }

    #[test]
    fn large_object_is_received_in_any_order_of_blocks() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = Store::init(directory.path(), &Config::default()).expect("empty");
        let writer = store.writer(Wait::No).expect("not locked");
        let mut content = noise(LARGE_OBJECT as usize + 5);
        content[..BLOCK_SIZE as usize].fill(0);
        let id = ObjectId::of(&content);
        let blocks: Vec<&[u8]> = content.chunks(BLOCK_SIZE as usize).collect();
        let ids: Vec<BlockId> = blocks.iter().map(|block| BlockId::of(block)).collect();
        for order in [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [1, 0, 2, 4, 3]] {
            let incoming = writer.receive(id, content.len() as u64, ids.clone()).expect("room");
            assert!(incoming.put_block(&writer, 1, blocks[0]).is_err(), "another block");
            assert!(incoming.put_block(&writer, 5, b"").is_err(), "beyond the end");
            for (done, block) in order.into_iter().enumerate() {
                assert_eq!(incoming.put_block(&writer, block, blocks[block]).expect("right"), 4 - done);
            }
            writer.finish_receive(incoming).expect("complete");
        }
        let incoming = writer.receive(ObjectId::of(b"other"), content.len() as u64, ids.clone()).expect("room");
        (0..5).for_each(|block| assert!(incoming.put_block(&writer, block, blocks[block]).is_ok()));
        assert!(matches!(writer.finish_receive(incoming), Err(ReceiveError::WrongObject { .. })));
        assert!(writer.receive(id, 5 * BLOCK_SIZE + 1, ids).is_err(), "one block too few");
        writer.flush().expect("durable");
        let mut read = vec![0; content.len()];
        assert_eq!(store.read_at(id, 0, &mut read).expect("stored"), content.len());
        assert_eq!(read, content);
        assert!(!store.has_object(ObjectId::of(b"other")));
    }

    #[test]
    fn put_object_refuses_bytes_with_another_digest() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = Store::init(directory.path(), &Config::default()).expect("empty");
        let writer = store.writer(Wait::No).expect("not locked");
        for content in [noise(100), noise(200 << 10)] {
            let id = ObjectId::of(&content);
            assert!(writer.put_object(id, &content[1..]).is_err());
            assert!(!writer.has_object(id));
            writer.put_object(id, &content).expect("right");
            writer.flush().expect("durable");
            assert!(store.has_object(id));
        }
    }
}
