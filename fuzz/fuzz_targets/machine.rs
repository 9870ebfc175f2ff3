//! Feeds the readers of what processes and programs of a machine tell one another whatever libFuzzer thinks of. The first byte
//! chooses which.
#![no_main]

#[path = "../machine.rs"]
mod machine;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| machine::exercise(data));
