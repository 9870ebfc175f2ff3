//! Damaged and hostile bytes cause no panic and no endless loop, and `verify` notices them. It does what the fuzzer does, on a
//! stable compiler.

use proptest::collection::vec;
use proptest::prelude::*;
use sapwood::image::{Image, encode};
use sapwood::sys::Mapping;

use super::arbitrary::{build, metadata, steps};
use crate::fuzzed::image::exercise::{exercise, exercise_bytes, reseal};

/// Positions and bytes to write: positions are modulo the length, a quarter of them in the header.
fn writes() -> impl Strategy<Value = Vec<(usize, u8)>> {
    vec((any::<usize>(), prop_oneof![any::<u8>(), Just(0), Just(1), Just(255)]), 1..6)
}

fn position(at: usize, length: usize, sections: &[(usize, usize)]) -> usize {
    // Most bytes of a small image are padding: choose the header and the sections, each equally often.
    let (start, size) = sections[at % sections.len()];
    (start + (at / 64) % size).min(length - 1)
}

/// Returns start and length of the header and the sections of an image.
pub fn regions(bytes: &[u8]) -> Vec<(usize, usize)> {
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes")) as usize;
    let sections = u32::from_le_bytes(bytes[68..72].try_into().expect("four bytes")) as usize;
    let rows = (0..sections).map(|row| (number(72 + row * 24 + 8), number(72 + row * 24 + 16)));
    std::iter::once((0, 72 + 24 * sections)).chain(rows).collect()
}

proptest! {
    #[test]
    fn verify_notices_damage((root, steps) in (metadata(), steps(30)), writes in writes()) {
        let encoded = encode(&build(&root, &steps)).expect("legal");
        let mut bytes = encoded.bytes.clone();
        let regions = regions(&bytes);
        writes.iter().for_each(|(at, value)| {
            let at = position(*at, bytes.len(), &regions);
            bytes[at] = *value;
        });
        if let Ok(image) = Image::open(Mapping::of_bytes(bytes.clone())) {
            let is_noticed = image.verify().is_err() || image.id() != encoded.id;
            prop_assert!(is_noticed || bytes == encoded.bytes);
            exercise(&image);
        }
    }

    #[test]
    fn images_that_pass_verify_are_canonical((root, steps) in (metadata(), steps(30)), writes in writes()) {
        let mut bytes = encode(&build(&root, &steps)).expect("legal").bytes;
        let regions = regions(&bytes);
        writes.iter().for_each(|(at, value)| {
            let at = position(*at, bytes.len(), &regions);
            bytes[at] = *value;
        });
        reseal(&mut bytes);
        exercise_bytes(bytes);
    }

    #[test]
    fn truncated_images_do_not_open((root, steps) in (metadata(), steps(30)), cut in any::<usize>()) {
        let bytes = encode(&build(&root, &steps)).expect("legal").bytes;
        let cut = cut % bytes.len();
        prop_assert!(Image::open(Mapping::of_bytes(bytes[..cut].to_vec())).is_err());
        let longer = [bytes, vec![0]].concat();
        prop_assert!(Image::open(Mapping::of_bytes(longer)).is_err());
    }

    #[test]
    fn arbitrary_bytes_cause_no_panic(bytes in vec(any::<u8>(), 0..6000)) {
        exercise_bytes(bytes);
    }
}
