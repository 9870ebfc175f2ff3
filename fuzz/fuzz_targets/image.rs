//! Feeds the image reader whatever libFuzzer thinks of, through every operation.
#![no_main]

#[path = "../image.rs"]
mod image;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| image::exercise(data));
