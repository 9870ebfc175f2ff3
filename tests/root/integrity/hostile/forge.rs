//! Files as somebody makes them who runs the server, knows the formats, and has every key but the publisher's.

use std::fs;
use std::path::Path;

use sapwood::model::{DeltaId, LocatorId};
use sapwood::remote::format::Placement;
use sapwood::remote::layout;
use sapwood::trust::{Envelope, SecretKey};

use super::scene::Scene;

/// Bytes that a bomb unpacks to: far more than anybody may hold.
const BOMB: usize = 1 << 30;

/// What is published, taken apart.
pub struct Forge<'a> {
    scene: &'a Scene,
    envelope: Envelope,
    pub placement: Placement,
}

impl<'a> Forge<'a> {
    pub fn of(scene: &'a Scene) -> Self {
        let published = fs::read(scene.published.join("refs/main")).expect("published");
        let (envelope, placement) = Envelope::parse(&published).expect("a ref");
        Self { scene, envelope, placement: Placement::parse(placement).expect("a placement") }
    }

    pub fn read(&self, path: &str) -> Vec<u8> {
        fs::read(self.scene.published.join(path)).expect("published")
    }

    pub fn locator(&self) -> Vec<u8> {
        self.read(&layout::locator(self.placement.locator.id))
    }

    /// The ref with whatever behind its signed part.
    pub fn reference_with(&self, rest: &[u8]) -> Vec<u8> {
        [&self.envelope.encode(), rest].concat()
    }

    /// The ref with another placement, which nobody signs.
    pub fn reference(&self, change: impl FnOnce(&mut Placement)) -> Vec<u8> {
        let mut placement = self.placement.clone();
        change(&mut placement);
        self.reference_with(&placement.render())
    }

    /// The ref that leads to another locator, and that.
    pub fn with_locator(&self, bytes: Vec<u8>) -> Vec<(String, Vec<u8>)> {
        let id = LocatorId::of(&bytes);
        let reference = self.reference(|placement| {
            placement.locator.id = id;
            placement.locator.length = bytes.len() as u64;
        });
        vec![("refs/main".to_owned(), reference), (layout::locator(id), bytes)]
    }

    /// The ref that leads to another delta from the same commit, and that; `head` are its bytes before the patches.
    pub fn with_delta(&self, bytes: Vec<u8>, head: u64) -> Vec<(String, Vec<u8>)> {
        let id = DeltaId::of(&bytes);
        let reference = self.reference(|placement| {
            placement.deltas[0].id = id;
            placement.deltas[0].length = bytes.len() as u64;
            placement.deltas[0].head = head;
        });
        vec![("refs/main".to_owned(), reference), (layout::delta(id), bytes)]
    }

    /// The secret key with this name.
    pub fn key(&self, name: &str) -> SecretKey {
        key(&self.scene.sandbox.join("keys").join(format!("{name}.key")))
    }
}

pub fn key(path: &Path) -> SecretKey {
    fs::read_to_string(path).expect("made").parse().expect("a secret key")
}

/// A zstd frame of some KiB that unpacks to a gigabyte.
pub fn bomb() -> Vec<u8> {
    zstd::stream::encode_all(std::io::Read::take(std::io::repeat(0), BOMB as u64), 1).expect("memory")
}

/// Overwrites a little-endian number.
pub fn put(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// The number there.
pub fn get(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
