//! Feeds the readers of published files whatever libFuzzer thinks of: locators, frames, images, deltas, profiles. The first byte
//! chooses which.
#![no_main]

#[path = "../published.rs"]
mod published;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| published::exercise(data));
