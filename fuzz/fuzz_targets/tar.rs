//! Feeds libFuzzer's inputs to the reader of tar archives.
#![no_main]

#[path = "../archive.rs"]
mod archive;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| archive::exercise(data));
