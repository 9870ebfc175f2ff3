//! Feeds the readers of small signed records whatever libFuzzer thinks of: envelopes, refs, commits, announcements,
//! placements. What is read back must encode to the same bytes again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sapwood::model::Commit;
use sapwood::remote::format::Placement;
use sapwood::trust::{Announcement, Envelope, Keyring, RefRecord, SecretKey, Trust};

fuzz_target!(|data: &[u8]| {
    let trust = Trust::Keys(Keyring::new([SecretKey::from_seed(&[7; 32]).public()]));
    let name = "main".parse().expect("legal");
    if let Ok((record, _)) = trust.accept_ref(data, &name, None) {
        panic!("nobody who fuzzes has the key, yet {record:?} passed");
    }
    if let Ok((envelope, rest)) = Envelope::parse(data) {
        let again = envelope.encode();
        assert_eq!([&again[..], rest].concat(), data);
        read(envelope.payload());
    }
    read(data);
    let key = SecretKey::from_seed(&[8; 32]).public();
    let _ = Announcement::claimed_signers(data, key);
    if let Ok(placement) = Placement::parse(data) {
        assert_eq!(Placement::parse(&placement.render()).expect("own form"), placement);
    }
});

fn read(record: &[u8]) {
    if let Ok(found) = RefRecord::parse(record) {
        assert_eq!(RefRecord::parse(&found.encode()), Ok(found));
    }
    if let Ok(found) = Commit::parse(record) {
        assert_eq!(Commit::parse(&found.encode()), Ok(found));
    }
}
