//! Feeds libFuzzer's inputs to the readers of small signed records: envelopes, refs, commits, announcements, placements.
#![no_main]

#[path = "../records.rs"]
mod records;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| records::exercise(data));
