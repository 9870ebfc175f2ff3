//! A machine's bootable commits: deployments beside each other, `/etc` merged three ways, the boot menu, going back.
//!
//! One journey: `plan` says what deploying a commit would do and writes nothing; `apply` makes the deployment under a name
//! that means nothing, records it as staged, names it, and, at once or when the machine shuts down, puts it into the boot
//! menu and removes what is not needed any more. Everything works on a plain directory, too.
//!
//! Invariants. At every moment the boot loader finds a menu in which something boots, and what it boots is whole. What runs,
//! what boots next, what to go back to and what is pinned is never removed. A commit gets here only as
//! [`Verified`](crate::trust::Verified). Whatever is killed, the next operation finds out from the disk how far it came.
//!
//! | module | holds |
//! | --- | --- |
//! | `id`, `layout`, `config`, `origin`, `records` | names, places, and the small files |
//! | `sysroot` | everything on a sysroot, read at once; the lock |
//! | `source` | which commit, and who vouches for it |
//! | `plan`, `kargs`, `services`, `skeleton`, `space`, `roots` | what would be done, mostly pure |
//! | `etc` | the merge of `/etc`, its journal, and changes of it |
//! | `boot` | boot menus of three loaders |
//! | `menu`, `apply`, `removal`, `health`, `conflicts` | doing it |
//! | `status`, `history`, `files`, `programs` | telling about it |

pub mod apply;
pub mod boot;
pub mod config;
pub mod conflicts;
pub mod error;
pub mod etc;
pub mod files;
pub mod health;
pub mod history;
pub mod id;
pub mod kargs;
pub mod layout;
pub mod menu;
pub mod origin;
pub mod plan;
pub mod programs;
pub mod records;
pub mod removal;
pub mod roots;
pub mod services;
pub mod skeleton;
pub mod source;
pub mod space;
pub mod status;
pub mod sysroot;
