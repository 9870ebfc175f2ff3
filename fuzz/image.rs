//! Reads bytes as an image and calls every operation. Shared by the fuzz target and the test over its seeds.
//!
//! The first byte chooses how the rest is used: as an image, as an image whose block digests are corrected first, or as changes
//! to the golden image (four bytes of position and the byte to put there), with or without corrected digests.

#[path = "exercise.rs"]
pub mod exercise;

use exercise::{exercise_bytes, reseal};

const GOLDEN: &[u8] = include_bytes!("../tests/golden/small.image");

/// Kinds of input, in the order of their first byte.
pub const KINDS: [&str; 4] = ["image", "image-resealed", "changes", "changes-resealed"];

/// Uses bytes as their first byte says.
pub fn exercise(data: &[u8]) {
    let Some((mode, data)) = data.split_first() else { return };
    let mut bytes = if mode & 2 == 0 { data.to_vec() } else { changed(data) };
    if mode & 1 != 0 {
        reseal(&mut bytes);
    }
    exercise_bytes(bytes);
}

fn changed(data: &[u8]) -> Vec<u8> {
    let mut bytes = GOLDEN.to_vec();
    for change in data.chunks_exact(5).take(64) {
        let at = u32::from_le_bytes([change[0], change[1], change[2], change[3]]) as usize % bytes.len();
        bytes[at] = change[4];
    }
    bytes
}
