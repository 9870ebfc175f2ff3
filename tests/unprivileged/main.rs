//! Tests that need neither root nor `/dev/fuse`: formats, damaged bytes, the fuzzers' inputs, rules over the source text.
//!
//! `tests/README.md` says which file proves which promise.

#![allow(clippy::disallowed_methods, reason = "fixtures need neither atomic nor durable writes")]

#[path = "../common/mod.rs"]
mod common;

mod accounts;
mod answers;
mod archive;
mod archive_peers;
mod fuzzed;
mod help;
mod image;
mod published;
mod records;
mod tidy;
