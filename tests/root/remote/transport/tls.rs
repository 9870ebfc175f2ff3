//! TLS: certificates of servers and clients, and the protocol version; by nginx with certificates of a test authority.

use std::path::Path;
use std::time::Duration;

use sapwood::remote::transport::{Transport, TransportOptions};

use super::certificates::{Authority, Issued};
use super::fixture::{Fixture, fetch, impatient, run_with, write};
use super::nginx::Nginx;
use crate::common::link::{Link, Shape};

/// Returns a server block with a certificate.
fn secure(port: u16, issued: &Issued, root: &Path, more: &str) -> String {
    format!(
        "server {{ listen 127.0.0.1:{port} ssl http2; root {}; ssl_certificate {}; ssl_certificate_key {}; {more} }}\n",
        root.display(),
        issued.certificate.display(),
        issued.key.display()
    )
}

#[test]
fn tls_verifies_the_server_and_sends_a_client_certificate() {
    let fixture = Fixture::new("transport-tls");
    let published = fixture.published();
    let place = fixture.sandbox.directory("certificates");
    let authority = Authority::new(&place, "authority");
    let stranger = Authority::new(&place, "stranger");
    let good = authority.server("good", &["127.0.0.1"]);
    let expired = authority.expired("expired", &["127.0.0.1"]);
    let other = authority.server("other", &["other.example"]);
    let asker = authority.client("asker");
    let unknown_asker = stranger.client("asker");
    let asks = format!("ssl_client_certificate {}; ssl_verify_client on;", authority.file.display());
    let nginx = Nginx::start(&fixture.sandbox.join("nginx"), 5, |ports| {
        let servers = [(&good, ""), (&expired, ""), (&other, ""), (&good, &*asks)];
        let secure = servers.iter().zip(ports).map(|((issued, more), port)| secure(*port, issued, &published, more));
        secure.chain([format!("server {{ listen 127.0.0.1:{}; }}", ports[4])]).collect()
    });
    let url = |server| format!("https://127.0.0.1:{}", nginx.port(server));
    let trusting = TransportOptions { ca_file: Some(authority.file.clone()), ..impatient() };
    let with = |file: &Path| TransportOptions { client_certificate: Some(file.to_owned()), ..trusting.clone() };

    let sound = fetch(&url(0), &trusting, "refs/main").expect("trusted");
    assert!(sound.starts_with("SAPWSGN"), "{sound}");
    assert_eq!(fetch(&url(3), &with(&asker.both), "refs/main").expect("known"), sound);
    let from_environment = [("SSL_CERT_FILE".to_owned(), authority.file.to_str().expect("UTF-8").to_owned())];
    let by_variable = TransportOptions { settings: from_environment.into(), ..impatient() };
    assert_eq!(fetch(&url(0), &by_variable, "refs/main").expect("trusted"), sound);
    assert!(nginx.requests().iter().all(|line| line.contains(" HTTP/2.0 ")), "{:#?}", nginx.requests());

    let empty = write(&place, "empty.pem", "");
    let cases = [
        (0, impatient(), "an authority that is not trusted here"),
        (0, TransportOptions { ca_file: Some(stranger.file.clone()), ..impatient() }, "not trusted here"),
        (0, TransportOptions { ca_file: Some(empty), ..impatient() }, "it has no certificate"),
        (0, TransportOptions { ca_file: Some(place.join("nothing")), ..impatient() }, "nothing"),
        (1, trusting.clone(), "expired"),
        (2, trusting.clone(), "other.example"),
        (3, trusting.clone(), "400 Bad Request (400 No required SSL certificate was sent)"),
        (3, with(&unknown_asker.both), "400 Bad Request (400 The SSL certificate error)"),
        (4, trusting.clone(), "no secure connection"),
        (3, with(&asker.certificate), "asker.certificate.pem"),
    ];
    for (server, options, word) in cases {
        let said = fetch(&url(server), &options, "refs/main").expect_err(word);
        assert!(said.contains(word), "'{word}' is not in '{said}'");
    }

    // The same by the commands of a user.
    let said = fixture.client.run(["pull", "--insecure-unsigned", &format!("{}#main", url(0))]).failure(1);
    assert!(said.contains("certificate is refused") && said.contains("--ca-file"), "{said}");
    let file = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let options = ["--ca-file".to_owned(), file(&authority.file), "--client-certificate".to_owned(), file(&asker.both)];
    fixture.add_remote(&url(3), &options.iter().map(String::as_str).collect::<Vec<_>>());
    fixture.assert_client_pulls();
    fixture.assert_mounted_is_same(&fixture.client);
    let shown = fixture.client.run(["remote", "show", "os"]).success();
    assert!(shown.contains(&file(&authority.file)) && shown.contains(&file(&asker.both)), "{shown}");
    let variable = [("SSL_CERT_FILE", file(&authority.file))];
    let lazy = fixture.sandbox.repository("lazy");
    let at = fixture.sandbox.directory("mounted");
    let arguments = ["mount", "--insecure-unsigned", &format!("{}#main", url(0)), at.to_str().expect("UTF-8")];
    run_with(&lazy, &variable, &arguments).success();
    // The daemon fetches it, so it must have the variable, too.
    let [fetched, made] = [&at, &fixture.tree].map(|root| std::fs::read(root.join("00/file-40")).expect("readable"));
    assert!(fetched == made);
}

