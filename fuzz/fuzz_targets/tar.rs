//! Feeds the reader of tar archives whatever libFuzzer thinks of.
#![no_main]

#[path = "../archive.rs"]
mod archive;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| archive::exercise(data));
