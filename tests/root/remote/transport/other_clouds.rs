//! `gs://` and `az://`: that requests go where they should, signed, and that what comes back is understood.
//!
//! The other side is a stand-in that serves a published directory, since neither service can be had on a test machine: this
//! proves our side of the conversation, not theirs.

use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use tokio::runtime::Runtime;
use tower_http::services::ServeDir;

use super::scene::{Scene, run_with};

type Asked = Arc<Mutex<Vec<String>>>;

/// Serves files as either service would, and takes anything that is written.
struct StandIn {
    url: String,
    asked: Asked,
    _runtime: Runtime,
}

impl StandIn {
    /// `bucket` is what stands before the files in a URL.
    fn serve(files: &Path, bucket: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        listener.set_nonblocking(true).expect("a socket");
        let asked = Asked::default();
        let files = Router::new().nest_service(bucket, ServeDir::new(files));
        let router = files.layer(from_fn_with_state(Arc::clone(&asked), answer));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("threads");
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
            axum::serve(listener, router).await
        });
        Self { url, asked, _runtime: runtime }
    }
}

async fn answer(State(asked): State<Asked>, request: Request, next: Next) -> Response {
    let line = line_of(&request);
    let is_write = request.method() == "PUT";
    asked.lock().expect("no holder panics").push(line);
    let mut response = if is_write { ().into_response() } else { next.run(request).await };
    // Both services give every object a tag, and one of them numbers its versions.
    response.headers_mut().insert("etag", HeaderValue::from_static("\"tag\""));
    response.headers_mut().insert("x-goog-generation", HeaderValue::from_static("1"));
    response
}

fn line_of(request: &Request) -> String {
    let who = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    let path = request.uri().path().replace("%2F", "/");
    format!("{} {path} {}", request.method(), who.unwrap_or("-"))
}

#[test]
fn what_is_in_other_buckets_is_pulled_and_mounted() {
    let scene = Scene::new("transport-clouds");
    let published = scene.published();
    let top = published.parent().expect("it has one");
    let google = StandIn::serve(top, "/systems");
    let azure = StandIn::serve(top, "/account/systems");
    // A key of 64 bytes; nobody checks what is signed with it here.
    let key = format!("{}==", "A".repeat(86));
    let cases = [
        (
            "gs://systems/published",
            vec![("GOOGLE_BASE_URL", google.url.clone()), ("GOOGLE_BEARER_TOKEN", "token".to_owned())],
            &google,
            "GET /systems/published/refs/main Bearer token",
        ),
        (
            "az://systems/published",
            vec![
                ("AZURE_STORAGE_ENDPOINT", format!("{}/account", azure.url)),
                ("AZURE_STORAGE_ACCOUNT_NAME", "account".to_owned()),
                ("AZURE_STORAGE_ACCOUNT_KEY", key),
            ],
            &azure,
            "GET /account/systems/published/refs/main SharedKey account:",
        ),
    ];
    for (url, variables, server, word) in cases {
        let name = url.split(':').next().expect("a scheme");
        let client = scene.sandbox.repository(name);
        client.run(["remote", "add", "os", url, "--insecure-unsigned"]).success();
        run_with(&client, &variables, &["pull", "os:main"]).success();
        client.assert_clean();
        let asked = server.asked.lock().expect("no holder panics").clone();
        assert!(asked.iter().any(|line| line.starts_with(word)), "{word}: {asked:#?}");
        // The daemon of a mount asks in the same way.
        let lazy = scene.sandbox.repository(&format!("{name}-lazy"));
        lazy.run(["remote", "add", "os", url, "--insecure-unsigned"]).success();
        let at = scene.sandbox.directory(&format!("{name}-mounted"));
        run_with(&lazy, &variables, &["mount", "-o", "suid,dev", "os:main", at.to_str().expect("UTF-8")]).success();
        crate::common::facts::assert_same_tree(&scene.tree, &at);
    }
    // Without anything to say who is asking, that is said at once.
    for url in ["gs://systems/published#main", "az://systems/published#main"] {
        let variables = [("HOME", "/nonexistent".to_owned()), ("AZURE_STORAGE_ACCOUNT_NAME", "account".to_owned())];
        let said = run_with(&scene.client, &variables, &["pull", "--insecure-unsigned", url]).failure(1);
        assert!(said.contains("there are no credentials"), "{url}: {said}");
    }
    let said = scene.client.run(["pull", "--insecure-unsigned", "ftp://host/x#main"]).failure(1);
    assert!(said.contains("none of file, http, https, s3, gs, az"), "{said}");
}
