//! Mirrors, in order and in the middle of a file; and the limit on bytes a second.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use sapwood::remote::transport::{Transport, TransportOptions};

use super::nginx::Nginx;
use super::scene::{Scene, impatient};
use crate::common::link::{Link, Shape};
use crate::common::trees::noise;

const FAST: Shape = Shape { round_trip: Duration::from_millis(1), bits_per_second: 1_000_000_000 };

#[test]
fn a_mirror_goes_on_where_another_server_stopped() {
    let scene = Scene::new("transport-mirrors");
    let published = scene.published();
    // Much more than the buffers of sockets hold, of which a cut takes what was not read yet.
    let content = noise(5, 24 << 20);
    std::fs::write(published.join("large"), &content).expect("writable");
    let nginx = Nginx::serve(&scene.sandbox.join("nginx"), &published);
    let first = Link::to(([127, 0, 0, 1], nginx.port(0)).into(), FAST);
    let options = TransportOptions {
        // Nobody, then somebody else's files, then the right one.
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
    // The first answer, somebody else's files, the second answer; nginx may write the first line last.
    let asked = nginx.asked_of(0, 3);
    let begin = |line: &String| line.split("range=bytes=").nth(1)?.split('-').next()?.parse::<u64>().ok();
    let from = asked.iter().filter(|line| line.contains(" /large ")).filter_map(begin).max().expect("a range");
    assert!(from > 1 << 20, "what had come was asked for again: {asked:#?}");

    // Whole pulls; the first URL is tried for what changes, and does not stand in the way.
    scene.add_remote(
        &format!("http://{}", first.address()),
        &["--mirror", "http://127.0.0.1:1", "--mirror", &nginx.url(), "--connect-timeout", "5"],
    );
    scene.assert_client_pulls();
}

#[test]
fn bytes_come_no_faster_than_they_may() {
    let scene = Scene::new("transport-rate");
    let published = scene.published();
    let nginx = Nginx::serve(&scene.sandbox.join("nginx"), &published);
    scene.add_remote(&nginx.url(), &["--rate-limit", "3M"]);
    let begin = Instant::now();
    scene.client.run(["pull", "os:main"]).success();
    // The tree is 4.7 MB of noise.
    assert!(begin.elapsed() > Duration::from_secs(1), "{:?}", begin.elapsed());
    scene.assert_client_has_all();
}
