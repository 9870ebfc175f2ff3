//! How often whom is asked: counts of requests.

use std::thread;
use std::time::Duration;

use sapwood::image::ObjectRef;

use super::scene::{Scene, read_object, with_blocks};
use crate::common::odd::{Answer, Odd, wrong};

fn answer(name: &str) -> Answer {
    let found = wrong().into_iter().find(|(other, _)| *other == name);
    found.map(|(_, answer)| answer).unwrap_or_else(|| panic!("no answer is called '{name}'"))
}

#[test]
fn only_refs_are_asked_for_past_caches_first_and_everything_is_the_second_time() {
    let scene = Scene::new();
    let server = Odd::serve(&scene.before());
    scene.client("first").pull(&[server.url()], 20).expect("a good server");
    for kind in ["commits/", "images/", "locators/", "packs/"] {
        assert!(!server.asked(kind).is_empty() && server.asked(kind).iter().all(|asked| !asked.is_fresh), "{kind}");
    }
    assert!(server.asked("refs/").iter().all(|asked| asked.is_fresh));
    server.forget();
    for kind in ["commits/", "images/", "locators/", "packs/"] {
        server.set(kind, &answer("one byte is another"), 1);
    }
    scene.client("second").pull(&[server.url()], 20).expect("it passes");
    for kind in ["commits/", "images/", "locators/"] {
        let fresh: Vec<bool> = server.asked(kind).iter().map(|asked| asked.is_fresh).collect();
        assert_eq!(fresh, [false, true], "{kind}");
    }
    // Of a pack only the frame that came wrong comes again.
    let packs = server.asked("packs/");
    assert_eq!(packs.iter().map(|asked| asked.is_fresh).collect::<Vec<_>>(), [false, true], "{packs:?}");
    let length = |number: usize| packs[number].range.map_or(usize::MAX, |(first, last)| last - first);
    assert!(length(1) < length(0) / 2, "{packs:?}");
}

#[test]
fn who_may_not_or_is_behind_is_asked_twice() {
    let scene = Scene::new();
    let server = Odd::serve(&scene.after());
    let client = scene.client("behind");
    client.pull(&[server.url()], 20).expect("a good server");
    let behind = Odd::serve(&scene.before());
    let said = client.pull(&[behind.url()], 20).expect_err("an older sequence");
    assert!(said.contains("older than"), "{said}");
    let fresh: Vec<bool> = behind.asked("refs/").iter().map(|asked| asked.is_fresh).collect();
    assert_eq!(fresh, [true, true]);
    // A mirror that is not behind makes up for it.
    client.pull(&[behind.url(), server.url()], 20).expect("the mirror is right");

    for status in ["401 Unauthorized", "403 Forbidden"] {
        let denied: Answer = std::sync::Arc::new(move |_, _| crate::common::odd::response(status, "", b""));
        for kind in ["refs/", "packs/"] {
            let server = Odd::serve(&scene.before());
            server.set(kind, &denied, u32::MAX);
            let client = scene.client(&format!("{}-{}", &status[..3], &kind[..4]));
            let said = client.pull(&[server.url()], 20).expect_err("it is denied");
            assert!(said.contains("not allowed to read"), "{said}");
            assert_eq!(server.asked(kind).len(), 2, "{:?}", server.asked(kind));
            assert!(server.asked(kind)[1].is_fresh);
        }
    }
}

#[test]
fn a_place_that_sent_wrong_bytes_is_asked_last_for_a_while() {
    let scene = Scene::new();
    let (bad, good) = (Odd::serve(&scene.before()), Odd::serve(&scene.before()));
    bad.set("images/", &answer("one byte is another"), u32::MAX);
    bad.set("packs/", &answer("one byte is another"), u32::MAX);
    let client = scene.client("distrust");
    client.pull(&[bad.url(), good.url()], 20).expect("the mirror is right");
    assert_eq!(bad.asked("images/").len(), 2);
    // The URL itself is asked for the ref in any case; what is named by its content comes from the mirror from then on.
    assert_eq!((bad.asked("refs/").len(), bad.asked("locators/").len(), bad.asked("packs/").len()), (1, 0, 0));
    assert!(!good.asked("packs/").is_empty());
}

#[test]
fn many_readers_of_a_part_that_comes_wrong_ask_no_more_than_one() {
    let scene = Scene::new();
    let server = Odd::serve(&scene.before());
    let client = scene.client("readers");
    let patience = Duration::from_secs(2);
    let tree = client.visit(&[server.url()], 2).expect("a good server");
    let objects = with_blocks(&tree, patience, |image| image.object_uses().collect::<Result<Vec<_>, _>>());
    let large = objects.expect("the names are there").into_iter().max_by_key(|object| object.size).expect("some");
    let object = ObjectRef { id: large.id, index: large.index, size: large.size };
    server.set("packs/", &answer("a login page"), u32::MAX);
    let publisher = scene.publisher();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let said = read_object(&tree, &object, &publisher, patience).expect_err("nothing else comes");
                assert!(said.contains("packs/"), "{said}");
            });
        }
    });
    let asked = server.asked("packs/").len();
    assert!((3..=8).contains(&asked), "{asked} requests: {:?}", server.asked("packs/"));
    // What passes is read by the next reader.
    server.mend();
    read_object(&tree, &object, &publisher, Duration::from_secs(20)).expect("it has passed");
}
