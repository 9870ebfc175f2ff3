//! Who may say what a ref or a commit is: keys, signatures, and the values that only a check can make.
//!
//! No I/O happens here, and no clock is read. [`Envelope`] carries bytes with their signatures, a [`Keyring`] knows whom
//! to believe, [`Trust::accept_ref`] and [`Trust::accept_commit`] are the only ways to a [`Verified`] value. Used by
//! `remote`, and by everything that deploys.

mod announcement;
mod envelope;
mod key;
mod keyring;
mod reference;
mod verified;

pub use announcement::{Announcement, AnnouncementError};
pub use envelope::{ENVELOPE_SIZE_MAX, Envelope, EnvelopeError, Purpose};
pub use key::{KeyError, PublicKey, SecretKey};
pub use keyring::{Keyring, SignatureError};
pub use reference::{RefRecord, Seen};
pub use verified::{Trust, TrustError, Verified};
