//! Booting: from the initramfs to shutdown, in namespaces and in virtual machines.
//!
//! The system is the one of `system`. Machines run one after another: each is a whole computer, and there are few processors.

#![allow(clippy::disallowed_methods, reason = "fixtures need neither atomic nor durable writes")]

#[path = "../common/mod.rs"]
mod common;
mod cut;
mod disk;
mod kernel;
mod lazy;
mod loader;
mod long;
mod machine;
mod namespace;
mod selinux;
mod story;
mod system;
mod verity;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Held by whoever runs a machine.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}
