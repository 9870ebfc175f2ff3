//! Refs and commits without a signature of a trusted key, or with one for another purpose.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use sapwood::model::{Commit, ImageId};
use sapwood::remote::layout;
use sapwood::store::Store;
use sapwood::trust::{Announcement, Envelope, RefRecord, SecretKey, SignaturePurpose};

use super::fixture::Fixture;
use super::forge::{Forge, key, put};
use super::server::{Fault, Server};

fn seeded(number: u8) -> SecretKey {
    SecretKey::from_seed(&[number; 32])
}

/// Returns the published commit.
fn commit(fixture: &Fixture, name: &str) -> Commit {
    let store = Store::open(fixture.publisher.path()).expect("a repository");
    store.commit(store.resolve(name).expect("a commit")).expect("it is local")
}

#[test]
fn record_without_a_trusted_signature_for_it_is_refused() {
    let fixture = Fixture::new("hostile-signatures");
    fixture.publisher.commit("other", &fixture.tree);
    let url = format!("file://{}", fixture.published.display());
    fixture.as_publisher(["publish", "--sign", "release", &url, "other"]).success();
    let forge = Forge::of(&fixture);
    let (release, stranger) = (forge.key("release"), seeded(9));
    let (main, other) = (commit(&fixture, "main"), commit(&fixture, "other"));
    let record = RefRecord::of(&main, 5);
    let placement = forge.placement.render();
    let reference = |envelope: Envelope| [envelope.encode(), placement.clone()].concat();
    let payload = |record: &RefRecord| Envelope::unsigned(record.encode());
    let sound = payload(&record).signed(SignaturePurpose::Ref, &release).encode();
    let at_count = 16 + record.encode().len();
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = sound.clone();
        change(&mut bytes);
        [bytes, placement.clone()].concat()
    };
    let misled = RefRecord { commit: other.id(), ..record.clone() };
    let misnumbered = RefRecord { sequence: record.sequence + 1, ..record.clone() };
    let signed = |record: &RefRecord| reference(payload(record).signed(SignaturePurpose::Ref, &release));
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("unsigned", reference(payload(&record)), "it is not signed"),
        ("a stranger's", reference(payload(&record).signed(SignaturePurpose::Ref, &stranger)), "which is not trusted"),
        ("forged", changed(&|it| *it.last_mut().expect("long") ^= 1), "changed on the way or forged"),
        ("changed", changed(&|it| it[at_count - 1] ^= 1), "changed on the way or forged"),
        ("for a commit", reference(payload(&record).signed(SignaturePurpose::Commit, &release)), "or forged"),
        (
            "another ref's",
            fs::read(fixture.published.join("refs/other")).expect("published"),
            "for ref other, not for main",
        ),
        ("another commit", signed(&misled), "for ref other, not for main"),
        ("another sequence", signed(&misnumbered), "the ref says sequence"),
        ("empty", Vec::new(), "not a signed record"),
        ("short", sound[..12].to_vec(), "not a signed record"),
        ("without a payload", sound[..30].to_vec(), "has a bad length"),
        ("without signatures", sound[..at_count + 40].to_vec(), "has a bad length"),
        ("long", changed(&|it| put(it, 12, u32::MAX)), "has a bad length"),
        ("many", changed(&|it| it[at_count..at_count + 2].fill(0xff)), "has a bad length"),
        ("of later", changed(&|it| put(it, 8, 2)), "newer than this program"),
        ("no record", reference(Envelope::unsigned(b"no".to_vec()).signed(SignaturePurpose::Ref, &release)), "refused"),
    ];
    let server = Server::of(&fixture.published);
    let client = fixture.client("refs", &server);
    for (name, bytes, word) in cases {
        server.set("refs/main", Fault::Content(Arc::new(bytes)));
        let said = client.pull_in_vain();
        assert!(said.contains(word), "{name}: '{word}' is not in '{said}'");
        server.restore();
    }

    // The commit of a good ref.
    let envelope = || Envelope::unsigned(main.encode());
    let cases: Vec<(&str, Envelope, &str)> = vec![
        ("unsigned", envelope(), "it is not signed"),
        ("a stranger's", envelope().signed(SignaturePurpose::Commit, &stranger), "which is not trusted"),
        ("for a ref", envelope().signed(SignaturePurpose::Ref, &release), "or forged"),
        ("another", Envelope::unsigned(other.encode()).signed(SignaturePurpose::Commit, &release), "refused"),
    ];
    for (name, envelope, word) in cases {
        server.set("commits/", Fault::Content(Arc::new(envelope.encode())));
        let said = client.pull_in_vain();
        assert!(said.contains("commit ") && said.contains(word), "{name}: '{word}' is not in '{said}'");
        server.restore();
    }
    client.pull().success();
}

