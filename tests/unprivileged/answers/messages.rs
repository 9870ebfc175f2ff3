//! Messages about answers and proxies, and what they must not contain.

use std::process::{Command, Output};

use super::fixture::Fixture;
use crate::common::scripted_server::{Answer, PAGE, ScriptedServer, response};

fn sapwood(fixture: &Fixture, repository: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sapwood"));
    command.arg("--repo").arg(fixture.join(repository)).args(arguments);
    for name in ["http_proxy", "https_proxy", "all_proxy", "ALL_PROXY", "HTTPS_PROXY", "no_proxy", "NO_PROXY"] {
        command.env_remove(name);
    }
    command.output().expect("it can be started")
}

/// Returns all that was printed; the command must end with this result.
#[track_caller]
fn said(output: &Output, is_success: bool) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8(text).expect("UTF-8");
    assert_eq!(output.status.success(), is_success, "{text}");
    text
}

#[test]
fn proxy_is_named_without_its_password() {
    let fixture = Fixture::new();
    said(&sapwood(&fixture, "words", &["init"]), true);
    let add = |proxy: &str| {
        let fixed = ["remote", "add", "--replace", "os", "http://server.invalid/", "--insecure-unsigned"];
        sapwood(&fixture, "words", &[&fixed[..], &["--patience", "0", "--proxy", proxy]].concat())
    };
    for proxy in ["socks5h://me:word@127.0.0.1:9", "socks5://127.0.0.1:9", "ftp://127.0.0.1", "http://", "http://a b"] {
        let text = said(&add(proxy), false);
        assert!(text.contains("cannot use the proxy") && !text.contains("word"), "{text}");
    }
    said(&add("http://me:word@127.0.0.1:1"), true);
    for arguments in [
        &["remote", "show", "os"][..],
        &["remote", "show", "--json", "os"],
        &["remote", "list"],
        &["remote", "list", "--json"],
    ] {
        assert!(!said(&sapwood(&fixture, "words", arguments), true).contains("word"), "{arguments:?}");
    }
    let shown = said(&sapwood(&fixture, "words", &["remote", "show", "os"]), true);
    assert!(shown.contains("http://me:***@127.0.0.1:1"), "{shown}");
    let text = said(&sapwood(&fixture, "words", &["pull", "os:main"]), false);
    assert!(text.contains("through the proxy http://me:***@127.0.0.1:1") && !text.contains("word"), "{text}");

    // A proxy that requires authentication gets two requests and no more.
    let proxy = ScriptedServer::serve(&fixture.before());
    let wants_name: Answer = std::sync::Arc::new(|_, _| response("407 Proxy Authentication Required", "", b""));
    proxy.set("", &wants_name, u32::MAX);
    let fixed = ["remote", "add", "--replace", "os", "--insecure-unsigned", "--proxy", &proxy.url()];
    for url in ["http://server.invalid/", "https://server.invalid/"] {
        proxy.forget();
        said(&sapwood(&fixture, "words", &[&fixed[..], &[url]].concat()), true);
        let text = said(&sapwood(&fixture, "words", &["pull", "os:main"]), false);
        assert!(text.contains(&format!("the proxy {} requires a password (407)", proxy.url())), "{text}");
        assert!(text.contains("hint: name and password"), "{text}");
        assert_eq!(proxy.requests("").len(), 2, "{:?}", proxy.requests(""));
    }
    // A user name and a password in a URL are refused and not printed.
    let text =
        said(&sapwood(&fixture, "words", &["pull", "--insecure-unsigned", "http://me:word@127.0.0.1/#main"]), false);
    assert!(text.contains("--bearer-file") && !text.contains("word@"), "{text}");
}

#[test]
fn wrong_answers_are_described_in_plain_words() {
    let fixture = Fixture::new();
    let server = ScriptedServer::serve(&fixture.after());
    let login = ScriptedServer::serve(&fixture.after());
    let page: Answer = std::sync::Arc::new(|_, _| response("200 OK", "Content-Type: text/html\r\n", PAGE));
    login.set("", &page, u32::MAX);
    let to_login = format!("Location: {}/login\r\n", login.url().replace("127.0.0.1", "localhost"));
    let redirect: Answer = std::sync::Arc::new(move |_, _| response("302 Found", &to_login, b""));
    let old = std::fs::read(fixture.before().join("refs/main")).expect("published");
    let behind: Answer = std::sync::Arc::new(move |_, _| response("200 OK", "Age: 4000\r\n", &old));
    said(&sapwood(&fixture, "plain", &["init"]), true);
    let fixed = ["remote", "add", "os", &server.url(), "--insecure-unsigned", "--patience", "1"];
    said(&sapwood(&fixture, "plain", &fixed), true);
    said(&sapwood(&fixture, "plain", &["pull", "os:main"]), true);
    let cases: [(&Answer, &[&str]); 3] = [
        (&page, &["a web page, 'Log in': is there a login page on this network?"]),
        (&redirect, &["a web page, 'Log in'", "requests are sent on to localhost"]),
        (&behind, &["older than", "a cache on the way has had it for 4000 s", "try again later, nothing is lost"]),
    ];
    for (answer, words) in cases {
        server.restore();
        server.set("refs/", answer, u32::MAX);
        let text = said(&sapwood(&fixture, "plain", &["pull", "os:main"]), false);
        words.iter().for_each(|word| assert!(text.contains(word), "'{word}' is not in '{text}'"));
    }
}
