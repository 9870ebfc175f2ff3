//! Answers that violate HTTP or its expectations: one line of a table each.

use std::sync::Mutex;
use std::thread;

use super::fixture::Fixture;
use super::server::{Fault, Server};

/// The path, the fault, and the message for the user.
type Case = (&'static str, Fault, &'static str);

fn cases() -> Vec<Case> {
    let status = |status, text: &str| Fault::Status(status, "", text.to_owned());
    let raw = |text: &str| Fault::Raw(text.as_bytes().to_vec());
    vec![
        ("refs/", status(404, ""), "has no ref 'main'"),
        ("packs/", status(404, ""), "is not there"),
        ("refs/", status(403, "go away"), "not allowed to read refs/main: the server answers 403 Forbidden (go away)"),
        ("refs/", status(418, "\u{1b}[2J\u{7}tea"), "418 I'm a teapot ([2Jtea)"),
        ("refs/", status(500, "<html><title>It broke</title>"), "500 Internal Server Error (It broke)"),
        ("packs/", status(503, ""), "503 Service Unavailable"),
        ("packs/", status(416, ""), "ends too early"),
        ("refs/", Fault::Status(429, "Retry-After: 3600\r\n", String::new()), "asks to come back in 3600 s"),
        ("refs/", Fault::Status(500, "", "x".repeat(1 << 20)), "500 Internal Server Error (xxxx"),
        ("refs/", raw("not HTTP at all\r\n\r\n"), "the connection broke"),
        ("refs/", raw("HTTP/1.1 200 OK\r\nContent-Length: banana\r\n\r\n"), "cannot read refs/main"),
        ("refs/", raw("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n"), "cannot read refs/main"),
        ("refs/", raw(""), "the connection broke"),
        ("refs/", Fault::Never, "nothing came for 1 s"),
        ("packs/", Fault::Never, "nothing came for 1 s"),
        ("refs/", Fault::Drip, "fewer than 1000 bytes a second came for 1 s"),
        ("packs/", Fault::Drip, "fewer than 1000 bytes a second came for 1 s"),
        ("refs/", Fault::EndlessHead, "the connection broke"),
        ("packs/", Fault::EndlessHead, "the connection broke"),
        ("refs/", Fault::EndlessBody("Content-Length: 18446744073709551615\r\n"), "cannot read refs/main"),
        ("refs/", Fault::EndlessBody("Content-Length: 1099511627776\r\n"), "has more than"),
        ("refs/", Fault::EndlessBody("Transfer-Encoding: chunked\r\n"), "refs/main has more than"),
        ("refs/", Fault::EndlessBody(""), "refs/main has more than"),
        // Which check fails first depends on the speed of threads.
        ("packs/", Fault::EndlessBody("Transfer-Encoding: chunked\r\n"), "is damaged at byte"),
        ("images/", Fault::EndlessBody(""), "not a published image"),
        ("refs/", Fault::ShortBody, "the connection broke"),
        ("packs/", Fault::ShortBody, "the connection broke"),
        ("images/", Fault::ShortBody, "the connection broke"),
        ("packs/", Fault::Range("bytes 0-99/100"), "the server sent bytes 0-99/100 where bytes 16-"),
        ("packs/", Fault::Range("bytes 16-18446744073709551615/18446744073709551615"), "where bytes 16-"),
        ("packs/", Fault::Range("bytes 17-16/100"), "where bytes 16-"),
        ("packs/", Fault::Range("lines 1-2"), "the server sent lines 1-2"),
        ("packs/", Fault::Header("Content-Encoding: gzip\r\n"), "encoded as 'gzip'"),
        ("refs/", Fault::Header("Content-Encoding: br\r\n"), "encoded as 'br'"),
        ("refs/", Fault::Redirect("/refs/main".to_owned()), "redirects in a circle"),
        ("refs/", Fault::Redirect("file:///etc/passwd".to_owned()), "cannot read refs/main"),
        ("refs/", Fault::Redirect("gopher://example.invalid/".to_owned()), "cannot read refs/main"),
        ("packs/", Fault::Flipped, "is not what it should be: it "),
        ("images/", Fault::Flipped, "is not what it should be"),
        ("locators/", Fault::Flipped, "does not have the digest that it is named by"),
    ]
}

#[test]
fn each_wrong_answer_has_its_message_and_stores_nothing() {
    let fixture = Fixture::new("hostile-answers");
    let before = fixture.outside();
    let work = Mutex::new(cases().into_iter().enumerate());
    // All at once, since most of the time is spent waiting.
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some((number, case)) = { work.lock().expect("no holder panics").next() } {
                    try_case(&fixture, number, &case);
                }
            });
        }
    });
    assert_eq!(fixture.outside(), before, "something was written outside of the clients' repositories");
}

fn try_case(fixture: &Fixture, number: usize, (path, fault, word): &Case) {
    let server = Server::of(&fixture.published);
    let client = fixture.client(&number.to_string(), &server);
    server.set(path, fault.clone());
    let said = client.pull_in_vain();
    let asked = server.requests().len();
    assert!(asked < 100, "{fault:?} at {path}: {asked} requests");
    assert!(word.split('|').any(|word| said.contains(word)), "{fault:?} at {path}: '{word}' is not in '{said}'");
    assert!(said.contains(&server.url()), "{fault:?} at {path} names no server: {said}");
    assert!(said.lines().all(|line| line.len() < 500), "a long story: {said}");
    server.restore();
    client.pull().success();
    client.repository.assert_clean();
}

/// Temporary faults, and answers that are only unusual, are no errors.
#[test]
fn pull_succeeds_if_the_server_recovers_or_sends_too_much() {
    let fixture = Fixture::new("hostile-passing");
    let busy = |after| Fault::Status(429, after, "busy".to_owned());
    let cases: Vec<(&str, Fault, u32)> = vec![
        ("refs/", Fault::Status(500, "", String::new()), 2),
        ("packs/", Fault::Status(503, "", String::new()), 2),
        ("refs/", busy("Retry-After: 1\r\n"), 1),
        ("packs/", busy(""), 2),
        ("refs/", Fault::Raw(Vec::new()), 1),
        ("packs/", Fault::ShortBody, 3),
        ("images/", Fault::ShortBody, 2),
        ("packs/", Fault::Never, 1),
        ("", Fault::Whole, u32::MAX),
        ("images/", Fault::LongBody, u32::MAX),
        ("packs/", Fault::LongBody, u32::MAX),
        ("", Fault::Trailing, u32::MAX),
        ("", Fault::Header("Connection: close\r\n"), u32::MAX),
    ];
    thread::scope(|scope| {
        for (number, (path, fault, times)) in cases.into_iter().enumerate() {
            let fixture = &fixture;
            scope.spawn(move || {
                let server = Server::of(&fixture.published);
                let client = fixture.client(&number.to_string(), &server);
                let patient = client.repository.path().join("remotes/os.toml");
                let text = std::fs::read_to_string(&patient).expect("just written");
                std::fs::write(&patient, text.replace("patience = 1\n", "patience = 60\n")).expect("writable");
                server.set_times(path, fault, times);
                client.pull().success();
                client.repository.assert_clean();
            });
        }
    });
}
