//! `gs://` and `az://`: requests are signed and go to the right addresses, and the answers are understood.
//!
//! *Not here*: the services themselves, which no test machine has. A stand-in serves a published directory, so that only this
//! side of the protocol is tested.

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

use super::fixture::{Fixture, run_with};

type RequestLog = Arc<Mutex<Vec<String>>>;

/// A server that answers as either service would, and accepts every write.
struct StandIn {
    url: String,
    asked: RequestLog,
    _runtime: Runtime,
}

impl StandIn {
    /// Serves `files`; `bucket` is the prefix of their URLs.
    fn serve(files: &Path, bucket: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        listener.set_nonblocking(true).expect("a socket");
        let asked = RequestLog::default();
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

async fn answer(State(asked): State<RequestLog>, request: Request, next: Next) -> Response {
    let line = line_of(&request);
    let is_write = request.method() == "PUT";
    asked.lock().expect("no holder panics").push(line);
    let mut response = if is_write { ().into_response() } else { next.run(request).await };
    // Both services give every object an ETag, and one of them numbers its versions.
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
fn gs_and_az_buckets_are_pulled_and_mounted() {
    let fixture = Fixture::new("transport-clouds");
    let published = fixture.published();
    let top = published.parent().expect("it has one");
    let google = StandIn::serve(top, "/systems");
    let azure = StandIn::serve(top, "/account/systems");
    // A key of 64 bytes; the stand-in checks no signature.
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
        let client = fixture.sandbox.repository(name);
        client.run(["remote", "add", "os", url, "--insecure-unsigned"]).success();
        run_with(&client, &variables, &["pull", "os:main"]).success();
        client.assert_clean();
        let asked = server.asked.lock().expect("no holder panics").clone();
        assert!(asked.iter().any(|line| line.starts_with(word)), "{word}: {asked:#?}");
        // The daemon of a mount sends the same requests.
        let lazy = fixture.sandbox.repository(&format!("{name}-lazy"));
        lazy.run(["remote", "add", "os", url, "--insecure-unsigned"]).success();
        let at = fixture.sandbox.directory(&format!("{name}-mounted"));
        run_with(&lazy, &variables, &["mount", "-o", "suid,dev", "os:main", at.to_str().expect("UTF-8")]).success();
        crate::common::facts::assert_same_tree(&fixture.tree, &at);
    }
    // Without credentials the error comes at once.
    for url in ["gs://systems/published#main", "az://systems/published#main"] {
        let variables = [("HOME", "/nonexistent".to_owned()), ("AZURE_STORAGE_ACCOUNT_NAME", "account".to_owned())];
        let said = run_with(&fixture.client, &variables, &["pull", "--insecure-unsigned", url]).failure(1);
        assert!(said.contains("there are no credentials"), "{url}: {said}");
    }
    let said = fixture.client.run(["pull", "--insecure-unsigned", "ftp://host/x#main"]).failure(1);
    assert!(said.contains("none of file, http, https, s3, gs, az"), "{said}");
}
