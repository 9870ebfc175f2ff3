//! Feeds libFuzzer's inputs to the reader of a web server's answers. The first byte chooses the request.
#![no_main]

#[path = "../remote.rs"]
mod remote;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| remote::exercise(data));
