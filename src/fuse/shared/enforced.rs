//! `Enforced`: the parts of a worker's sandbox that are in force, as one number in the shared pages.
//!
//! *Used by* `health` and `mount::sandbox`.

/// The parts of a worker's sandbox that are in force.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Enforced {
    /// The process cannot gain privileges by executing a set-uid program.
    pub(crate) no_new_privileges: bool,
    /// Capabilities that are not needed are dropped.
    pub(crate) capabilities: bool,
    /// Only files that were allowed can be opened.
    pub(crate) files: bool,
    /// Only allowed system calls can be made.
    pub(crate) system_calls: bool,
}

impl Enforced {
    /// Returns the parts as one number.
    pub(crate) const fn bits(&self) -> u64 {
        self.no_new_privileges as u64
            | (self.capabilities as u64) << 1
            | (self.files as u64) << 2
            | (self.system_calls as u64) << 3
    }

    /// Returns the parts of such a number.
    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self {
            no_new_privileges: bits & 1 != 0,
            capabilities: bits & 2 != 0,
            files: bits & 4 != 0,
            system_calls: bits & 8 != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enforced_parts_round_trip_as_a_number() {
        for bits in 0..16 {
            assert_eq!(Enforced::from_bits(bits).bits(), bits);
        }
    }
}
