//! Tests that need root: they mount, make device nodes and foreign owners, each in a mount namespace of its own.
//!
//! Each folder is a promise or a journey; `tests/README.md` says which file proves which promise.

#![allow(clippy::disallowed_methods, reason = "fixtures need neither atomic nor durable writes")]

#[path = "../common/mod.rs"]
mod common;

mod atomicity;
mod compose;
mod deploy;
mod fidelity;
mod handbook;
mod integrity;
mod remote;
mod scale;
mod survive;
