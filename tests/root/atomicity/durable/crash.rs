//! Power cuts during an operation: what is on the disk afterwards is the old state or the new one.

use std::collections::HashSet;
use std::time::Instant;

use super::deploy::GRUB;
use super::operations::{ALL, COMMIT, Fixture, GC, Operation, PULL};
use super::recorder::{AfterCrash, BTRFS, EXT4, EXT4_STRICT, Event, FileSystem, Recorder, SECTOR, XFS};
use crate::common::sandbox::{Sandbox, finish};

/// A random number generator with the same numbers at each run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }
}

/// What a disk lost of the writes after its last flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    /// Nothing.
    None,
    /// All of them.
    All,
    /// Some writes, in any order.
    Some,
    /// Some sectors of the writes.
    Torn,
}

/// Returns what the disk holds if the machine stops after `count` events.
fn after(base: &[u8], events: &[Event], count: usize, loss: Loss, random: &mut Random) -> Vec<u8> {
    let mut disk = base.to_vec();
    let last_flush = events[..count].iter().rposition(|event| matches!(event, Event::Flush)).map_or(0, |at| at + 1);
    for (index, event) in events[..count].iter().enumerate() {
        let Event::Write { offset, bytes } = event else { continue };
        let is_safe = index < last_flush;
        for (number, sector) in bytes.chunks(SECTOR).enumerate() {
            let is_lost = match loss {
                _ if is_safe => false,
                Loss::None => false,
                Loss::All => true,
                // Either a write is lost as a whole, or each of its sectors separately.
                Loss::Some => hash(index, 0).is_multiple_of(2),
                Loss::Torn => random.below(2) == 0,
            };
            if !is_lost {
                disk[*offset as usize + number * SECTOR..][..sector.len()].copy_from_slice(sector);
            }
        }
    }
    disk
}

fn hash(index: usize, salt: usize) -> usize {
    (index + salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33
}

/// Returns the moments of the power cuts: all, or those around each flush, after which data is safe, and some in between.
fn moments(events: &[Event], most: usize, random: &mut Random) -> Vec<usize> {
    if most > events.len() {
        return (0..=events.len()).collect();
    }
    let flushes = events.iter().enumerate().filter(|(_, event)| matches!(event, Event::Flush)).map(|(at, _)| at);
    let mut around: Vec<usize> = flushes.flat_map(|at| [at, at + 1]).collect();
    while around.len() > most * 2 / 3 {
        around.remove(random.below(around.len()));
    }
    let between = (around.len()..most).map(|_| random.below(events.len() + 1));
    let moments: HashSet<usize> = around.iter().copied().chain(between).chain([events.len()]).collect();
    let mut moments: Vec<usize> = moments.into_iter().collect();
    moments.sort_unstable();
    moments
}

/// Cuts the power at up to `most` moments of `operation`. Returns a line of figures.
#[track_caller]
fn survives_power_cuts(operation: &Operation, kind: &'static FileSystem, most: usize) -> String {
    let begin = Instant::now();
    let sandbox = Sandbox::new(&format!("crash-{}-{}", operation.name, kind.kind));
    let recorder = Recorder::new(&sandbox, kind);
    let fixture = Fixture::new(&sandbox, recorder.path());
    (operation.prepare)(&fixture);
    let base = recorder.begin();
    finish((operation.change)(&fixture)).success();
    recorder.note_done();
    let events = recorder.end();
    let said = events.iter().position(|event| matches!(event, Event::Done)).expect("it was said");
    let mut random = Random(0x1234_5678_9abc_def1);
    let (mut states, mut news) = (0, 0);
    let writes = events.iter().filter(|event| matches!(event, Event::Write { .. })).count();
    let flushes = events.iter().filter(|event| matches!(event, Event::Flush)).count();
    assert!(flushes > 0, "{} makes nothing durable", operation.name);
    for count in moments(&events, most, &mut random) {
        for loss in [Loss::None, Loss::All, Loss::Some, Loss::Torn] {
            let disk = after(&base, &events, count, loss, &mut random);
            let crashed = AfterCrash::mount(&sandbox, recorder.kind(), &disk);
            let there = Fixture { outside: fixture.outside.clone(), disk: crashed.path().to_owned() };
            let is_new = (operation.check)(&there);
            // Once the program has reported success, the change must be on the disk.
            assert!(
                is_new || count <= said,
                "{}: done, and lost by a crash after {count} events ({loss:?})",
                operation.name
            );
            states += 1;
            news += usize::from(is_new);
        }
    }
    format!(
        "{} on {}: {writes} writes, {flushes} flushes, {states} states after a crash ({news} with the change), 0 lost; {} s",
        operation.name,
        kind.name,
        begin.elapsed().as_secs()
    )
}

#[test]
fn power_cut_leaves_the_old_state_or_the_new_one() {
    for operation in &[COMMIT, GC, PULL] {
        println!("{}", survives_power_cuts(operation, &EXT4_STRICT, 5));
    }
}

#[test]
fn power_cut_during_an_update_leaves_a_bootable_machine() {
    println!("{}", survives_power_cuts(&GRUB, &EXT4_STRICT, 4));
}

#[test]
fn power_cut_leaves_old_or_new_state_on_xfs_and_btrfs() {
    for kind in [&XFS, &BTRFS] {
        println!("{}", survives_power_cuts(&COMMIT, kind, 2));
    }
}

#[test]
#[ignore = "takes half an hour"]
fn power_cuts_at_many_moments_on_every_file_system() {
    for kind in [&EXT4_STRICT, &EXT4, &XFS, &BTRFS] {
        for operation in &ALL {
            println!("{}", survives_power_cuts(operation, kind, 20));
        }
    }
}

#[test]
#[ignore = "takes an hour and more"]
fn power_cuts_at_every_moment_on_the_weakest_file_system() {
    for operation in &ALL {
        println!("{}", survives_power_cuts(operation, &EXT4_STRICT, usize::MAX));
    }
}
