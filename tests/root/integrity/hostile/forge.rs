//! Makes malformed published files, as an attacker could who runs the server, knows the formats, and has every key but the
//! publisher's.

use std::fs;
use std::path::Path;

use sapwood::model::{DeltaId, LocatorId};
use sapwood::remote::format::Placement;
use sapwood::remote::layout;
use sapwood::trust::{Envelope, SecretKey};

use super::fixture::Fixture;

/// Decompressed length of a bomb: far more than any process may hold.
const BOMB: usize = 1 << 30;

/// The records of a publication, parsed.
pub struct Forge<'a> {
    fixture: &'a Fixture,
    envelope: Envelope,
    pub placement: Placement,
}

impl<'a> Forge<'a> {
    pub fn of(fixture: &'a Fixture) -> Self {
        let published = fs::read(fixture.published.join("refs/main")).expect("published");
        let (envelope, placement) = Envelope::parse(&published).expect("a ref");
        Self { fixture, envelope, placement: Placement::parse(placement).expect("a placement") }
    }

    pub fn read(&self, path: &str) -> Vec<u8> {
        fs::read(self.fixture.published.join(path)).expect("published")
    }

    pub fn locator(&self) -> Vec<u8> {
        self.read(&layout::locator(self.placement.locator.id))
    }

    /// Returns the ref with `rest` after its signed part.
    pub fn reference_with(&self, rest: &[u8]) -> Vec<u8> {
        [&self.envelope.encode(), rest].concat()
    }

    /// Returns the ref with another placement, which is not signed.
    pub fn reference(&self, change: impl FnOnce(&mut Placement)) -> Vec<u8> {
        let mut placement = self.placement.clone();
        change(&mut placement);
        self.reference_with(&placement.render())
    }

    /// Returns the ref with a placement of this locator, and the locator.
    pub fn with_locator(&self, bytes: Vec<u8>) -> Vec<(String, Vec<u8>)> {
        let id = LocatorId::of(&bytes);
        let reference = self.reference(|placement| {
            placement.locator.id = id;
            placement.locator.length = bytes.len() as u64;
        });
        vec![("refs/main".to_owned(), reference), (layout::locator(id), bytes)]
    }

    /// Returns the ref with a placement of this delta from the same commit, and the delta; `head` is the length of its bytes
    /// before the patches.
    pub fn with_delta(&self, bytes: Vec<u8>, head: u64) -> Vec<(String, Vec<u8>)> {
        let id = DeltaId::of(&bytes);
        let reference = self.reference(|placement| {
            placement.deltas[0].id = id;
            placement.deltas[0].length = bytes.len() as u64;
            placement.deltas[0].head = head;
        });
        vec![("refs/main".to_owned(), reference), (layout::delta(id), bytes)]
    }

    /// Returns the secret key with this name.
    pub fn key(&self, name: &str) -> SecretKey {
        key(&self.fixture.sandbox.join("keys").join(format!("{name}.key")))
    }
}

pub fn key(path: &Path) -> SecretKey {
    fs::read_to_string(path).expect("made").parse().expect("a secret key")
}

/// Returns a zstd frame of some KiB that decompresses to a gigabyte.
pub fn bomb() -> Vec<u8> {
    zstd::stream::encode_all(std::io::Read::take(std::io::repeat(0), BOMB as u64), 1).expect("memory")
}

/// Overwrites a little-endian number.
pub fn put(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// Reads a little-endian number.
pub fn get(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
