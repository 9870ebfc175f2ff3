//! Runs the fuzz targets' code over their seeds and findings, without a fuzzer.
//!
//! `fuzz/seeds/TARGET` has at least one valid input of each kind, `fuzz/findings/TARGET` has inputs that broke something, as
//! the fuzzer found them.

#[path = "../../fuzz/archive.rs"]
mod archive;
#[path = "../../fuzz/image.rs"]
pub mod image;
#[path = "../../fuzz/machine.rs"]
mod machine;
#[path = "../../fuzz/published.rs"]
pub mod published;
#[path = "../../fuzz/records.rs"]
mod records;
#[path = "../../fuzz/remote.rs"]
mod remote;
#[path = "../../fuzz/texts.rs"]
mod texts;

use std::fs;
use std::path::{Path, PathBuf};

use proptest::collection::vec;
use proptest::prelude::*;
use sapwood::deploy::boot::{BootEntry, BootTries, DeviceTree, EntryTarget};

/// How the kind of a seed is determined.
enum KindSelector {
    /// By its first byte, as in the fuzz target.
    FirstByte,
    /// By its name alone, since every input is read as all kinds.
    FileName,
}

struct FuzzTarget {
    name: &'static str,
    exercise: fn(&[u8]),
    kinds: Vec<&'static str>,
    told: KindSelector,
}

impl FuzzTarget {
    /// Returns the inputs below `fuzz/DIRECTORY`; none when it has none.
    fn inputs(&self, directory: &str) -> Vec<(String, Vec<u8>)> {
        let directory = fuzz().join(directory).join(self.name);
        let listed = fs::read_dir(directory).into_iter().flatten().map(|entry| entry.expect("listed").path());
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        listed.map(|path| (name(&path), fs::read(&path).expect("readable"))).collect()
    }

    fn has_seed(&self, kind: usize, seeds: &[(String, Vec<u8>)]) -> bool {
        seeds.iter().any(|(name, bytes)| match self.told {
            KindSelector::FirstByte => usize::from(bytes[0]) == kind,
            KindSelector::FileName => name == self.kinds[kind],
        })
    }
}

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn targets() -> [FuzzTarget; 7] {
    fn names<T>(kinds: &[(&'static str, T)]) -> Vec<&'static str> {
        kinds.iter().map(|(name, _)| *name).collect()
    }
    let target = |name, exercise, kinds, told| FuzzTarget { name, exercise, kinds, told };
    [
        target("image", image::exercise, image::KINDS.to_vec(), KindSelector::FirstByte),
        target("machine", machine::exercise, names(&machine::KINDS), KindSelector::FirstByte),
        target("published", published::exercise, names(&published::KINDS), KindSelector::FirstByte),
        target("records", records::exercise, records::KINDS.to_vec(), KindSelector::FileName),
        target("remote", remote::exercise, names(&remote::KINDS), KindSelector::FirstByte),
        target("tar", archive::exercise, archive::KINDS.to_vec(), KindSelector::FileName),
        target("texts", texts::exercise, names(&texts::KINDS), KindSelector::FirstByte),
    ]
}

#[test]
fn every_target_has_a_seed_of_each_kind() {
    for target in targets() {
        let seeds = target.inputs("seeds");
        for (kind, name) in target.kinds.iter().enumerate() {
            assert!(target.has_seed(kind, &seeds), "{}: no seed for {name}", target.name);
        }
    }
}

/// A new target cannot be forgotten here.
#[test]
fn every_fuzz_target_is_replayed() {
    let listed = fs::read_dir(fuzz().join("fuzz_targets")).expect("part of the sources");
    let mut found: Vec<String> = listed
        .map(|entry| entry.expect("listed").path().file_stem().unwrap_or_default().to_string_lossy().into_owned())
        .collect();
    found.sort();
    assert_eq!(found, targets().map(|target| target.name.to_owned()));
}

#[test]
fn seeds_and_findings_panic_no_target() {
    for target in targets() {
        for (_, bytes) in target.inputs("seeds").into_iter().chain(target.inputs("findings")) {
            (target.exercise)(&bytes);
        }
    }
}

/// Runs every seed of a target truncated and with changed bytes, at every `step`th position; the first byte is kept.
fn damage(target: &str, step: usize) {
    let target = targets().into_iter().find(|found| found.name == target).expect("there is one");
    let first = match target.told {
        KindSelector::FirstByte => 1,
        KindSelector::FileName => 0,
    };
    for (_, bytes) in target.inputs("seeds") {
        (0..bytes.len()).step_by(step + 2).for_each(|length| (target.exercise)(&bytes[..length]));
        for at in (first..bytes.len()).step_by(step) {
            let mut changed = bytes.clone();
            changed[at] ^= 0x55;
            (target.exercise)(&changed);
        }
    }
}

#[test]
fn damaged_texts_are_refused_or_read() {
    damage("texts", 5);
}

#[test]
fn damaged_messages_of_processes_are_refused_or_read() {
    damage("machine", 5);
}

#[test]
fn damaged_answers_of_servers_are_refused_or_read() {
    damage("remote", 1);
}

#[test]
fn damaged_records_are_refused_or_read() {
    damage("records", 1);
}

#[test]
fn damaged_archives_are_refused_or_read() {
    damage("tar", 61);
}

/// Texts with special characters of lines, loaders' languages and marks, and plain ones.
fn words() -> impl Strategy<Value = String> {
    let odd = [
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "\0",
        "'",
        "\"",
        "\\",
        "#",
        "# end sapwood 0123abcd\n",
        "=",
        ",",
        "{",
        "}",
        ";",
        "$x",
        "a",
        "/b",
        "\u{a0}",
        "\u{85}",
        "LINUX ",
        "sapwood=main/0123456789ab.1",
    ];
    vec(prop::sample::select(odd.to_vec()), 0..6).prop_map(|parts| parts.concat())
}

fn entries() -> impl Strategy<Value = BootEntry> {
    let path = || prop_oneof![Just("/k/vmlinuz".to_owned()), Just("/a b".to_owned()), words()];
    let title = prop_oneof![Just("Debian".to_owned()), words()];
    let devicetree = prop_oneof![
        Just(None),
        path().prop_map(|path| Some(DeviceTree::File(path))),
        path().prop_map(|path| Some(DeviceTree::Directory(path))),
    ];
    let tries = proptest::option::of((0..60_u32, 0..60_u32).prop_map(|(left, done)| BootTries { left, done }));
    let texts = (title, path(), vec(path(), 0..3), devicetree, vec(words(), 0..5));
    (any::<u32>(), tries, texts).prop_map(|(order, tries, (title, linux, initrd, devicetree, options))| {
        let deployment = "main/0123456789ab.0".parse().expect("legal");
        let options = options.into_iter().collect();
        BootEntry { order, tries, target: EntryTarget { deployment, title, linux, initrd, devicetree, options } }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]
    #[test]
    fn boot_entry_round_trips_or_is_refused_by_each_loader(entry in entries(), before in words()) {
        texts::menus::round_trip(&entry, &before);
    }
}