#[test]
fn sequence_and_not_the_clock_decides_what_is_newer() {
    let fixture = Fixture::new("hostile-sequence");
    let forge = Forge::of(&fixture);
    let release = forge.key("release");
    let server = Server::of(&fixture.published);
    let client = fixture.client("sequence", &server);
    // A record by a publisher whose clock is a lifetime ahead.
    let far = RefRecord::of(&commit(&fixture, "main"), i64::MAX);
    let first = Envelope::unsigned(far.encode()).signed(SignaturePurpose::Ref, &release).encode();
    let first = [first, forge.placement.render()].concat();
    server.set("refs/main", Fault::Content(Arc::new(first.clone())));
    client.pull().success();
    server.restore();

    // Then one by a publisher whose clock is at 1970, or before.
    fixture.update();
    let forge = Forge::of(&fixture);
    let newer = commit(&fixture, "main");
    for time in [0, i64::MIN] {
        let record = RefRecord::of(&newer, time);
        let bytes = Envelope::unsigned(record.encode()).signed(SignaturePurpose::Ref, &release).encode();
        server.set("refs/main", Fault::Content(Arc::new([bytes, forge.placement.render()].concat())));
        client.pull().success();
        server.restore();
    }

    // A server that sends the earlier state again; and another history with the same sequence.
    server.set("refs/main", Fault::Content(Arc::new(first)));
    let said = client.pull().failure(1);
    assert!(said.contains("is older than") && said.contains("--allow-older"), "{said}");
    server.restore();
    let twin = Commit { subject: "a twin".to_owned(), image: ImageId::of(b"another"), ..newer };
    let record = Envelope::unsigned(RefRecord::of(&twin, 5).encode()).signed(SignaturePurpose::Ref, &release).encode();
    server.set("refs/main", Fault::Content(Arc::new([record, forge.placement.render()].concat())));
    let said = client.pull().failure(1);
    assert!(said.contains("history was rewritten"), "{said}");
    server.restore();
    client.pull().success();
    client.repository.assert_clean();
}

/// Unknown keys that announce each other: the client follows some of them, and never trusts one.
#[test]
fn untrusted_key_announcements_cost_few_requests() {
    let fixture = Fixture::new("hostile-announcements");
    let forge = Forge::of(&fixture);
    let server = Server::of(&fixture.published);
    let record = RefRecord::of(&commit(&fixture, "main"), 5).encode();
    let announced = |number: u8, by: u8| {
        let announcement = Announcement { key: seeded(number).public(), timestamp: 0 };
        (layout::key(&seeded(number).public().to_string()), announcement.sign(&seeded(by)))
    };
    // Each unknown key is announced by the next, and the last by the first.
    let files: BTreeMap<String, Vec<u8>> =
        (10..60).map(|number| announced(number, number + 1)).chain([announced(60, 10)]).collect();
    for (path, bytes) in files {
        server.set(&path, Fault::Content(Arc::new(bytes)));
    }
    let envelope =
        (10..60).fold(Envelope::unsigned(record), |it, number| it.signed(SignaturePurpose::Ref, &seeded(number)));
    let reference = [envelope.encode(), forge.placement.render()].concat();
    server.set("refs/main", Fault::Content(Arc::new(reference)));
    let client = fixture.client("announcements", &server);
    let said = client.pull_in_vain();
    assert!(said.contains("which is not trusted"), "{said}");
    assert!(server.requests().len() < 50, "{} requests", server.requests().len());
    // A key that the publisher's key announces is trusted and remembered.
    server.restore();
    let (path, bytes) = {
        let announcement = Announcement { key: seeded(10).public(), timestamp: 0 };
        (
            layout::key(&seeded(10).public().to_string()),
            announcement.sign(&key(&fixture.sandbox.join("keys/release.key"))),
        )
    };
    server.set(&path, Fault::Content(Arc::new(bytes)));
    let main = commit(&fixture, "main");
    let signed = |payload: Vec<u8>, purpose| Envelope::unsigned(payload).signed(purpose, &seeded(10)).encode();
    let reference =
        [signed(RefRecord::of(&main, 5).encode(), SignaturePurpose::Ref), forge.placement.render()].concat();
    server.set("refs/main", Fault::Content(Arc::new(reference)));
    server.set("commits/", Fault::Content(Arc::new(signed(main.encode(), SignaturePurpose::Commit))));
    client.pull().success();
    let shown = client.repository.run(["remote", "show", "os"]).success();
    assert!(shown.contains(&seeded(10).public().to_string()), "{shown}");
}
