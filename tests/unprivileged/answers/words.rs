//! What the program says of answers and proxies, and what it never says.

use std::process::{Command, Output};

use super::scene::Scene;
use crate::common::odd::{Answer, Odd, PAGE, response};

fn sapwood(scene: &Scene, repository: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sapwood"));
    command.arg("--repo").arg(scene.join(repository)).args(arguments);
    for name in ["http_proxy", "https_proxy", "all_proxy", "ALL_PROXY", "HTTPS_PROXY", "no_proxy", "NO_PROXY"] {
        command.env_remove(name);
    }
    command.output().expect("it can be started")
}

/// All that was printed; the command must end so.
#[track_caller]
fn said(output: &Output, is_success: bool) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8(text).expect("UTF-8");
    assert_eq!(output.status.success(), is_success, "{text}");
    text
}

#[test]
fn a_proxy_is_named_and_its_password_is_not() {
    let scene = Scene::new();
    said(&sapwood(&scene, "words", &["init"]), true);
    let add = |proxy: &str| {
        let fixed = ["remote", "add", "--replace", "os", "http://server.invalid/", "--insecure-unsigned"];
        sapwood(&scene, "words", &[&fixed[..], &["--patience", "0", "--proxy", proxy]].concat())
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
        assert!(!said(&sapwood(&scene, "words", arguments), true).contains("word"), "{arguments:?}");
    }
    let shown = said(&sapwood(&scene, "words", &["remote", "show", "os"]), true);
    assert!(shown.contains("http://me:***@127.0.0.1:1"), "{shown}");
    let text = said(&sapwood(&scene, "words", &["pull", "os:main"]), false);
    assert!(text.contains("through the proxy http://me:***@127.0.0.1:1") && !text.contains("word"), "{text}");

    // One that wants to know who is asking is asked twice and no more.
    let proxy = Odd::serve(&scene.before());
    let wants_name: Answer = std::sync::Arc::new(|_, _| response("407 Proxy Authentication Required", "", b""));
    proxy.set("", &wants_name, u32::MAX);
    let fixed = ["remote", "add", "--replace", "os", "--insecure-unsigned", "--proxy", &proxy.url()];
    for url in ["http://server.invalid/", "https://server.invalid/"] {
        proxy.forget();
        said(&sapwood(&scene, "words", &[&fixed[..], &[url]].concat()), true);
        let text = said(&sapwood(&scene, "words", &["pull", "os:main"]), false);
        assert!(text.contains(&format!("the proxy {} refuses", proxy.url())), "{text}");
        assert!(text.contains("hint: name and password"), "{text}");
        assert_eq!(proxy.asked("").len(), 2, "{:?}", proxy.asked(""));
    }
    // A name and a password in a URL are refused without being told.
    let text =
        said(&sapwood(&scene, "words", &["pull", "--insecure-unsigned", "http://me:word@127.0.0.1/#main"]), false);
    assert!(text.contains("--bearer-file") && !text.contains("word@"), "{text}");
}

#[test]
fn what_was_answered_is_said_in_plain_words() {
    let scene = Scene::new();
    let server = Odd::serve(&scene.after());
    let login = Odd::serve(&scene.after());
    let page: Answer = std::sync::Arc::new(|_, _| response("200 OK", "Content-Type: text/html\r\n", PAGE));
    login.set("", &page, u32::MAX);
    let to_login = format!("Location: {}/login\r\n", login.url().replace("127.0.0.1", "localhost"));
    let redirect: Answer = std::sync::Arc::new(move |_, _| response("302 Found", &to_login, b""));
    let old = std::fs::read(scene.before().join("refs/main")).expect("published");
    let behind: Answer = std::sync::Arc::new(move |_, _| response("200 OK", "Age: 4000\r\n", &old));
    said(&sapwood(&scene, "plain", &["init"]), true);
    let fixed = ["remote", "add", "os", &server.url(), "--insecure-unsigned", "--patience", "1"];
    said(&sapwood(&scene, "plain", &fixed), true);
    said(&sapwood(&scene, "plain", &["pull", "os:main"]), true);
    let cases: [(&Answer, &[&str]); 3] = [
        (&page, &["a web page, 'Log in': is there a login page on this network?"]),
        (&redirect, &["a web page, 'Log in'", "requests are sent on to localhost"]),
        (&behind, &["older than", "a cache on the way has had it for 4000 s", "try again later, nothing is lost"]),
    ];
    for (answer, words) in cases {
        server.mend();
        server.set("refs/", answer, u32::MAX);
        let text = said(&sapwood(&scene, "plain", &["pull", "os:main"]), false);
        words.iter().for_each(|word| assert!(text.contains(word), "'{word}' is not in '{text}'"));
    }
}
