//! Feeds libFuzzer's inputs to the readers of messages between processes and programs of a machine. The first byte chooses the
//! reader.
#![no_main]

#[path = "../machine.rs"]
mod machine;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| machine::exercise(data));
