//! Boots, from the initramfs to the shutdown, in namespaces and in virtual machines.
//!
//! `system` makes the system that is booted. Machines run one after another: each uses all processors.

#![allow(clippy::disallowed_methods, reason = "fixtures need neither atomic nor durable writes")]

#[path = "../common/mod.rs"]
mod common;
mod disk;
mod kernel;
mod lazy;
mod lifecycle;
mod loader;
mod long;
mod machine;
mod namespace;
mod power_cut;
mod selinux;
mod system;
mod verity;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Returns a guard that is held while a machine runs.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}
