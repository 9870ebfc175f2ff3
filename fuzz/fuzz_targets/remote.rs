//! Feeds the reader of a web server's answers whatever libFuzzer thinks of. The first byte chooses what was asked for.
#![no_main]

#[path = "../remote.rs"]
mod remote;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| remote::exercise(data));
