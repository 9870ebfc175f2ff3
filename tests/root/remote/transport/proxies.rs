//! Requests through proxies, and which servers get a token.

use std::collections::BTreeMap;

use sapwood::remote::transport::TransportOptions;

use super::certificates::Authority;
use super::fixture::{Fixture, fetch, impatient, run_with, write};
use super::nginx::Nginx;
use super::proxy::ForwardProxy;

#[test]
fn requests_use_the_proxy_except_for_excluded_hosts() {
    let fixture = Fixture::new("transport-proxy");
    let published = fixture.published();
    let authority = Authority::new(&fixture.sandbox.directory("certificates"), "authority");
    let server = authority.server("server", &["127.0.0.1"]);
    let nginx = Nginx::start(&fixture.sandbox.join("nginx"), 2, |ports| {
        let root = format!("root {};", published.display());
        let keys =
            format!("ssl_certificate {}; ssl_certificate_key {};", server.certificate.display(), server.key.display());
        format!(
            "server {{ listen 127.0.0.1:{}; {root} }} server {{ listen 127.0.0.1:{} ssl; {root} {keys} }}",
            ports[0], ports[1]
        )
    });
    let plain = nginx.url();
    let secure = format!("https://127.0.0.1:{}", nginx.port(1));
    let base = TransportOptions { ca_file: Some(authority.file.clone()), ..impatient() };
    let proxy = ForwardProxy::start();
    let by_variable = |name: &str, more: &[(&str, &str)]| {
        let pairs = [(name.to_owned(), proxy.url())].into_iter();
        let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let settings: BTreeMap<String, String> = pairs.chain(more).collect();
        TransportOptions { settings, ..base.clone() }
    };
    let by_option = TransportOptions { proxy: Some(proxy.url()), ..base.clone() };
    let cases = [
        (&plain, by_option.clone(), 1, "GET http://127.0.0.1:"),
        (&secure, by_option, 1, "CONNECT 127.0.0.1:"),
        (&plain, by_variable("http_proxy", &[]), 1, "GET http://"),
        (&secure, by_variable("https_proxy", &[]), 1, "CONNECT "),
        (&plain, by_variable("all_proxy", &[]), 1, "GET http://"),
        (&plain, by_variable("https_proxy", &[]), 0, ""),
        (&plain, by_variable("http_proxy", &[("no_proxy", "127.0.0.1")]), 0, ""),
        (&secure, by_variable("all_proxy", &[("no_proxy", "127.0.0.0/8")]), 0, ""),
        // In a CGI program this variable may come from a header of its client.
        (&plain, by_variable("HTTP_PROXY", &[]), 0, ""),
    ];
    for (number, (url, options, requests, begin)) in cases.into_iter().enumerate() {
        let before = proxy.requests().len();
        let got = fetch(url, &options, "refs/main").unwrap_or_else(|error| panic!("case {number}: {error}"));
        assert!(got.starts_with("SAPWSGN"), "case {number}");
        let asked = proxy.requests().split_off(before);
        assert_eq!(asked.len(), requests, "case {number}: {asked:#?}");
        assert!(asked.iter().all(|head| head.starts_with(begin)), "case {number}: {asked:#?}");
    }
    let closed_proxy = TransportOptions { proxy: Some("http://127.0.0.1:1".to_owned()), ..base };
    let said = fetch(&plain, &closed_proxy, "refs/main").expect_err("there is no proxy");
    assert!(said.contains("cannot connect"), "{said}");

    // The same by the commands of a user.
    let before = proxy.requests().len();
    fixture.add_remote(&plain, &["--proxy", &proxy.url()]);
    fixture.assert_client_pulls();
    let asked = proxy.requests().split_off(before);
    let fresh = |head: &String| head.to_ascii_lowercase().contains("cache-control: no-cache");
    assert!(asked.len() > 3);
    // Refs are requested past caches; files that are named by their content may come from one.
    assert!(asked.iter().filter(|head| head.contains("/refs/main ")).all(fresh), "{asked:#?}");
    assert!(!asked.iter().filter(|head| head.contains("/packs/")).any(fresh), "{asked:#?}");
    let before = proxy.requests().len();
    let url = format!("{plain}#main");
    run_with(&fixture.client, &[("http_proxy", proxy.url())], &["pull", "--insecure-unsigned", &url]).success();
    assert!(proxy.requests().len() > before);
}

#[test]
fn token_is_sent_only_to_its_server() {
    let fixture = Fixture::new("transport-bearer");
    let published = fixture.published();
    let nginx = Nginx::start(&fixture.sandbox.join("nginx"), 3, |ports| {
        let root = format!("root {};", published.display());
        // The first server requires the token, the second redirects to another port of the first, which serves every client.
        format!(
            "server {{ listen 127.0.0.1:{}; {root} if ($http_authorization != 'Bearer secret-token') {{ return 401 'who?'; }} }}
             server {{ listen 127.0.0.1:{}; location / {{ return 307 http://127.0.0.1:{}$request_uri; }} }}
             server {{ listen 127.0.0.1:{}; {root} }}",
            ports[0], ports[1], ports[2], ports[2]
        )
    });
    let url = |server| format!("http://127.0.0.1:{}", nginx.port(server));
    let token = write(fixture.sandbox.path(), "token", "secret-token\n");
    let with_token = TransportOptions { bearer_file: Some(token.clone()), ..impatient() };

    fetch(&url(0), &with_token, "refs/main").expect("the token is right");
    let said = fetch(&url(0), &impatient(), "refs/main").expect_err("no token");
    assert!(said.contains("not allowed to read refs/main") && said.contains("401 Unauthorized (who?)"), "{said}");
    let wrong = TransportOptions { bearer_file: Some(write(fixture.sandbox.path(), "wrong", "other")), ..impatient() };
    assert!(fetch(&url(0), &wrong, "refs/main").expect_err("wrong").contains("401"));

    fetch(&url(1), &with_token, "refs/main").expect("redirected");
    let mirrored = TransportOptions { mirrors: vec![url(2)], bearer_file: Some(token), ..impatient() };
    fetch("http://127.0.0.1:1", &mirrored, "refs/main").expect("from the mirror");
    assert!(nginx.requests_of(0, 1)[0].contains("auth=Bearer secret-token"), "{:#?}", nginx.requests_of(0, 1));
    assert!(nginx.requests_of(1, 1)[0].contains("auth=Bearer secret-token"), "{:#?}", nginx.requests_of(1, 1));
    let others = nginx.requests_of(2, 2);
    assert_eq!(others.len(), 2, "{others:#?}");
    assert!(others.iter().all(|line| line.contains(" 200 ") && line.ends_with("auth=-")), "{others:#?}");

    let file = fixture.sandbox.join("token");
    fixture.add_remote(&url(0), &["--bearer-file", file.to_str().expect("UTF-8")]);
    fixture.assert_client_pulls();
    let said = fixture.client.run(["pull", "--insecure-unsigned", &format!("{}#main", url(0))]).failure(1);
    assert!(said.contains("401 Unauthorized"), "{said}");
    let said = fixture.client.run(["pull", "--insecure-unsigned", "http://me:word@127.0.0.1/#main"]).failure(1);
    assert!(said.contains("--bearer-file"), "{said}");
}
