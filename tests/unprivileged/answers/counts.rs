//! Counts of the requests to each server.

use std::thread;
use std::time::{Duration, Instant};

use sapwood::image::ObjectRef;

use super::fixture::{Fixture, read_object, with_blocks};
use crate::common::scripted_server::{Answer, ScriptedServer, wrong};

fn answer(name: &str) -> Answer {
    let found = wrong().into_iter().find(|(other, _)| *other == name);
    found.map(|(_, answer)| answer).unwrap_or_else(|| panic!("no answer is called '{name}'"))
}

#[test]
fn only_refs_bypass_caches_until_an_answer_was_wrong() {
    let fixture = Fixture::new();
    let server = ScriptedServer::serve(&fixture.before());
    fixture.client("first").pull(&[server.url()], 20).expect("a good server");
    for kind in ["commits/", "images/", "locators/", "packs/"] {
        assert!(
            !server.requests(kind).is_empty() && server.requests(kind).iter().all(|asked| !asked.is_fresh),
            "{kind}"
        );
    }
    assert!(server.requests("refs/").iter().all(|asked| asked.is_fresh));
    server.forget();
    for kind in ["commits/", "images/", "locators/", "packs/"] {
        server.set(kind, &answer("one byte is another"), 1);
    }
    fixture.client("second").pull(&[server.url()], 20).expect("it passes");
    for kind in ["commits/", "images/", "locators/"] {
        let fresh: Vec<bool> = server.requests(kind).iter().map(|asked| asked.is_fresh).collect();
        assert_eq!(fresh, [false, true], "{kind}");
    }
    // Of a pack only the wrong frame is fetched again.
    let packs = server.requests("packs/");
    assert_eq!(packs.iter().map(|asked| asked.is_fresh).collect::<Vec<_>>(), [false, true], "{packs:?}");
    let length = |number: usize| packs[number].range.map_or(usize::MAX, |(first, last)| last - first);
    assert!(length(1) < length(0) / 2, "{packs:?}");
}

#[test]
fn denying_or_stale_server_is_asked_twice() {
    let fixture = Fixture::new();
    let server = ScriptedServer::serve(&fixture.after());
    let client = fixture.client("behind");
    client.pull(&[server.url()], 20).expect("a good server");
    let behind = ScriptedServer::serve(&fixture.before());
    let said = client.pull(&[behind.url()], 20).expect_err("an older sequence");
    assert!(said.contains("older than"), "{said}");
    let fresh: Vec<bool> = behind.requests("refs/").iter().map(|asked| asked.is_fresh).collect();
    assert_eq!(fresh, [true, true]);
    // A mirror that is up to date makes up for it.
    client.pull(&[behind.url(), server.url()], 20).expect("the mirror is right");

    for status in ["401 Unauthorized", "403 Forbidden"] {
        let denied: Answer = std::sync::Arc::new(move |_, _| crate::common::scripted_server::response(status, "", b""));
        for kind in ["refs/", "packs/"] {
            let server = ScriptedServer::serve(&fixture.before());
            server.set(kind, &denied, u32::MAX);
            let client = fixture.client(&format!("{}-{}", &status[..3], &kind[..4]));
            let said = client.pull(&[server.url()], 20).expect_err("it is denied");
            assert!(said.contains("not allowed to read"), "{said}");
            assert_eq!(server.requests(kind).len(), 2, "{:?}", server.requests(kind));
            assert!(server.requests(kind)[1].is_fresh);
        }
    }
}

#[test]
fn server_that_sent_wrong_bytes_is_asked_last_for_a_while() {
    let fixture = Fixture::new();
    let (bad, good) = (ScriptedServer::serve(&fixture.before()), ScriptedServer::serve(&fixture.before()));
    bad.set("images/", &answer("one byte is another"), u32::MAX);
    bad.set("packs/", &answer("one byte is another"), u32::MAX);
    let client = fixture.client("distrust");
    client.pull(&[bad.url(), good.url()], 20).expect("the mirror is right");
    assert_eq!(bad.requests("images/").len(), 2);
    // The ref is requested from the remote's URL in any case; files that are named by their content come from the mirror from
    // then on.
    assert_eq!((bad.requests("refs/").len(), bad.requests("locators/").len(), bad.requests("packs/").len()), (1, 0, 0));
    assert!(!good.requests("packs/").is_empty());
}

#[test]
fn many_readers_of_a_wrong_part_send_no_more_requests_than_one() {
    let fixture = Fixture::new();
    let server = ScriptedServer::serve(&fixture.before());
    let client = fixture.client("readers");
    let patience = Duration::from_secs(2);
    let tree = client.open_lazily(&[server.url()], 2).expect("a good server");
    let objects = with_blocks(&tree, patience, |image| image.object_uses().collect::<Result<Vec<_>, _>>());
    let large = objects.expect("the names are there").into_iter().max_by_key(|object| object.size).expect("some");
    let object = ObjectRef { id: large.id, index: large.index, size: large.size };
    server.set("packs/", &answer("a login page"), u32::MAX);
    let publisher = fixture.publisher();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let said = read_object(&tree, &object, &publisher, patience).expect_err("nothing else comes");
                assert!(said.contains("packs/"), "{said}");
            });
        }
    });
    let asked = server.requests("packs/").len();
    assert!((3..=8).contains(&asked), "{asked} requests: {:?}", server.requests("packs/"));
    // After a temporary fault the next reader succeeds, at the latest when the remote is asked again after an outage.
    server.restore();
    let begin = Instant::now();
    while let Err(said) = read_object(&tree, &object, &publisher, Duration::from_secs(20)) {
        assert!(begin.elapsed() < Duration::from_secs(20), "{said}");
        thread::sleep(Duration::from_millis(100));
    }
}
