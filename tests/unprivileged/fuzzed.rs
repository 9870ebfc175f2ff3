//! What the fuzzer begins with: texts and archives that are what they say, read by the same code that is fuzzed.

#[path = "../../fuzz/archive.rs"]
mod archive;
#[path = "../../fuzz/texts.rs"]
mod texts;

use std::fs;
use std::path::{Path, PathBuf};

fn seeds(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let paths = fs::read_dir(directory).expect("it is part of the sources").map(|entry| entry.expect("listed").path());
    paths.map(|path| (path.clone(), fs::read(path).expect("readable"))).collect()
}

#[test]
fn each_kind_of_text_has_a_seed_and_none_of_them_harms() {
    let seeds = seeds("texts");
    for (kind, (name, _)) in texts::KINDS.iter().enumerate() {
        let is_of_kind = |(_, bytes): &&(PathBuf, Vec<u8>)| usize::from(bytes[0]) == kind;
        assert!(seeds.iter().any(|seed| is_of_kind(&seed)), "no seed for {name}");
    }
    seeds.iter().for_each(|(_, bytes)| texts::exercise(bytes));
}

/// Every seed, cut off at each length and with each byte changed.
#[test]
fn damaged_texts_are_refused_or_read() {
    for (_, bytes) in seeds("texts") {
        (0..bytes.len()).step_by(7).for_each(|length| texts::exercise(&bytes[..length]));
        for at in (1..bytes.len()).step_by(5) {
            let mut changed = bytes.clone();
            changed[at] ^= 0x55;
            texts::exercise(&changed);
        }
    }
}

#[test]
fn damaged_archives_are_refused_or_read() {
    for (_, bytes) in seeds("tar") {
        archive::exercise(&bytes);
        (0..bytes.len()).step_by(97).for_each(|length| archive::exercise(&bytes[..length]));
        for at in (0..bytes.len()).step_by(61) {
            let mut changed = bytes.clone();
            changed[at] ^= 0x55;
            archive::exercise(&changed);
        }
    }
}
