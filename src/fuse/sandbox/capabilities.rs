//! Root's powers.

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use super::{Backing, Owner};

/// What reading and writing another user's files takes.
const FILES_OF_OTHERS: CapabilitySet = CapabilitySet::DAC_OVERRIDE
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::CHOWN);

/// Drops all that are not needed, from this thread and those it will start.
pub(super) fn drop_all_but(backing: Backing, repository: Owner) -> Result<(), std::io::Error> {
    let mut kept = CapabilitySet::empty();
    if backing == Backing::Registered {
        kept |= CapabilitySet::SYS_ADMIN;
    }
    if repository == Owner::Other {
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
