//! From a root that a package manager filled to the tree of an image-based system.
//!
//! One file a step; each is a function of a [`Draft`] with a test of its own, and [`apply`] is their order. Nothing is
//! read from or written to the disk but the few files that are edited.
//!
//! # What is the same in two runs
//! A root installed twice from the same packages differs in what follows, and each is brought to one value:
//!
//! | what differs | where it is settled |
//! | --- | --- |
//! | times of what scripts wrote | [`times`]: none is later than the commit's |
//! | machine-id, host keys, seeds, host name, resolver | [`leftovers`]: removed |
//! | logs, caches (ldconfig's, apt's, debconf's, man's), lists of packages, locks, backup files | [`leftovers`]: removed |
//! | order of paragraphs in dpkg's status | [`databases`]: sorted by name |
//! | numbers of users and groups, if packages are installed in another order | [`users`]: as in the parent |
//! | day of the last password change in `/etc/shadow` | [`users`]: emptied |
//! | install times and row order of rpm's database | the dnf engine, before the root is scanned |
//! | compiled Python files and initramfs | `SOURCE_DATE_EPOCH`, when they are made |
//! | device nodes, which ordinary users cannot make | [`leftovers`]: removed |

pub mod databases;
pub mod error;
pub mod etc;
pub mod kernel;
pub mod leftovers;
pub mod links;
pub mod os_release;
pub mod times;
pub mod users;
pub mod usrmerge;
pub mod var;

pub use error::LayoutError;

use self::leftovers::{Devices, MachineId};
use self::links::Tmp;
use self::users::{ParentUsers, UserRules};
use super::draft::Draft;
use super::treefile::Treefile;

/// What the steps have to know besides the root.
#[derive(Debug, Clone)]
pub struct LayoutOptions<'a> {
    /// The treefile.
    pub treefile: &'a Treefile,
    /// The parent's users.
    pub parent: &'a ParentUsers,
    /// The version of the commit.
    pub version: Option<&'a str>,
    /// The time of the commit.
    pub time: i64,
}

/// What the steps found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    /// The kernel that boots.
    pub kernel: Option<String>,
    /// Names at the top that a deployed machine will not show.
    pub strange: Vec<String>,
}

/// Runs the steps up to the point where only labels and our own files are missing.
///
/// # Errors
/// [`LayoutError`].
pub fn apply(draft: &mut Draft, options: &LayoutOptions<'_>) -> Result<Layout, LayoutError> {
    let treefile = options.treefile;
    draft.set_time(options.time);
    usrmerge::check(draft)?;
    let devices = if treefile.ignore_devices { Devices::Ignored } else { Devices::Kept };
    let machine_id = if treefile.machineid_compat { MachineId::Empty } else { MachineId::Absent };
    leftovers::remove(draft, devices, machine_id)?;
    let rules = UserRules {
        preserve: treefile.preserve_passwd,
        check_passwd: &treefile.check_passwd,
        check_groups: &treefile.check_groups,
        ignore_users: &treefile.ignore_removed_users,
        ignore_groups: &treefile.ignore_removed_groups,
    };
    users::settle(draft, options.parent, rules)?;
    databases::relocate(draft)?;
    let kernel =
        if treefile.container { None } else { kernel::choose(&kernel::versions(draft), treefile.kernel.as_deref())? };
    kernel::place(draft, kernel.as_deref())?;
    if let (Some(base), Some(version)) = (&treefile.mutate_os_release, options.version) {
        os_release::mutate(draft, base, version)?;
    }
    let tmp = if treefile.tmp_is_dir { Tmp::Directory } else { Tmp::Link };
    let strange = links::lay_out(draft, treefile.opt_usrlocal, tmp)?;
    var::empty(draft)?;
    etc::move_to_usr(draft)?;
    if treefile.readonly_executables {
        times::make_executables_read_only(draft);
    }
    times::clamp(draft, options.time);
    Ok(Layout { kernel, strange })
}
