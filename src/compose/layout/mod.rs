//! Turns a root that a package manager filled into the tree of an image-based system.
//!
//! There is one file per step. Each step is a function of a [`StagedTree`] with a test of its own, and [`apply`] is their
//! order.
//!
//! *Not here*: labels (`selinux`) and the files that describe the image (`metadata`).
//!
//! *Invariants*: nothing is written to disk; only the few files that are edited are read.
//!
//! *Used by* `pipeline`.
//!
//! # What is made equal in two runs
//! A root installed twice from the same packages differs in what follows. Each difference is removed:
//!
//! | what differs | where and how it is removed |
//! | --- | --- |
//! | times of what scripts wrote | [`times`]: none is later than the commit's |
//! | machine-id, host keys, seeds, host name, resolver | [`leftovers`]: removed |
//! | private keys, secrets and identities that scripts made | [`identities`]: removed, and made at the first boot |
//! | logs, caches (ldconfig's, apt's, debconf's, man's), lists of packages, locks, backup files | [`leftovers`]: removed |
//! | order of paragraphs in dpkg's status | [`databases`]: sorted by name |
//! | ids of users and groups, if packages are installed in another order | [`users`]: as in the parent |
//! | day of the last password change in `/etc/shadow` | [`users`]: emptied |
//! | install times and row order of rpm's database | the dnf engine, before the root is scanned |
//! | compiled Python files and initramfs | `SOURCE_DATE_EPOCH`, when they are made |
//! | device nodes, which ordinary users cannot make | [`leftovers`]: removed |

pub(crate) mod databases;
pub(crate) mod error;
pub(crate) mod etc;
pub(crate) mod identities;
pub(crate) mod kernel;
pub(crate) mod leftovers;
pub(crate) mod links;
pub(crate) mod os_release;
pub(crate) mod times;
pub(crate) mod users;
pub(crate) mod usrmerge;
pub(crate) mod var;

pub(crate) use error::LayoutError;

use self::identities::LeftOut;
use self::leftovers::{DevicePolicy, MachineId};
use self::links::TmpKind;
use self::users::{ParentUsers, UserRules};
use super::staged::StagedTree;
use super::treefile::Treefile;

/// The input of the steps besides the root.
#[derive(Debug, Clone)]
pub(crate) struct LayoutOptions<'a> {
    pub(crate) treefile: &'a Treefile,
    /// The users and groups of the parent commit.
    pub(crate) parent: &'a ParentUsers,
    /// The version of the commit.
    pub(crate) version: Option<&'a str>,
    /// The time of the commit in seconds since 1970.
    pub(crate) time: i64,
    /// Those of [`leftovers::HOST_FILES`] that scripts of the treefile wrote.
    pub(crate) kept_host_files: &'a [&'static str],
}

/// What the steps found out about the root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LayoutReport {
    /// The version of the kernel that the commit boots.
    pub(crate) kernel: Option<String>,
    /// Names at the top that a deployed machine does not show.
    pub(crate) unknown_names: Vec<String>,
    /// Private keys and identities that were left out.
    pub(crate) left_out: Vec<LeftOut>,
}

/// Runs all steps. Labels and the files that describe the image are still missing afterwards.
pub(crate) fn apply(staged: &mut StagedTree, options: &LayoutOptions<'_>) -> Result<LayoutReport, LayoutError> {
    let treefile = options.treefile;
    staged.set_edit_time(options.time);
    usrmerge::check(staged)?;
    let devices = if treefile.ignore_devices { DevicePolicy::Ignored } else { DevicePolicy::Kept };
    let machine_id = if treefile.machineid_compat { MachineId::Empty } else { MachineId::Absent };
    let added: Vec<&str> = treefile.add_files.iter().map(|file| file.destination.as_str()).collect();
    let kept: Vec<&str> = added.iter().chain(options.kept_host_files).copied().collect();
    leftovers::remove(staged, devices, machine_id, &kept)?;
    let kept: Vec<&str> = added.into_iter().chain(treefile.keep_identities.iter().map(String::as_str)).collect();
    let left_out = identities::remove(staged, &kept)?;
    let rules = UserRules {
        preserve: treefile.preserve_passwd,
        check_passwd: &treefile.check_passwd,
        check_groups: &treefile.check_groups,
        ignore_users: &treefile.ignore_removed_users,
        ignore_groups: &treefile.ignore_removed_groups,
    };
    users::assign(staged, options.parent, rules)?;
    if let (Some(base), Some(version)) = (&treefile.mutate_os_release, options.version) {
        os_release::mutate(staged, base, version)?;
    }
    let mut report = LayoutReport { left_out, ..LayoutReport::default() };
    if treefile.container {
        databases::sort_status(staged, databases::INSTALLED_DPKG_DIRECTORY)?;
    } else {
        lay_out_for_machines(staged, treefile, &mut report)?;
    }
    if treefile.readonly_executables {
        times::make_executables_read_only(staged);
    }
    times::clamp(staged, options.time);
    Ok(report)
}

/// Makes of a root that runs as it is the tree that machines boot: `/etc` as defaults, `/var` as lines of tmpfiles.d, the kernel beside
/// its modules.
fn lay_out_for_machines(
    staged: &mut StagedTree,
    treefile: &Treefile,
    report: &mut LayoutReport,
) -> Result<(), LayoutError> {
    databases::relocate(staged)?;
    report.kernel = kernel::choose(&kernel::installed_versions(staged), treefile.kernel.as_deref())?;
    kernel::relocate(staged, report.kernel.as_deref())?;
    let tmp = if treefile.tmp_is_dir { TmpKind::Directory } else { TmpKind::Link };
    report.unknown_names = links::lay_out(staged, treefile.opt_usrlocal, tmp)?;
    var::convert_to_tmpfiles(staged)?;
    etc::move_to_usr(staged)
}
