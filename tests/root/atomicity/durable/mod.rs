//! What is on the disk after the machine stops at any moment, and what a full or a broken disk leaves behind.
//!
//! Nothing of the program is replaced for this. A file system nobody here wrote (ext4, XFS, Btrfs) stands on a disk that
//! notes every write and every flush; any part of that record that a disk may have kept makes another disk, on which the
//! file system recovers as it does after a power cut, and the program finds what it finds. Errors come from strace, which
//! has one system call after the other fail.
//!
//! The long forms are ignored unless asked for:
//!
//! ```text
//! tests/run --long calls power-cuts every-cut
//! ```

mod crash;
mod deploy;
mod errors;
mod recorder;
mod work;
