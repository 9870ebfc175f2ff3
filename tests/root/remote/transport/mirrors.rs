//! Mirrors, which are tried in order and also in the middle of a file; and the limit of the download rate.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use sapwood::remote::transport::{Transport, TransportOptions};

use super::fixture::{Fixture, impatient};
use super::nginx::Nginx;
use crate::common::link::{Link, Shape};
use crate::common::trees::noise;

const FAST: Shape = Shape { round_trip: Duration::from_millis(1), bits_per_second: 1_000_000_000 };

#[test]
fn mirror_continues_a_file_where_another_server_stopped() {
    let fixture = Fixture::new("transport-mirrors");
    let published = fixture.published();
    // Much more than the buffers of sockets hold: a cut loses what was not read from them.
    let content = noise(5, 24 << 20);
    std::fs::write(published.join("large"), &content).expect("writable");
    let nginx = Nginx::serve(&fixture.sandbox.join("nginx"), &published);
    let first = Link::to(([127, 0, 0, 1], nginx.port(0)).into(), FAST);
    let options = TransportOptions {
        // No server, then a server of other files, then the right one.
        mirrors: vec!["http://127.0.0.1:1".to_owned(), format!("{}/refs", nginx.url()), nginx.url()],
        ..impatient()
    };
    let transport = Transport::open(&format!("http://{}", first.address()), &options).expect("URLs");
    first.cut_after(20 << 20);
    let mut received = Vec::new();
    transport
        .stream_range("large", 100..content.len() as u64, &mut |piece| {
            received.extend_from_slice(&piece);
            ControlFlow::Continue(())
        })
        .expect("the mirror has the rest");
    assert!(received == content[100..], "the pieces of two servers make the file");
    // The first answer, the other files, the second answer; nginx may write the first line last.
    let asked = nginx.requests_of(0, 3);
    let begin = |line: &String| line.split("range=bytes=").nth(1)?.split('-').next()?.parse::<u64>().ok();
    let from = asked.iter().filter(|line| line.contains(" /large ")).filter_map(begin).max().expect("a range");
    assert!(from > 1 << 20, "what had come was asked for again: {asked:#?}");

    // Complete pulls; the first URL is tried for refs, and does not hinder.
    fixture.add_remote(
        &format!("http://{}", first.address()),
        &["--mirror", "http://127.0.0.1:1", "--mirror", &nginx.url(), "--connect-timeout", "5"],
    );
    fixture.assert_client_pulls();
}

#[test]
fn download_rate_stays_below_its_limit() {
    let fixture = Fixture::new("transport-rate");
    let published = fixture.published();
    let nginx = Nginx::serve(&fixture.sandbox.join("nginx"), &published);
    fixture.add_remote(&nginx.url(), &["--rate-limit", "3M"]);
    let begin = Instant::now();
    fixture.client.run(["pull", "os:main"]).success();
    // The tree is 4.7 MB of noise.
    assert!(begin.elapsed() > Duration::from_secs(1), "{:?}", begin.elapsed());
    fixture.assert_client_has_all();
}
