//! The work of the initramfs: it assembles the `/` of a deployment from the mounted physical root.
//!
//! Its parts: `command_line` parses the kernel arguments, `policy` says what
//! the initramfs allows, `verify` checks the commit and the skeleton, `tree` plans the mounts and makes them.
//!
//! *Not here*: mounting the commit on `/usr`. `cli::prepare_root` does that from inside the new root, as for any other mount.
//! So the processes behind that mount have the new `/` as their root directory and find `/proc`, `/run` and `/etc` when the
//! initramfs is gone; they reach the repository through descriptors that were opened before.
//!
//! *Invariants*: until the last step the physical root is only made writable, not changed. If an earlier step fails, the
//! initramfs can go on to an emergency shell.
//!
//! *Used by* `cli::prepare_root`.

pub mod command_line;
pub(crate) mod policy;
pub(crate) mod tree;
pub(crate) mod verify;
