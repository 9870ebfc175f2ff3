//! From the mounted physical root to the `/` of a deployment: what an initramfs does before it leaves.
//!
//! Parse (`command_line`), check (`verify`), plan and mount (`tree`). The filesystem of `/usr` itself is mounted by `cli`, from
//! inside the new root, as any other mount: the processes behind it have the new `/` for theirs, so that they find `/proc`,
//! `/run` and `/etc` when the initramfs is gone, and reach the repository by what they opened before.
//!
//! Invariant: until the last step the physical root is not touched, but for being made writable; whatever fails before leaves
//! an initramfs that can go on to an emergency shell.

pub mod command_line;
pub mod tree;
pub mod verify;
