//! Makes commits bootable on a machine: deployments side by side, the three-way merge of `/etc`, the boot menu, and rollback.
//!
//! `plan` says what deploying a commit would do and writes nothing. `apply` creates the deployment under a temporary name,
//! records it as staged and renames it. At once or when the machine shuts down, it puts the deployment into the boot menu and
//! removes deployments that are not needed any more. All of this works on a plain directory, too.
//!
//! *Not here*: how commits are fetched (`remote`), mounting a deployment at boot (`boot`), messages to users (`cli`).
//!
//! *Invariants*: at every moment the boot loader finds a menu with an entry that boots a complete deployment. The running
//! deployment, the default, the one to roll back to and pinned ones are never removed automatically. Only a
//! [`Verified`](crate::trust::Verified) commit is deployed. If a process is killed, the next operation finds out from the disk
//! how far it came.
//!
//! *Used by* `cli` and `boot`.
//!
//! | module | holds |
//! | --- | --- |
//! | `id`, `layout`, `config`, `origin`, `update_state` | names, paths, and the small TOML files |
//! | `sysroot` | opening a sysroot, its lock, and its state as it was read at once |
//! | `upgrade` | asking a remote for the newest commit, and fetching it |
//! | `choose` | checking the signature of the commit to deploy |
//! | `plan`, `kargs`, `services`, `skeleton`, `space`, `retention` | what would be done, mostly pure |
//! | `etc` | the merge of `/etc`, its journal, and edits of a live `/etc` |
//! | `boot` | the boot menus of three boot loaders, and the kernel of a commit |
//! | `apply`, `boot_menu`, `removal`, `leftover`, `health`, `conflicts`, `first_boot` | the changes of a sysroot |
//! | `status`, `history` | what is shown to users |
//! | `commit_files`, `program_libraries` | reading files of a commit |

pub(crate) mod apply;
pub mod boot;
pub(crate) mod boot_menu;
pub(crate) mod choose;
pub(crate) mod commit_files;
pub mod config;
pub(crate) mod conflicts;
pub(crate) mod error;
pub mod etc;
pub(crate) mod first_boot;
pub(crate) mod health;
pub(crate) mod history;
pub(crate) mod id;
pub mod kargs;
pub(crate) mod layout;
pub(crate) mod leftover;
pub mod origin;
pub(crate) mod plan;
pub(crate) mod program_libraries;
pub(crate) mod removal;
pub(crate) mod retention;
pub(crate) mod services;
pub(crate) mod skeleton;
pub(crate) mod space;
pub(crate) mod status;
pub mod sysroot;
pub(crate) mod update_state;
pub(crate) mod upgrade;
