//! The bytes of small signed records never change, so that records of older programs stay readable, and the fuzzer's seeds are
//! valid records.
//!
//! `fuzz/seeds/records` has one of each kind; signed kinds also have one without signatures. Set `SAPWOOD_GOLDEN=write` to
//! write them again, which is right only before a release has written such records.

use std::path::{Path, PathBuf};

use sapwood::model::{Commit, CommitId, DeltaId, ImageId, LocatorId, ProfileId};
use sapwood::remote::format::{DeltaRef, FileRef, ImageRef, Placement};
use sapwood::trust::{Binding, CommitOrigin, Envelope, KeyChain, RefRecord, RepositoryId, SecretKey, SignaturePurpose};

fn records() -> Vec<(&'static str, Vec<u8>)> {
    let (key, newer) = (SecretKey::from_seed(&[7; 32]), SecretKey::from_seed(&[8; 32]));
    let commit = Commit {
        image: ImageId::of(b"image"),
        parent: Some(CommitId::of(b"parent")),
        ref_name: "debian/12/x86_64/server".parse().expect("legal"),
        sequence: 41,
        timestamp: 1_700_000_000,
        subject: "an update".to_owned(),
        version: Some("12.7".to_owned()),
        entries: 72_509,
        content_bytes: 1_770_000_000,
        extra: [("origin".to_owned(), "a test".to_owned())].into(),
    };
    let mut placement = Placement::new(
        ImageRef { id: None, length: 900_000, prefix: 70_000, metadata_length: None },
        FileRef { id: LocatorId::of(b"l"), length: 50_000 },
    );
    placement.profile = Some(FileRef { id: ProfileId::of(b"p"), length: 4_000 });
    placement.deltas =
        vec![DeltaRef { from: CommitId::of(b"parent"), id: DeltaId::of(b"d"), length: 1 << 24, head: 9_000 }];
    let repository = RepositoryId::from_bytes([0x1f; 16]);
    let origin = CommitOrigin::AnyRef;
    let binding = Some(Binding { repository, generation: 3, expires: Some(1_702_592_100), origin });
    let signed = |record, purpose| Envelope::unsigned(record).signed(purpose, &key).signed(purpose, &newer).encode();
    let reference = signed(RefRecord::of(&commit, 1_700_000_100).encode(), SignaturePurpose::Ref);
    let chain = KeyChain::default().announce(&key, &newer, 1_700_000_200).expect("the first");
    let announcement = chain.encode();
    let plain = Envelope::parse(&announcement).expect("own").0.payload().to_vec();
    vec![
        ("ref", [reference, placement.render()].concat()),
        ("commit", signed(commit.encode(), SignaturePurpose::Commit)),
        ("announcement", announcement),
        ("placement", placement.render()),
        ("ref-plain", RefRecord::of(&commit, 1_700_000_100).encode()),
        ("ref-plain-2", RefRecord { binding, ..RefRecord::of(&commit, 1_700_000_100) }.encode()),
        ("commit-plain", commit.encode()),
        ("announcement-plain", plain),
    ]
}

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/records").join(name)
}

#[test]
#[expect(clippy::disallowed_methods, reason = "files of the sources need not survive a power cut")]
fn the_bytes_of_small_records_never_change() {
    for (name, bytes) in records() {
        if std::env::var_os("SAPWOOD_GOLDEN").is_some() {
            std::fs::write(path(name), &bytes).expect("the sources can be written");
        }
        let golden = std::fs::read(path(name)).expect("it is part of the sources");
        assert!(golden == bytes, "{name} is written differently from before");
    }
}
