//! Keys, signatures, and the values that exist only after a check of them.
//!
//! [`Envelope`] carries bytes with their signatures, a [`Keyring`] has the trusted keys.
//!
//! *Not here*: I/O, clocks, and where keys are configured (`remote::remotes`).
//!
//! *Invariants*: [`Trust::accept_ref`], [`Trust::accept_commit`] and [`Trust::accept_stored_commit`] are the only ways
//! to make a [`Verified`] value from bytes, except for the parent of a verified commit, whose id is in its child.
//!
//! *Used by* `remote`, `deploy`, `boot` and `cli`.

mod announcement;
mod envelope;
mod key;
mod keyring;
mod reference;
mod repository_id;
mod verified;

pub(crate) use announcement::KEY_CHAIN_SIZE_MAX;
pub use announcement::{Announcement, ChainError, KeyChain, KeyGeneration};
pub(crate) use envelope::ENVELOPE_SIZE_MAX;
pub use envelope::{Envelope, SignaturePurpose};
pub use key::SecretKey;
pub(crate) use key::{KeyError, PublicKey};
pub(crate) use keyring::SignatureError;
pub use keyring::{KeyLimits, Keyring};
pub use reference::{Binding, CommitOrigin, LastSeen, RefRecord};
pub use repository_id::RepositoryId;
pub(crate) use verified::Verified;
pub use verified::{Trust, TrustError};
