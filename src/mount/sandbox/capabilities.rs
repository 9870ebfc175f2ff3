//! Drops the capabilities that a worker does not need.
//!
//! *Used by* the other files of this folder.

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use super::{BackingFiles, RepositoryOwner};

/// Capabilities for reading and writing the files of another user.
const FILES_OF_OTHERS: CapabilitySet = CapabilitySet::DAC_OVERRIDE
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::CHOWN);

/// Drops all capabilities that are not needed, for this thread and those it will start.
pub(super) fn drop_unneeded(backing: BackingFiles, repository: RepositoryOwner) -> Result<(), std::io::Error> {
    let mut kept = CapabilitySet::empty();
    if backing == BackingFiles::Registered {
        kept |= CapabilitySet::SYS_ADMIN;
    }
    if repository == RepositoryOwner::OtherUser {
        kept |= FILES_OF_OTHERS;
    }
    let now = capabilities(None)?;
    let sets = CapabilitySets {
        effective: now.effective & kept,
        permitted: now.permitted & kept,
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, sets)?)
}
