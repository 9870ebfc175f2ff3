//! Reads bytes as each kind of small signed record: envelopes, refs, commits, announcements, placements. Shared by the fuzz
//! target and the test over its seeds.
//!
//! *Invariants*: what is read encodes to the same bytes. A fuzzer has no trusted key, so no input is accepted as it is; its
//! contents are also signed here, and must then be accepted for the purpose of that signature and for no other.

use sapwood::model::Commit;
use sapwood::remote::format::Placement;
use sapwood::trust::{
    Announcement, AnnouncementError, Envelope, Keyring, LastSeen, RefRecord, RepositoryId, SecretKey, SignaturePurpose,
    Trust, TrustError,
};

/// Kinds of the seeds. Every input is read as each of them.
pub const KINDS: [&str; 8] =
    ["ref", "ref-plain-2", "commit", "announcement", "placement", "ref-plain", "commit-plain", "announcement-plain"];

/// First bytes of an announcement.
const ANNOUNCEMENT: &[u8] = b"SAPWKEY\0";

/// Returns the trusted key, with which no seed is signed.
fn own() -> SecretKey {
    SecretKey::from_seed(&[9; 32])
}

/// Reads bytes as every kind of record.
pub fn exercise(data: &[u8]) {
    let trust = Trust::Keys(Keyring::new([own().public()]));
    let name = "main".parse().expect("legal");
    if let Ok((record, _)) = trust.accept_ref(data, &name, None) {
        panic!("no fuzzer has the key, but {record:?} was accepted");
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

fn signed(record: &[u8], purpose: SignaturePurpose) -> Vec<u8> {
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
    let bytes = signed(record, SignaturePurpose::Ref);
    let (accepted, rest) = trust.accept_ref(&bytes, &found.name, found.repository()).expect("signed");
    assert_eq!(found.check_newer(Some(found.seen())), Ok(()));
    assert_eq!((accepted.signer(), rest.len()), (Some(own().public()), 0));
    assert_eq!(accepted.into_inner(), *found);
    let newer = LastSeen { sequence: found.sequence.saturating_add(1), ..found.seen() };
    let older = found.check_newer(Some(newer));
    assert!(found.sequence == u64::MAX || matches!(older, Err(TrustError::Older { .. })));
    let elsewhere = RepositoryId::from_bytes([0x5a; 16]);
    let is_there = found.repository() == Some(elsewhere);
    assert!(is_there || trust.accept_ref(&bytes, &found.name, Some(elsewhere)).is_err());
    let other = "another/ref/than/this".parse().expect("legal");
    assert!(found.name == other || trust.accept_ref(&bytes, &other, None).is_err());
    assert!(trust.accept_ref(&signed(record, SignaturePurpose::Commit), &found.name, None).is_err());
    let unsigned = Envelope::unsigned(record.to_vec()).encode();
    assert!(trust.accept_ref(&unsigned, &found.name, None).is_err());
    assert!(Trust::InsecureUnsigned.accept_ref(&unsigned, &found.name, None).is_ok());
}

fn commit(record: &[u8], found: &Commit, trust: &Trust) {
    // A commit with unknown fields is read, and its id depends on its bytes only.
    let reference = RefRecord::of(found, 0);
    if found.encode() == record {
        assert!(trust.accept_commit(&signed(record, SignaturePurpose::Commit), &reference).is_ok());
        assert!(trust.accept_stored_commit(&signed(record, SignaturePurpose::Commit), found.id()).is_ok());
    }
    assert!(trust.accept_commit(&signed(record, SignaturePurpose::Ref), &reference).is_err());
    assert!(trust.accept_stored_commit(&Envelope::unsigned(record.to_vec()).encode(), found.id()).is_err());
}

fn announcement(record: &[u8]) {
    let ring = Keyring::new([own().public()]);
    let bytes = signed(record, SignaturePurpose::Key);
    // The error about another key tells which key it announces.
    let stranger = SecretKey::from_seed(&[10; 32]).public();
    let Err(AnnouncementError::OtherKey(key)) = Announcement::check(&bytes, stranger, &ring) else { return };
    assert_eq!(Announcement::check(&bytes, key, &ring), Ok(own().public()));
    assert_eq!(Announcement::claimed_signers(&bytes, key), Ok(vec![own().public()]));
    assert!(Announcement::check(&bytes, key, &Keyring::new([stranger])).is_err());
    assert!(Announcement::check(&signed(record, SignaturePurpose::Ref), key, &ring).is_err());
    assert!(Announcement::check(&Envelope::unsigned(record.to_vec()).encode(), key, &ring).is_err());
}
