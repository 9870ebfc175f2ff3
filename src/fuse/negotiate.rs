//! The FUSE features and limits that are agreed with the kernel when a mount begins.
//!
//! Requested is each feature that reduces the messages for a tree which never changes. Not requested are the write-back
//! cache (it excludes passthrough), splicing (measured no faster), and features that this version of `fuser` would grant
//! without supporting them.
//!
//! *Used by* `adapter`.

use std::io;

use fuser::{InitFlags, KernelConfig};

use super::options::MountMode;

/// The largest READ the kernel sends: 256 pages, its default limit.
const MAX_REQUEST: u32 = 1 << 20;

/// Largest number of pending readahead requests. The kernel's default of 12 keeps two reading threads idle.
const MAX_BACKGROUND: u16 = 64;

/// Number of pending readahead requests from which the kernel throttles readahead.
const CONGESTION_THRESHOLD: u16 = 48;

/// The features that are requested for each mount. The kernel caches directories and names, and looks names up in parallel.
/// Listings always carry attributes: with `FUSE_READDIRPLUS_AUTO` the kernel asks for names only, from the second message of
/// a directory on, until it has seen the attributes used, and each of these entries then costs a lookup. The kernel caches
/// link targets and pages until they are invalidated, which happens only when a recording starts; NFS may look up `.` and
/// `..`. A clone of the mount may have its owners mapped to others (id-mapped mounts, Linux 6.12), since the kernel checks all
/// permissions.
const WANTED_FLAGS: InitFlags = InitFlags::FUSE_PARALLEL_DIROPS
    .union(InitFlags::FUSE_DO_READDIRPLUS)
    .union(InitFlags::FUSE_CACHE_SYMLINKS)
    .union(InitFlags::FUSE_NO_OPENDIR_SUPPORT)
    .union(InitFlags::FUSE_EXPLICIT_INVAL_DATA)
    .union(InitFlags::FUSE_EXPORT_SUPPORT)
    .union(InitFlags::FUSE_ALLOW_IDMAP);

/// The permissions that the kernel has to check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Permissions {
    /// Only owner, group and mode, which are in the attributes.
    ModeBits,
    /// Access control lists too: the kernel asks for the list of each inode once.
    WithAcls,
}

/// Sets the features and limits in `config`, which contains what the kernel offers.
pub(super) fn negotiate(config: &mut KernelConfig, mode: MountMode, permissions: Permissions) -> io::Result<()> {
    request_flags(config, WANTED_FLAGS);
    if permissions == Permissions::WithAcls {
        request_flags(config, InitFlags::FUSE_POSIX_ACL);
    }
    match mode {
        MountMode::Cached => request_flags(config, InitFlags::FUSE_NO_OPEN_SUPPORT),
        MountMode::Passthrough => {
            let missing = || io::Error::other("the kernel offers no passthrough: Linux 6.9 or newer is needed");
            config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).map_err(|_| missing())?;
            config.set_max_stack_depth(1).map_err(|_| missing())?;
        }
    }
    // The setters fail only outside limits that these constants respect.
    let are_limits_valid = config.set_max_write(MAX_REQUEST).is_ok()
        && config.set_max_background(MAX_BACKGROUND).is_ok()
        && config.set_congestion_threshold(CONGESTION_THRESHOLD).is_ok();
    debug_assert!(are_limits_valid);
    Ok(())
}

/// Requests the flags of `wanted` one by one, since an older kernel lacks some and works without them.
fn request_flags(config: &mut KernelConfig, wanted: InitFlags) {
    for flag in wanted.iter() {
        if config.add_capabilities(flag).is_err() {
            tracing::debug!(?flag, "the kernel does not offer this");
        }
    }
}
