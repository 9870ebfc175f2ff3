//! Mounts whose workers are killed, stopped, starved and exchanged while programs use them.
//!
//! Programs of other projects (md5sum, g++, fio, Python's mmap) compare what a user of the mount sees with the committed tree.
//! The long forms, which give the project's figures, are ignored in ordinary runs:
//!
//! ```text
//! tests/run --long soak publisher kills
//! ```
mod alone;
mod crashes;
mod exchange;
mod failed_start;
mod interrupt;
mod load;
mod mount;
mod old_kernel;
mod publisher;
mod remote;
mod soak;
mod starved;
