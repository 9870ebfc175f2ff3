//! Sapwood stores whole root filesystems as commits in a content-addressed repository and exposes any commit as a
//! read-only FUSE mount.
//!
//! The modules are layers: each uses only those below it (`tests/unprivileged/tidy.rs` checks this), from [`cli`] at the top
//! to [`disk`] and [`sys`] at the bottom. A read passes through `fuse` → `vfs` → `image` and `store`; making a commit passes
//! through `compose` → `store` → `image` → `disk`.
//!
//! *Not here*: printing and the parsing of arguments, which only [`cli`] does, and `unsafe` code, which only [`sys`] has.
//!
//! *Used by* the programs `sapwood`, `mount.sapwood` and `sapwood-prepare-root`, tests, benchmarks and fuzz targets.

pub mod boot;
pub mod cache;
pub mod cli;
pub mod compose;
pub mod deploy;
pub mod disk;
mod error;
pub mod export;
pub mod fuse;
pub mod image;
pub mod model;
pub mod mount;
pub mod remote;
pub(crate) mod source;
pub mod store;
pub mod sys;
pub mod trust;
pub mod vfs;
