//! Each wrong answer for each kind of file, pulled and read lazily. With a correct mirror it does no harm; alone it is retried
//! while it may be temporary, and if it lasts the error says what was answered.

use std::collections::HashMap;
use std::sync::Mutex;
use std::thread;

use sapwood::remote::transport::TRIES_MAX;

use super::fixture::{Client, Fixture};
use crate::common::scripted_server::{Answer, ScriptedServer, wrong};

/// The files that a pull or a lazy mount needs, by the prefix of their path.
const KINDS: [&str; 5] = ["refs/", "commits/", "images/", "locators/", "packs/"];

/// How a commit is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Pulled,
    Read,
}

impl Use {
    fn of(self, client: &Client, fixture: &Fixture, urls: &[String], patience: u64) -> Result<(), String> {
        match self {
            Self::Pulled => client.pull(urls, patience).map(drop),
            Self::Read => client.read(fixture, urls, patience),
        }
    }
}

/// Calls `work` with each item, many at once, since it mostly waits.
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
    let fixture = Fixture::new();
    let good = ScriptedServer::serve(&fixture.before());
    at_once(cases(&KINDS), |number, (how, kind, name, odd)| {
        let bad = ScriptedServer::serve(&fixture.before());
        bad.set(kind, &odd, u32::MAX);
        let client = fixture.client(&number.to_string());
        how.of(&client, &fixture, &[bad.url(), good.url()], 20)
            .unwrap_or_else(|error| panic!("{how:?}, {name} for {kind}: {error}"));
        client.again();
    });
}

#[test]
fn temporary_wrong_answers_are_retried() {
    let fixture = Fixture::new();
    at_once(cases(&KINDS), |number, (how, kind, name, odd)| {
        let server = ScriptedServer::serve(&fixture.before());
        server.set(kind, &odd, 3);
        let client = fixture.client(&number.to_string());
        how.of(&client, &fixture, &[server.url()], 20)
            .unwrap_or_else(|error| panic!("{how:?}, {name} for {kind}: {error}"));
        client.again();
    });
}

#[test]
fn lasting_wrong_answer_is_reported_after_at_most_eight_tries() {
    let fixture = Fixture::new();
    at_once(cases(&KINDS), |number, (how, kind, name, odd)| {
        let server = ScriptedServer::serve(&fixture.before());
        server.set(kind, &odd, u32::MAX);
        let client = fixture.client(&number.to_string());
        let Err(said) = how.of(&client, &fixture, &[server.url()], 1) else {
            panic!("{how:?}, {name} for {kind}: nothing was said")
        };
        // On a busy machine the first answer may take more than a second.
        let is_named = said.contains(&server.url())
            || how == Use::Read && (said.contains(kind) || said.contains("no answer within the time"));
        assert!(is_named, "{how:?}, {name} for {kind}: {said}");
        if name.starts_with("a login page") {
            assert!(said.contains("a web page, 'Log in'") || said.contains("where bytes"), "{kind}: {said}");
        }
        let mut tries = HashMap::new();
        server.requests(kind).into_iter().for_each(|asked| *tries.entry((asked.path, asked.range)).or_insert(0) += 1);
        let most = tries.values().max().copied().unwrap_or(0);
        let least = match name {
            // The client follows ten of them each time.
            "a redirect in a circle" => return,
            // The next request continues where this answer ended.
            "half of it and the end" => 1,
            _ if how == Use::Read && said.contains("no answer within the time") => 1,
            _ => 2,
        };
        assert!((least..=TRIES_MAX).contains(&most), "{how:?}, {name} for {kind}: {tries:?}");
        client.again();
    });
}

#[test]
fn update_succeeds_without_a_wrong_delta() {
    let fixture = Fixture::new();
    assert!(fixture.after().join("deltas").is_dir(), "there is a delta");
    let old = fixture.client("old");
    let before = ScriptedServer::serve(&fixture.before());
    old.pull(&[before.url()], 20).expect("a good server");
    at_once(wrong(), |number, (name, odd)| {
        let server = ScriptedServer::serve(&fixture.after());
        server.set("deltas/", &odd, u32::MAX);
        let client = Client::of(&fixture, &number.to_string(), old.path());
        client.pull(&[server.url()], 20).unwrap_or_else(|error| panic!("{name}: {error}"));
        // The head is requested twice, and so are the patches.
        let tries = server.requests("deltas/").len();
        assert!((1..=4).contains(&tries) || name == "a redirect in a circle", "{name}: {tries} requests");
        client.again();
        // A temporary one does no harm.
        server.restore();
        server.set("deltas/", &odd, 1);
        let client = Client::of(&fixture, &format!("{number}-passing"), old.path());
        client.pull(&[server.url()], 20).unwrap_or_else(|error| panic!("{name}, passing: {error}"));
        client.again();
    });
}
