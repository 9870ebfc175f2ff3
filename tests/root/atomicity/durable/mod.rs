//! Durability: what is on the disk after a power cut at any moment, and what a full or broken disk leaves behind.
//!
//! The program runs unchanged. A file system of the kernel (ext4, XFS, Btrfs) is on a disk that records every write and every
//! flush. From any part of that record that a disk may have kept, another disk is made; the file system recovers on it as after
//! a power cut, and the program is run on the result. Errors come from strace, which makes one system call after the other
//! fail.
//!
//! The long forms are ignored in ordinary runs:
//!
//! ```text
//! tests/run --long calls power-cuts every-cut
//! ```

mod crash;
mod deploy;
mod errors;
mod operations;
mod recorder;
