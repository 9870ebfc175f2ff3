//! Reads bytes as each of the small signed records: envelopes, refs, commits, announcements, placements. Shared by the fuzz
//! target and the test over its seeds.
//!
//! What is read back must encode to the same bytes again. Nobody who fuzzes has a trusted key, so nothing passes as it is; what
//! is inside is signed here, too, and must then pass for what it was signed for and for nothing else.

use sapwood::model::Commit;
use sapwood::remote::format::Placement;
use sapwood::trust::{
    Announcement, AnnouncementError, Envelope, Keyring, Purpose, RefRecord, SecretKey, Seen, Trust, TrustError,
};

/// What there are seeds of. Every input is read as each of them.
pub const KINDS: [&str; 7] =
    ["ref", "commit", "announcement", "placement", "ref-plain", "commit-plain", "announcement-plain"];

/// What the record of an announcement begins with.
const ANNOUNCEMENT: &[u8] = b"SAPWKEY\0";

/// The key that is trusted here, and with which none of the seeds is signed.
fn own() -> SecretKey {
    SecretKey::from_seed(&[9; 32])
}

/// Reads bytes as every kind of record.
pub fn exercise(data: &[u8]) {
    let trust = Trust::Keys(Keyring::new([own().public()]));
    let name = "main".parse().expect("legal");
    if let Ok((record, _)) = trust.accept_ref(data, &name, None) {
        panic!("nobody who fuzzes has the key, yet {record:?} passed");
    }
    if let Ok((envelope, rest)) = Envelope::parse(data) {
        assert_eq!([&envelope.encode()[..], rest].concat(), data);
        read(envelope.payload(), &trust);
    }
    read(data, &trust);
    let stranger = SecretKey::from_seed(&[8; 32]).public();
    let _ = Announcement::claimed_signers(data, stranger);
    if let Ok(placement) = Placement::parse(data) {
        assert_eq!(Placement::parse(&placement.render()).expect("own form"), placement);
    }
}

fn signed(record: &[u8], purpose: Purpose) -> Vec<u8> {
    Envelope::unsigned(record.to_vec()).signed(purpose, &own()).encode()
}

fn read(record: &[u8], trust: &Trust) {
    if let Ok(found) = RefRecord::parse(record) {
        assert_eq!(RefRecord::parse(&found.encode()), Ok(found.clone()));
        reference(record, &found, trust);
    }
    if let Ok(found) = Commit::parse(record) {
        assert_eq!(Commit::parse(&found.encode()), Ok(found.clone()));
        commit(record, &found, trust);
    }
    if record.starts_with(ANNOUNCEMENT) {
        announcement(record);
    }
}

fn reference(record: &[u8], found: &RefRecord, trust: &Trust) {
    let bytes = signed(record, Purpose::Ref);
    let (accepted, rest) = trust.accept_ref(&bytes, &found.name, Some(found.seen())).expect("signed, and not older");
    assert_eq!((accepted.signer(), rest.len()), (Some(own().public()), 0));
    assert_eq!(accepted.into_inner(), *found);
    let newer = Seen { sequence: found.sequence.saturating_add(1), ..found.seen() };
    let older = trust.accept_ref(&bytes, &found.name, Some(newer));
    assert!(found.sequence == u64::MAX || matches!(older, Err(TrustError::Older { .. })));
    let other = "another/ref/than/this".parse().expect("legal");
    assert!(found.name == other || trust.accept_ref(&bytes, &other, None).is_err());
    assert!(trust.accept_ref(&signed(record, Purpose::Commit), &found.name, None).is_err());
    let unsigned = Envelope::unsigned(record.to_vec()).encode();
    assert!(trust.accept_ref(&unsigned, &found.name, None).is_err());
    assert!(Trust::InsecureUnsigned.accept_ref(&unsigned, &found.name, None).is_ok());
}

fn commit(record: &[u8], found: &Commit, trust: &Trust) {
    // One with fields that this program does not know is read, and has an id that only its bytes tell.
    let reference = RefRecord::of(found, 0);
    if found.encode() == record {
        assert!(trust.accept_commit(&signed(record, Purpose::Commit), &reference).is_ok());
        assert!(trust.accept_kept(&signed(record, Purpose::Commit), found.id()).is_ok());
    }
    assert!(trust.accept_commit(&signed(record, Purpose::Ref), &reference).is_err());
    assert!(trust.accept_kept(&Envelope::unsigned(record.to_vec()).encode(), found.id()).is_err());
}

fn announcement(record: &[u8]) {
    let ring = Keyring::new([own().public()]);
    let bytes = signed(record, Purpose::Key);
    // Which key it announces is told by the error about another.
    let stranger = SecretKey::from_seed(&[10; 32]).public();
    let Err(AnnouncementError::OtherKey(key)) = Announcement::check(&bytes, stranger, &ring) else { return };
    assert_eq!(Announcement::check(&bytes, key, &ring), Ok(own().public()));
    assert_eq!(Announcement::claimed_signers(&bytes, key), Ok(vec![own().public()]));
    assert!(Announcement::check(&bytes, key, &Keyring::new([stranger])).is_err());
    assert!(Announcement::check(&signed(record, Purpose::Ref), key, &ring).is_err());
    assert!(Announcement::check(&Envelope::unsigned(record.to_vec()).encode(), key, &ring).is_err());
}
