//! What the tests that run the program share: a sandbox to mount in, trees to commit, oracles to compare trees with.
//!
//! Nothing here knows how Sapwood works: the program is run as a user runs it, and trees are compared by the tools of
//! the distribution. What a test needs and the machine lacks (root, `/dev/fuse`, a package) is a failure that says so;
//! no test skips itself.
#![allow(dead_code, reason = "each test program uses its part")]
#![allow(clippy::disallowed_methods, reason = "fixtures need neither atomic nor durable writes")]

pub mod facts;
pub mod link;
pub mod listener;
pub mod machine;
pub mod menu;
pub mod odd;
pub mod process;
pub mod programs;
pub mod published;
pub mod sandbox;
pub mod trees;
pub mod web;
