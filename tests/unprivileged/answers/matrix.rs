//! Each wrong answer for each kind of file, pulled and read lazily: with a good mirror it does no harm, alone it is waited for
//! while it may pass, and if it lasts the error says what was answered.

use std::collections::HashMap;
use std::sync::Mutex;
use std::thread;

use sapwood::remote::transport::TRIES_MAX;

use super::scene::{Client, Scene};
use crate::common::odd::{Answer, Odd, wrong};

/// What a pull or a lazy mount needs, by the beginning of its path.
const KINDS: [&str; 5] = ["refs/", "commits/", "images/", "locators/", "packs/"];

/// How a commit is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Pulled,
    Read,
}

impl Use {
    fn of(self, client: &Client, scene: &Scene, urls: &[String], patience: u64) -> Result<(), String> {
        match self {
            Self::Pulled => client.pull(urls, patience).map(drop),
            Self::Read => client.read(scene, urls, patience),
        }
    }
}

/// Tries `work` with each item, many at once: mostly something is waited for.
pub fn at_once<T: Send>(items: Vec<T>, work: impl Fn(usize, T) + Sync) {
    let items = Mutex::new(items.into_iter().enumerate());
    thread::scope(|scope| {
        for _ in 0..24 {
            scope.spawn(|| {
                while let Some((number, item)) = { items.lock().expect("no holder panics").next() } {
                    work(number, item);
                }
            });
        }
    });
}

type Case = (Use, &'static str, &'static str, Answer);

fn cases(kinds: &[&'static str]) -> Vec<Case> {
    let uses = [Use::Pulled, Use::Read];
    let of_use =
        |how| kinds.iter().flat_map(move |kind| wrong().into_iter().map(move |(name, odd)| (how, *kind, name, odd)));
    uses.into_iter().flat_map(of_use).collect()
}

#[test]
fn a_good_mirror_makes_up_for_every_wrong_answer() {
    let scene = Scene::new();
    let good = Odd::serve(&scene.before());
    at_once(cases(&KINDS), |number, (how, kind, name, odd)| {
        let bad = Odd::serve(&scene.before());
        bad.set(kind, &odd, u32::MAX);
        let client = scene.client(&number.to_string());
        how.of(&client, &scene, &[bad.url(), good.url()], 20)
            .unwrap_or_else(|error| panic!("{how:?}, {name} for {kind}: {error}"));
        client.again();
    });
}

#[test]
fn every_wrong_answer_may_pass() {
    let scene = Scene::new();
    at_once(cases(&KINDS), |number, (how, kind, name, odd)| {
        let server = Odd::serve(&scene.before());
        server.set(kind, &odd, 3);
        let client = scene.client(&number.to_string());
        how.of(&client, &scene, &[server.url()], 20)
            .unwrap_or_else(|error| panic!("{how:?}, {name} for {kind}: {error}"));
        client.again();
    });
}

#[test]
fn a_wrong_answer_that_lasts_is_an_error_in_words_and_asked_for_no_more_than_eight_times() {
    let scene = Scene::new();
    at_once(cases(&KINDS), |number, (how, kind, name, odd)| {
        let server = Odd::serve(&scene.before());
        server.set(kind, &odd, u32::MAX);
        let client = scene.client(&number.to_string());
        let Err(said) = how.of(&client, &scene, &[server.url()], 1) else {
            panic!("{how:?}, {name} for {kind}: nothing was said")
        };
        // A machine that is busy may not have had its first answer within a second.
        let is_named = said.contains(&server.url())
            || how == Use::Read && (said.contains(kind) || said.contains("no answer within the time"));
        assert!(is_named, "{how:?}, {name} for {kind}: {said}");
        if name.starts_with("a login page") {
            assert!(said.contains("a web page, 'Log in'") || said.contains("where bytes"), "{kind}: {said}");
        }
        let mut tries = HashMap::new();
        server.asked(kind).into_iter().for_each(|asked| *tries.entry((asked.path, asked.range)).or_insert(0) += 1);
        let most = tries.values().max().copied().unwrap_or(0);
        let least = match name {
            // The client follows ten of them each time.
            "a redirect in a circle" => return,
            // It is gone on with where it ended.
            "half of it and the end" => 1,
            _ => 2,
        };
        assert!((least..=TRIES_MAX).contains(&most), "{how:?}, {name} for {kind}: {tries:?}");
        client.again();
    });
}

#[test]
fn an_update_does_without_a_delta_that_comes_wrong() {
    let scene = Scene::new();
    assert!(scene.after().join("deltas").is_dir(), "there is a delta");
    let old = scene.client("old");
    let before = Odd::serve(&scene.before());
    old.pull(&[before.url()], 20).expect("a good server");
    at_once(wrong(), |number, (name, odd)| {
        let server = Odd::serve(&scene.after());
        server.set("deltas/", &odd, u32::MAX);
        let client = Client::of(&scene, &number.to_string(), old.path());
        client.pull(&[server.url()], 20).unwrap_or_else(|error| panic!("{name}: {error}"));
        // The head is asked for twice, and what is behind it as often.
        let tries = server.asked("deltas/").len();
        assert!((1..=4).contains(&tries) || name == "a redirect in a circle", "{name}: {tries} requests");
        client.again();
        // One that passes does no harm.
        server.mend();
        server.set("deltas/", &odd, 1);
        let client = Client::of(&scene, &format!("{number}-passing"), old.path());
        client.pull(&[server.url()], 20).unwrap_or_else(|error| panic!("{name}, passing: {error}"));
        client.again();
    });
}
