//! Deploying to a directory: what a machine goes through in its life, and what it survives.
#![allow(clippy::disallowed_methods, reason = "fixtures need neither atomic nor durable writes")]

#[path = "../common/mod.rs"]
mod common;

mod etc;
mod kill;
mod lazy;
mod life;
mod loaders;
mod menu;
mod running;
mod space;
mod trust;
mod units;
