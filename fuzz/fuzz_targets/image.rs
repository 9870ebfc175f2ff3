//! Feeds libFuzzer's inputs to every operation of the image reader.
#![no_main]

#[path = "../image.rs"]
mod image;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| image::exercise(data));
