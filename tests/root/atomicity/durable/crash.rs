//! The machine stops.

use std::collections::HashSet;
use std::time::Instant;

use super::deploy::GRUB;
use super::recorder::{AfterCrash, BTRFS, EXT4, EXT4_STRICT, Event, FileSystem, Recorder, SECTOR, XFS};
use super::work::{ALL, COMMIT, GC, PULL, Scene, Work};
use crate::common::sandbox::{Sandbox, finish};

/// The same numbers at each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }
}

/// What a disk lost of that which was written after the last flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    /// Nothing: it stopped in between.
    None,
    /// All of it.
    All,
    /// Some writes, in any order.
    Some,
    /// Some sectors.
    Torn,
}

/// What the disk holds if the machine stops after `count` events.
fn after(base: &[u8], events: &[Event], count: usize, loss: Loss, dice: &mut Dice) -> Vec<u8> {
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
                // The whole write has one fate, or each sector its own.
                Loss::Some => hash(index, 0).is_multiple_of(2),
                Loss::Torn => dice.below(2) == 0,
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

/// Moments at which to stop: all, or around each flush, where something becomes safe, and some in between.
fn moments(events: &[Event], most: usize, dice: &mut Dice) -> Vec<usize> {
    if most > events.len() {
        return (0..=events.len()).collect();
    }
    let flushes = events.iter().enumerate().filter(|(_, event)| matches!(event, Event::Flush)).map(|(at, _)| at);
    let mut around: Vec<usize> = flushes.flat_map(|at| [at, at + 1]).collect();
    while around.len() > most * 2 / 3 {
        around.remove(dice.below(around.len()));
    }
    let between = (around.len()..most).map(|_| dice.below(events.len() + 1));
    let moments: HashSet<usize> = around.iter().copied().chain(between).chain([events.len()]).collect();
    let mut moments: Vec<usize> = moments.into_iter().collect();
    moments.sort_unstable();
    moments
}

/// Interrupts `work` at so many moments. Returns a line of figures.
#[track_caller]
fn survives(work: &Work, kind: &'static FileSystem, most: usize) -> String {
    let begin = Instant::now();
    let sandbox = Sandbox::new(&format!("crash-{}-{}", work.name, kind.kind));
    let recorder = Recorder::new(&sandbox, kind);
    let scene = Scene::new(&sandbox, recorder.path());
    (work.prepare)(&scene);
    let base = recorder.begin();
    finish((work.change)(&scene)).success();
    recorder.said();
    let events = recorder.end();
    let said = events.iter().position(|event| matches!(event, Event::Said)).expect("it was said");
    let mut dice = Dice(0x1234_5678_9abc_def1);
    let (mut states, mut news) = (0, 0);
    let writes = events.iter().filter(|event| matches!(event, Event::Write { .. })).count();
    let flushes = events.iter().filter(|event| matches!(event, Event::Flush)).count();
    assert!(flushes > 0, "{} makes nothing durable", work.name);
    for count in moments(&events, most, &mut dice) {
        for loss in [Loss::None, Loss::All, Loss::Some, Loss::Torn] {
            let disk = after(&base, &events, count, loss, &mut dice);
            let crashed = AfterCrash::mount(&sandbox, recorder.kind(), &disk);
            let there = Scene { outside: scene.outside.clone(), disk: crashed.path().to_owned() };
            let is_new = (work.look)(&there);
            // Whoever was told that it is done can rely on it.
            assert!(
                is_new || count <= said,
                "{}: done, and lost by a crash after {count} events ({loss:?})",
                work.name
            );
            states += 1;
            news += usize::from(is_new);
        }
    }
    format!(
        "{} on {}: {writes} writes, {flushes} flushes, {states} states after a crash ({news} with the change), 0 lost; {} s",
        work.name,
        kind.name,
        begin.elapsed().as_secs()
    )
}

#[test]
fn a_crash_leaves_the_old_state_or_the_new_one() {
    for work in &[COMMIT, GC, PULL] {
        println!("{}", survives(work, &EXT4_STRICT, 5));
    }
}

#[test]
fn an_update_that_loses_its_power_leaves_a_machine_that_boots() {
    println!("{}", survives(&GRUB, &EXT4_STRICT, 4));
}

#[test]
fn on_other_file_systems_too() {
    for kind in [&XFS, &BTRFS] {
        println!("{}", survives(&COMMIT, kind, 2));
    }
}

#[test]
#[ignore = "takes half an hour"]
fn many_moments_on_every_file_system() {
    for kind in [&EXT4_STRICT, &EXT4, &XFS, &BTRFS] {
        for work in &ALL {
            println!("{}", survives(work, kind, 20));
        }
    }
}

#[test]
#[ignore = "takes an hour and more"]
fn every_moment_on_the_file_system_that_promises_least() {
    for work in &ALL {
        println!("{}", survives(work, &EXT4_STRICT, usize::MAX));
    }
}
