//! Sapwood stores whole root filesystems as commits in a content-addressed repository and exposes any commit as a
//! read-only FUSE mount.
//!
//! The modules are layers: each uses only those below it (`tests/unprivileged/tidy.rs` checks this), from [`cli`] at the top to
//! [`disk`] and [`sys`] at the bottom. The journey of a read is `fuse` → `vfs` → `image` and `store`; the journey of a
//! commit is `compose` → `store` → `image` → `disk`.

pub mod boot;
pub mod cache;
pub mod cli;
pub mod compose;
pub mod deploy;
pub mod disk;
pub mod export;
pub mod fuse;
pub mod image;
pub mod model;
pub mod remote;
pub mod store;
pub mod sys;
pub mod trust;
pub mod vfs;
