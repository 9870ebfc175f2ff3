//! Reads bytes as each kind of small signed record: envelopes, refs, commits, announcements, placements. Shared by the fuzz
//! target and the test over its seeds.
//!
//! *Invariants*: what is read encodes to the same bytes. A fuzzer has no trusted key, so no input is accepted as it is; its
//! contents are also signed here, and must then be accepted for the purpose of that signature and for no other.

use sapwood::model::Commit;
use sapwood::remote::format::Placement;
use sapwood::trust::{
    ChainError, Envelope, KeyChain, Keyring, LastSeen, RefRecord, RepositoryId, SecretKey, SignaturePurpose, Trust,
    TrustError,
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
    if let Ok(chain) = KeyChain::parse(data) {
        assert_eq!(chain.encode(), data);
        // No fuzzer has a key, so a chain does not concern the trusted one.
        let ring = Keyring::new([own().public()]);
        let found = chain.apply(ring.clone(), true);
        assert_eq!((found.keys, found.number), (ring, 0));
    }
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
    assert_eq!(found.check_newer(Some(found.seen(found.generation())), found.generation()), Ok(()));
    assert_eq!((accepted.signer(), rest.len()), (Some(own().public()), 0));
    assert_eq!(accepted.into_inner(), *found);
    let newer = LastSeen { sequence: found.sequence.saturating_add(1), ..found.seen(found.generation()) };
    let older = found.check_newer(Some(newer), found.generation());
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
        assert!(trust.accept_stored_commit(&signed(record, SignaturePurpose::Commit), found.id(), None).is_ok());
    }
    assert!(trust.accept_commit(&signed(record, SignaturePurpose::Ref), &reference).is_err());
    assert!(trust.accept_stored_commit(&Envelope::unsigned(record.to_vec()).encode(), found.id(), None).is_err());
}

/// An announcement that only the trusted key signed is one of another key, or lacks a signature.
fn announcement(record: &[u8]) {
    match KeyChain::parse(&signed(record, SignaturePurpose::Key)) {
        Err(ChainError::Envelope(error)) => panic!("its own envelope: {error}"),
        Err(_) => {}
        Ok(chain) => panic!("{chain:?} was accepted with one signature"),
    }
}
