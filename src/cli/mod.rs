//! Words in, words out (the rest of this module is being written elsewhere).

pub mod mount;
pub mod mounts;
pub mod umount;
