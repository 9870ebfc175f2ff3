//! The requests of a worker to its broker, and the responses.
//!
//! ```text
//! request   a packet without meaning, with the descriptor of an anonymous file:
//!           length of the head (u32) · head (JSON) · contents, one after the other
//! response  a packet: JSON
//! ```
//!
//! Both processes are of the same program, so there is no version.
//!
//! *Invariant*: the broker copies a request before it reads it, since the worker can change the file.
//!
//! *Used by* `client` and `server`.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;

use bytes::Bytes;
use rustix::fs::MemfdFlags;

use crate::cache::{ChangeOutcome, ContentChange, NewObject};
use crate::model::ObjectId;

/// The largest accepted request in bytes. A batch of objects has at most 12 MiB, and a map of uses at most 4 MiB.
const REQUEST_MAX: u64 = 64 << 20;

/// The largest response in bytes.
pub(super) const RESPONSE_MAX: usize = 4096;

/// The head of a request.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Head {
    AddObjects(Vec<(u32, Option<ObjectId>)>),
    RepairBlock { object: ObjectId, block: u32, length: u32 },
    PromoteObject(ObjectId),
    CompleteCommit,
    Evict { limit: u64, target: u64 },
    RecordUses(Vec<(ObjectId, u32)>),
    SavePlacement { length: u32 },
}

/// A response.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(super) enum Response {
    Done(ChangeOutcome),
    /// Another process is writing to the repository.
    Locked,
    /// The change was not made, for this reason.
    Failed(String),
}

/// Writes a change into an anonymous file.
pub(super) fn write_request(change: ContentChange) -> io::Result<File> {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput);
    let mut contents: Vec<Bytes> = Vec::new();
    let head = match change {
        ContentChange::AddObjects(objects) => {
            let entry = |object: NewObject| {
                let entry = (length(&object.bytes)?, object.replaces);
                contents.push(object.bytes);
                Ok::<_, io::Error>(entry)
            };
            Head::AddObjects(objects.into_iter().map(entry).collect::<Result<_, _>>()?)
        }
        ContentChange::RepairBlock { object, block, bytes } => {
            let length = length(&bytes)?;
            contents.push(bytes);
            Head::RepairBlock { object, block, length }
        }
        ContentChange::PromoteObject(id) => Head::PromoteObject(id),
        ContentChange::CompleteCommit => Head::CompleteCommit,
        ContentChange::Evict { limit, target } => Head::Evict { limit, target },
        ContentChange::RecordUses(uses) => Head::RecordUses(uses.into_iter().collect()),
        ContentChange::SavePlacement(text) => {
            let length = length(&text)?;
            contents.push(text.into());
            Head::SavePlacement { length }
        }
    };
    let head = serde_json::to_vec(&head)?;
    let mut file = File::from(rustix::fs::memfd_create("sapwood-change", MemfdFlags::CLOEXEC)?);
    file.write_all(&length(&head)?.to_le_bytes())?;
    file.write_all(&head)?;
    contents.iter().try_for_each(|bytes| file.write_all(bytes))?;
    Ok(file)
}

/// Reads a change from a file that [`write_request`] wrote.
///
/// # Errors
/// `InvalidData` when the file is none.
pub(super) fn read_request(file: &File) -> io::Result<ContentChange> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let length = file.metadata()?.len();
    if length > REQUEST_MAX {
        return Err(invalid());
    }
    let mut bytes = vec![0; usize::try_from(length).map_err(|_| invalid())?];
    file.read_exact_at(&mut bytes, 0)?;
    let mut rest = Bytes::from(bytes);
    let mut take = |length: u32| {
        let length = length as usize;
        if length <= rest.len() { Ok(rest.split_to(length)) } else { Err(invalid()) }
    };
    let head_length = u32::from_le_bytes(take(4)?.as_ref().try_into().map_err(|_| invalid())?);
    let head: Head = serde_json::from_slice(&take(head_length)?)?;
    Ok(match head {
        Head::AddObjects(entries) => {
            let objects =
                entries.into_iter().map(|(length, replaces)| Ok(NewObject { bytes: take(length)?, replaces }));
            ContentChange::AddObjects(objects.collect::<io::Result<_>>()?)
        }
        Head::RepairBlock { object, block, length } => {
            ContentChange::RepairBlock { object, block, bytes: take(length)? }
        }
        Head::PromoteObject(id) => ContentChange::PromoteObject(id),
        Head::CompleteCommit => ContentChange::CompleteCommit,
        Head::Evict { limit, target } => ContentChange::Evict { limit, target },
        Head::RecordUses(uses) => ContentChange::RecordUses(uses.into_iter().collect()),
        Head::SavePlacement { length } => ContentChange::SavePlacement(take(length)?.to_vec()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn change_is_read_as_it_was_written() {
        let id = ObjectId::of(b"x");
        let object = |bytes: &'static [u8], replaces| NewObject { bytes: Bytes::from_static(bytes), replaces };
        let changes = [
            ContentChange::AddObjects(vec![object(b"one", None), object(b"", None), object(b"x", Some(id))]),
            ContentChange::RepairBlock { object: id, block: 7, bytes: Bytes::from_static(b"block") },
            ContentChange::PromoteObject(id),
            ContentChange::CompleteCommit,
            ContentChange::Evict { limit: u64::MAX, target: 3 },
            ContentChange::RecordUses([(id, 9)].into()),
            ContentChange::SavePlacement(b"{}".to_vec()),
        ];
        for change in changes {
            let file = write_request(change.clone()).expect("enough memory");
            assert_eq!(read_request(&file).expect("as it was written"), change);
        }
    }

    #[test]
    fn broken_requests_are_refused() {
        let file = write_request(ContentChange::SavePlacement(b"text".to_vec())).expect("enough memory");
        let length = file.metadata().expect("a file").len();
        for shorter in 0..length {
            file.set_len(shorter).expect("writable");
            assert!(read_request(&file).is_err(), "{shorter} of {length} bytes");
        }
        file.set_len(REQUEST_MAX + 1).expect("sparse");
        assert!(read_request(&file).is_err());
        let head = br#"{"add-objects":[[4294967295,null]]}"#;
        let mut long = File::from(rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC).expect("enough memory"));
        long.write_all(&(head.len() as u32).to_le_bytes()).expect("writable");
        long.write_all(head).expect("writable");
        assert!(read_request(&long).is_err(), "it states more bytes than it has");
    }
}
