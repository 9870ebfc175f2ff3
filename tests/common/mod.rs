//! Helpers of the test programs: a sandbox to mount in, trees to commit, oracles to compare trees with, servers, links.
//!
//! *Invariants*: the program is run as a user runs it, and trees are compared by the tools of the distribution. If the machine
//! lacks something (root, `/dev/fuse`, a package), the test fails and says so; no test skips itself.
#![allow(dead_code, reason = "each test program uses its part")]
#![allow(clippy::disallowed_methods, reason = "fixtures need neither atomic nor durable writes")]

pub mod facts;
pub mod link;
pub mod listener;
pub mod machine;
pub mod menu;
pub mod process;
pub mod programs;
pub mod published;
pub mod random;
pub mod sandbox;
pub mod scripted_server;
pub mod tracee;
pub mod trees;
pub mod web;
