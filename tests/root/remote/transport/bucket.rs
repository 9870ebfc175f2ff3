//! An S3 server in this process: `s3s-fs`, which keeps a bucket as a directory, behind a gate that gives the answers of S3 that
//! `s3s-fs` lacks, and that can hold one request back.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use axum::Router;
use axum::error_handling::HandleError;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use tokio::runtime::Runtime;

pub const KEY: &str = "AKIATEST";
pub const SECRET: &str = "test-secret";

/// A server with one bucket, `systems`; it stops when dropped.
pub struct Bucket {
    address: SocketAddr,
    gate: Arc<Gate>,
    _runtime: Runtime,
}

struct Gate {
    root: PathBuf,
    state: Mutex<HeldRequest>,
    changed: Condvar,
    released: tokio::sync::Notify,
    conditions: Conditions,
}

/// What the server does with a write whose condition does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conditions {
    Honoured,
    /// It writes all the same, as some S3-compatible servers do.
    Ignored,
    /// It honours only the condition that the object does not exist.
    OnlyAbsence,
}

/// The request that is held back.
#[derive(Clone, Debug, PartialEq, Eq)]
enum HeldRequest {
    Nothing,
    /// The next one with this method and end of its path.
    Next(&'static str, &'static str),
    Arrived,
}

impl Bucket {
    pub fn serve(root: &Path) -> Self {
        Self::with(root, Conditions::Honoured)
    }

    pub fn with(root: &Path, conditions: Conditions) -> Self {
        fs::create_dir_all(root.join("systems")).expect("writable");
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
        let address = listener.local_addr().expect("bound");
        listener.set_nonblocking(true).expect("a socket");
        let mut builder = S3ServiceBuilder::new(FileSystem::new(root).expect("a directory"));
        builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
        let service = HandleError::new(builder.build(), |error: s3s::HttpError| async move {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:?}"))
        });
        let (state, changed) = (Mutex::new(HeldRequest::Nothing), Condvar::new());
        let gate =
            Arc::new(Gate { root: root.to_owned(), state, changed, released: tokio::sync::Notify::new(), conditions });
        let router = Router::new().fallback_service(service);
        let router = router.layer(from_fn_with_state(Arc::clone(&gate), pass));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("threads");
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
            axum::serve(listener, router).await
        });
        Self { address, gate, _runtime: runtime }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns environment variables for a client that may write, by way of `address`.
    pub fn variables(address: SocketAddr) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ACCESS_KEY_ID", KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
            ("AWS_REGION", "eu-central-1".to_owned()),
            ("AWS_ENDPOINT_URL", format!("http://{address}")),
            // No configuration of the user who runs the tests.
            ("HOME", "/nonexistent".to_owned()),
        ]
    }

    /// Holds back the next request with this method whose path ends so.
    pub fn hold(&self, method: &'static str, end: &'static str) {
        *self.gate.state.lock().expect("no holder panics") = HeldRequest::Next(method, end);
    }

    /// Waits until the request has arrived.
    pub fn wait_until_held(&self) {
        let state = self.gate.state.lock().expect("no holder panics");
        let patience = Duration::from_secs(60);
        let (state, _) = self
            .gate
            .changed
            .wait_timeout_while(state, patience, |state| *state != HeldRequest::Arrived)
            .expect("no holder panics");
        assert_eq!(*state, HeldRequest::Arrived, "the request did not come");
    }

    /// Lets the request pass.
    pub fn release(&self) {
        self.gate.released.notify_one();
    }

    /// Returns the keys of the bucket's objects.
    pub fn keys(&self) -> Vec<String> {
        let top = self.gate.root.join("systems");
        let (mut pending, mut keys) = (vec![top.clone()], Vec::new());
        while let Some(directory) = pending.pop() {
            for entry in fs::read_dir(directory).expect("listable").map(|entry| entry.expect("listed").path()) {
                match entry.is_dir() {
                    true => pending.push(entry),
                    false => keys.push(entry.strip_prefix(&top).expect("below it").display().to_string()),
                }
            }
        }
        keys.sort();
        keys
    }
}

async fn pass(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let bucket = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    if !gate.root.join(bucket).is_dir() {
        // `s3s-fs` answers NoSuchKey.
        let text = "<Error><Code>NoSuchBucket</Code><Message>The specified bucket does not exist</Message></Error>";
        return (StatusCode::NOT_FOUND, text).into_response();
    }
    let is_held = {
        let mut state = gate.state.lock().expect("no holder panics");
        match *state {
            HeldRequest::Next(method, end) if *request.method() == *method && path.ends_with(end) => {
                *state = HeldRequest::Arrived;
                gate.changed.notify_all();
                true
            }
            _ => false,
        }
    };
    if is_held {
        gate.released.notified().await;
    }
    let is_ignored = match gate.conditions {
        Conditions::Honoured => false,
        Conditions::Ignored => true,
        Conditions::OnlyAbsence => request.headers().contains_key("if-match"),
    };
    if !is_ignored {
        return next.run(request).await;
    }
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.expect("it is fetched");
    let answer = next.run(Request::from_parts(head, body.clone().into())).await;
    if answer.status() != StatusCode::PRECONDITION_FAILED {
        return answer;
    }
    fs::write(gate.root.join(path.trim_start_matches('/')), &body).expect("writable");
    (StatusCode::OK, [("etag", format!("\"{}\"", body.len()))]).into_response()
}
