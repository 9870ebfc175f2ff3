//! The boot menu: its entries, the boot loaders that show them, and the kernels that they start.
//!
//! Everything but [`Menu`] and [`BootLoader`] is pure: it converts between texts and values.
//!
//! *Not here*: which deployments are in the menu (`deploy::boot_menu`).
//!
//! *Invariants*: entries of other systems are never changed.
//!
//! *Used by* the other modules of `deploy`, and by `cli`.

pub mod bls;
mod entry;
pub mod extlinux;
pub mod forecast;
pub mod grub;
mod grubenv;
mod kernels;
mod loader;
mod menu;
mod problems;
pub mod unified;
pub mod version;

pub use entry::{BootEntry, BootTries, DeviceTree, EntryError, EntryTarget, title_of};
pub(crate) use entry::{WantedEntry, assign_orders};
pub use grubenv::GrubEnv;
pub(crate) use kernels::{BootFile, Kernel, KernelError, KernelRecord, find as find_kernel};
pub(crate) use loader::{BootLoader, LoaderKind};
pub(crate) use menu::{BootError, Menu, sync_boot_partition};
pub(crate) use problems::{MenuProblem, MenuProblemKind, find as find_problems};
