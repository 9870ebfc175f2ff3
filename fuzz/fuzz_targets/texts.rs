//! Feeds libFuzzer's inputs to the readers of small texts: treefiles, boot menus of three loaders, kernel command lines, merge
//! rules and merges, accounts, records of deployments, files of remotes, lists of packages. The first byte chooses the reader.

#[path = "../texts.rs"]
mod texts;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| texts::exercise(data));
