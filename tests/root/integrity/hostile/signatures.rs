//! Refs and commits without a signature of a trusted key, or with one for another purpose.

use std::fs;
use std::sync::Arc;

use sapwood::model::{Commit, ImageId};
use sapwood::remote::layout;
use sapwood::store::Store;
use sapwood::trust::{Binding, CommitOrigin, Envelope, KeyChain, RefRecord, RepositoryId, SecretKey, SignaturePurpose};

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

/// Chains of announcements that do not begin with a trusted key, are malformed, or are missing.
#[test]
fn untrusted_key_announcements_cost_few_requests() {
    let fixture = Fixture::new("hostile-announcements");
    let forge = Forge::of(&fixture);
    let server = Server::of(&fixture.published);
    let release = key(&fixture.sandbox.join("keys/release.key"));
    let binding = Binding {
        repository: RepositoryId::from_bytes([1; 16]),
        generation: 60,
        expires: None,
        origin: CommitOrigin::AnyRef,
    };
    let main = commit(&fixture, "main");
    let record = RefRecord { binding: Some(binding), ..RefRecord::of(&main, 5) };
    let publish = |record: &RefRecord, signer: &SecretKey, chain: Vec<u8>| {
        server.restore();
        server.set(layout::KEY_CHAIN, Fault::Content(Arc::new(chain)));
        let envelope = Envelope::unsigned(record.encode()).signed(SignaturePurpose::Ref, signer);
        let reference = [envelope.encode(), forge.placement.render()].concat();
        server.set("refs/main", Fault::Content(Arc::new(reference)));
        let envelope = Envelope::unsigned(main.encode()).signed(SignaturePurpose::Commit, signer);
        server.set("commits/", Fault::Content(Arc::new(envelope.encode())));
    };
    let strangers = (10..70).fold(KeyChain::default(), |chain, number| {
        chain.announce(&seeded(number), &seeded(number + 1), 0).expect("it continues")
    });
    let client = fixture.client("announcements", &server);
    // The last one is of another builder, and says nothing of the key that is trusted.
    let cases = [
        (strangers.encode(), &seeded(70), Some("which is not trusted")),
        (vec![0; 99], &release, Some("generation 0 is trusted")),
        (strangers.encode(), &release, None),
    ];
    for (chain, signer, refusal) in cases {
        publish(&record, signer, chain);
        let before = server.requests().len();
        match refusal {
            Some(refusal) => assert!(client.pull_in_vain().contains(refusal), "no {refusal}"),
            None => drop(client.pull().success()),
        }
        let keys = client.repository.run(["remote", "key", "list", "os"]).success();
        assert_eq!(keys, release.public().to_string());
        assert!(server.requests().len() - before < 30, "{} requests", server.requests().len() - before);
    }
    // The successor that the publisher's key announces is trusted and remembered; the key itself no more.
    let chain = KeyChain::default().announce(&release, &seeded(10), 0).expect("the first");
    let record = RefRecord { binding: Some(Binding { generation: 1, ..binding }), ..record };
    publish(&record, &seeded(10), chain.encode());
    client.pull().success();
    let keys = client.repository.run(["remote", "key", "list", "os"]).success();
    assert_eq!(keys, seeded(10).public().to_string());
    publish(&record, &release, chain.encode());
    let said = client.pull().failure(1);
    assert!(said.contains("replaced in generation 1"), "{said}");
}