#[test]
fn certificate_is_shown_only_to_its_server() {
    let fixture = Fixture::new("transport-tls-redirect");
    let published = fixture.published();
    let authority = Authority::new(&fixture.sandbox.directory("certificates"), "authority");
    let (issued, asker) = (authority.server("server", &["127.0.0.1"]), authority.client("asker"));
    let nginx = Nginx::start(&fixture.sandbox.join("nginx"), 4, |ports| {
        let asks = format!(
            "ssl_client_certificate {}; ssl_verify_client on; location / {{ return 307 https://127.0.0.1:{}$request_uri; }}",
            authority.file.display(),
            ports[1]
        );
        // It serves each client that shows no certificate.
        let refuses =
            "ssl_verify_client optional_no_ca; if ($ssl_client_verify != NONE) { return 418 'a certificate'; }";
        let downgrades = format!("location / {{ return 307 http://127.0.0.1:{}$request_uri; }}", ports[3]);
        let secure = [(ports[0], &*asks), (ports[1], refuses), (ports[2], &downgrades)]
            .map(|(port, more)| secure(port, &issued, &published, more));
        secure.concat() + &format!("server {{ listen 127.0.0.1:{}; root {}; }}", ports[3], published.display())
    });
    let url = |server| format!("https://127.0.0.1:{}", nginx.port(server));
    let trusting = TransportOptions { ca_file: Some(authority.file.clone()), ..impatient() };
    let with = TransportOptions { client_certificate: Some(asker.both.clone()), ..trusting.clone() };
    let shown = fetch(&url(1), &with, "refs/main").expect_err("the certificate is shown to the server it is for");
    assert!(shown.contains("418"), "{shown}");
    let sound = fetch(&url(1), &trusting, "refs/main").expect("no certificate");
    assert_eq!(fetch(&url(0), &with, "refs/main").expect("sent on"), sound);
    let mirrored = TransportOptions { mirrors: vec![url(1)], ..with.clone() };
    assert_eq!(fetch("https://127.0.0.1:1", &mirrored, "refs/main").expect("from the mirror"), sound);
    // From an encrypted connection no request goes on without encryption.
    for options in [&trusting, &with] {
        let said = fetch(&url(2), options, "refs/main").expect_err("not followed");
        assert!(said.contains("sends requests on to 127.0.0.1, without encryption"), "{said}");
    }
    assert!(nginx.requests_of(3, 0).is_empty(), "{:#?}", nginx.requests_of(3, 0));
}

#[test]
fn silently_dead_connection_is_abandoned() {
    let fixture = Fixture::new("transport-silent");
    let published = fixture.published();
    let authority = Authority::new(&fixture.sandbox.directory("certificates"), "authority");
    let issued = authority.server("server", &["127.0.0.1"]);
    let nginx = Nginx::start(&fixture.sandbox.join("nginx"), 1, |ports| secure(ports[0], &issued, &published, ""));
    let shape = Shape { round_trip: Duration::from_millis(1), bits_per_second: 1_000_000_000 };
    let link = Link::to(([127, 0, 0, 1], nginx.port(0)).into(), shape);
    let options = TransportOptions {
        ca_file: Some(authority.file.clone()),
        connect_timeout: 2,
        stall_timeout: 1,
        patience: 30,
        ..TransportOptions::default()
    };
    let transport = Transport::open(&format!("https://{}", link.address()), &options).expect("a URL");
    let read = || transport.get("refs/main", 1 << 20).expect("it is fetched in the end").expect("it is there").0;
    let first = read();
    link.forget_connections();
    // HTTP/2 has one connection for all requests: as long as the client believes it is alive, no request gets through.
    assert_eq!(read(), first);
    assert!(link.traffic().connections >= 2);
    assert!(nginx.requests().iter().all(|line| line.contains(" HTTP/2.0 ")), "{:#?}", nginx.requests());
}
