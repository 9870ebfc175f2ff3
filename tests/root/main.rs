//! What needs root: tests that mount, make device nodes and foreign owners, each in a mount namespace of its own.
//!
//! A folder for each promise or journey; `tests/README.md` says which file proves which promise.

#![allow(clippy::disallowed_methods, reason = "fixtures need neither atomic nor durable writes")]

#[path = "../common/mod.rs"]
mod common;

mod atomicity;
mod compose;
mod deploy;
mod fidelity;
mod integrity;
mod remote;
mod scale;
mod survive;
