//! Mounts whose workers are killed, stopped, starved and exchanged while programs use them.
//!
//! What a user of the mount sees is compared with the tree that was committed, by programs that nobody here wrote: md5sum,
//! g++, fio, Python's mmap. The long forms, which the project's figures come from, are ignored unless asked for:
//!
//! ```text
//! tests/run --long soak publisher kills
//! ```
mod alone;
mod crashes;
mod exchange;
mod interrupt;
mod load;
mod mount;
mod old_kernel;
mod publisher;
mod refused;
mod remote;
mod soak;
mod starved;
