//! The fuzz targets without a fuzzer: what they begin with, and what they found once, read by the same code.
//!
//! `fuzz/seeds/TARGET` has at least one input of each kind that is what it says, `fuzz/findings/TARGET` inputs that broke
//! something, as the fuzzer found them.

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
use sapwood::deploy::boot::{BootEntry, DeviceTree, Target, Tries};

/// How it is told which kind of input a seed is.
enum Told {
    /// By its first byte, as to the fuzzer's target.
    ByFirstByte,
    /// By its name alone, since every input is read as all kinds.
    ByName,
}

struct FuzzTarget {
    name: &'static str,
    exercise: fn(&[u8]),
    kinds: Vec<&'static str>,
    told: Told,
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
            Told::ByFirstByte => usize::from(bytes[0]) == kind,
            Told::ByName => name == self.kinds[kind],
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
        target("image", image::exercise, image::KINDS.to_vec(), Told::ByFirstByte),
        target("machine", machine::exercise, names(&machine::KINDS), Told::ByFirstByte),
        target("published", published::exercise, names(&published::KINDS), Told::ByFirstByte),
        target("records", records::exercise, records::KINDS.to_vec(), Told::ByName),
        target("remote", remote::exercise, names(&remote::KINDS), Told::ByFirstByte),
        target("tar", archive::exercise, archive::KINDS.to_vec(), Told::ByName),
        target("texts", texts::exercise, names(&texts::KINDS), Told::ByFirstByte),
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

/// A new target is not forgotten here.
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
fn seeds_and_findings_harm_no_target() {
    for target in targets() {
        for (_, bytes) in target.inputs("seeds").into_iter().chain(target.inputs("findings")) {
            (target.exercise)(&bytes);
        }
    }
}

/// Every seed of a target, cut off at lengths and with bytes changed so far apart, the first byte excepted.
fn damage(target: &str, step: usize) {
    let target = targets().into_iter().find(|found| found.name == target).expect("there is one");
    let first = match target.told {
        Told::ByFirstByte => 1,
        Told::ByName => 0,
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
fn damaged_words_of_processes_and_programs_are_refused_or_read() {
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

/// Texts with all that a line, a loader's language or a mark could trip over, and plain ones.
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
    let tries = proptest::option::of((0..60_u32, 0..60_u32).prop_map(|(left, done)| Tries { left, done }));
    let texts = (title, path(), vec(path(), 0..3), devicetree, vec(words(), 0..5));
    (any::<u32>(), tries, texts).prop_map(|(order, tries, (title, linux, initrd, devicetree, options))| {
        let deployment = "main/0123456789ab.0".parse().expect("legal");
        let options = options.into_iter().collect();
        BootEntry { order, tries, target: Target { deployment, title, linux, initrd, devicetree, options } }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]
    #[test]
    fn every_loader_reads_an_entry_as_it_was_written_or_refuses_it(entry in entries(), before in words()) {
        texts::menus::round_trip(&entry, &before);
    }
}
