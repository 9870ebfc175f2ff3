//! Fidelity: what is seen through a mount, an export or a listing is what was committed.

mod fixtures;
mod mount_cli;
mod mount_kernel;
mod store;
mod trees;
mod unchanged;
