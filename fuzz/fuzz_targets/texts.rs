//! Feeds the readers of small texts whatever libFuzzer thinks of: treefiles, boot menus of three loaders, kernel command lines,
//! merge rules and merges, accounts, records of deployments, files of remotes, lists of packages. The first byte chooses which.
#![no_main]

#[path = "../texts.rs"]
mod texts;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| texts::exercise(data));
