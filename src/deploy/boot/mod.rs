//! The boot menu: entries, the loaders that show them, and the kernels they start.
//!
//! Everything here but [`Menu`] and [`Loader`] is pure: texts in, values out, and back. Foreign entries are never touched.
//! What a deployment is, and which of them are to be in the menu, is decided above.

pub mod bls;
mod entry;
pub mod extlinux;
pub mod grub;
mod grubenv;
mod kernels;
mod loader;
mod menu;

pub use entry::{BootEntry, DeviceTree, EntryError, Target, Tries, WantedEntry, arrange, title_of};
pub use grubenv::{GrubEnv, GrubEnvError};
pub use kernels::{BootFile, DeviceTreeKind, Kernel, KernelError, KernelRecord, find as find_kernel};
pub use loader::{Loader, LoaderKind};
pub use menu::{BootError, Menu, Step, settle_disk};
