//! Fidelity: a mount, an export and a listing show exactly what was committed.

mod commit_sources;
mod container_images;
mod mount_cli;
mod mount_forms;
mod mount_kernel;
mod oracles;
mod printing;
mod refs;
mod store;
mod trees;
mod unchanged;
mod verbs;
