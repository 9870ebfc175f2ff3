//! What is agreed with the kernel when a mount begins: how much it remembers, how large its requests are.
//!
//! Everything is asked for that makes a tree which never changes cost fewer messages. Not asked for: the write-back cache
//! (it excludes passthrough), splicing (measured no faster), and whatever this version of `fuser` would grant without
//! knowing it.

use std::io;

use fuser::{InitFlags, KernelConfig};

use super::options::Mode;

/// The largest READ the kernel sends: 256 pages, its default limit.
const MAX_REQUEST: u32 = 1 << 20;

/// Requests of readahead that may be under way. The kernel's default of 12 keeps two reading threads idle.
const MAX_BACKGROUND: u16 = 64;

/// From here on the kernel holds readahead back.
const CONGESTION: u16 = 48;

/// Directories and names are kept, and looked up in parallel. Listings always carry attributes: with
/// `FUSE_READDIRPLUS_AUTO` the kernel asks for names only, from the second message of a directory on, until it has seen the
/// attributes used, and each of these entries then costs a lookup. Targets of links and pages are kept until we say
/// otherwise, which is never; NFS may ask for `.` and `..`.
const ALWAYS: InitFlags = InitFlags::FUSE_PARALLEL_DIROPS
    .union(InitFlags::FUSE_DO_READDIRPLUS)
    .union(InitFlags::FUSE_CACHE_SYMLINKS)
    .union(InitFlags::FUSE_NO_OPENDIR_SUPPORT)
    .union(InitFlags::FUSE_EXPLICIT_INVAL_DATA)
    .union(InitFlags::FUSE_EXPORT_SUPPORT);

/// What decides who may do what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Permissions {
    /// Owner, group and mode: the kernel has them.
    ModeBits,
    /// Access control lists too: the kernel asks for that of each inode once.
    WithAcls,
}

/// Sets `config`, which the kernel has filled with what it offers.
pub(super) fn negotiate(config: &mut KernelConfig, mode: Mode, permissions: Permissions) -> io::Result<()> {
    ask_for(config, ALWAYS);
    if permissions == Permissions::WithAcls {
        ask_for(config, InitFlags::FUSE_POSIX_ACL);
    }
    match mode {
        Mode::Cached => ask_for(config, InitFlags::FUSE_NO_OPEN_SUPPORT),
        Mode::Passthrough => {
            let missing = || io::Error::other("the kernel offers no passthrough: Linux 6.9 or newer is needed");
            config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).map_err(|_| missing())?;
            config.set_max_stack_depth(1).map_err(|_| missing())?;
        }
    }
    // The setters fail only outside limits that these constants respect.
    let agreed = config.set_max_write(MAX_REQUEST).is_ok()
        && config.set_max_background(MAX_BACKGROUND).is_ok()
        && config.set_congestion_threshold(CONGESTION).is_ok();
    debug_assert!(agreed);
    Ok(())
}

/// Asks for what the kernel offers of `wanted`, one by one: an older kernel lacks some, and works without.
fn ask_for(config: &mut KernelConfig, wanted: InitFlags) {
    for flag in wanted.iter() {
        if config.add_capabilities(flag).is_err() {
            tracing::debug!(?flag, "the kernel does not offer this");
        }
    }
}
