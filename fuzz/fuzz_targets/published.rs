//! Feeds libFuzzer's inputs to the readers of published files: locators, frames, images, deltas, profiles. The first byte
//! chooses the reader.
#![no_main]

#[path = "../published.rs"]
mod published;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| published::exercise(data));
