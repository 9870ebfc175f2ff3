//! A small static web server, for experiments, tests, and networks without a web server.
//!
//! It speaks HTTP/1.1 and HTTP/2 without TLS, supports ranges, and has no directory listings. Names that may change must be
//! revalidated on each request, all others may be cached for ever.
//!
//! *Not here*: TLS and access control.
//!
//! *Invariant*: only files that were published for clients are served, and none that a link leads to out of the directory: there
//! may be a secret key beside them.
//!
//! *Used by* `sapwood serve`.

use std::fs::File;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, HeaderValue};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::serve::ListenerExt as _;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tower_http::services::ServeDir;

use super::layout;

/// The `Cache-Control` header of files whose name is the digest of their content.
const CACHE_FOR_EVER: &str = "public, max-age=31536000, immutable";

/// Serves the files below `directory` at `address` until SIGINT or SIGTERM. `ready` is called with the address as soon
/// as clients can connect.
///
/// # Errors
/// Errors of binding the address and of accepting connections.
pub(crate) fn serve(directory: &Path, address: SocketAddr, ready: impl FnOnce(SocketAddr)) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await?;
        let files = ServeDir::new(directory).append_index_html_on_directories(false);
        let opened = Arc::new(File::open(directory)?);
        let router = Router::new().fallback_service(files).layer(from_fn(add_cache_control));
        let router = router.layer(from_fn_with_state(opened, refuse_others));
        let shutdown = shutdown_signal()?;
        ready(listener.local_addr()?);
        axum::serve(listener.tap_io(set_nodelay), router).with_graceful_shutdown(shutdown).await
    })
}

/// Sets TCP_NODELAY. Otherwise the end of an answer waits for the client to acknowledge the bytes before it: 40 ms in
/// each request.
fn set_nodelay(stream: &mut TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY; answers may be delayed");
    }
}

/// Answers requests for anything but published files as if it did not exist.
async fn refuse_others(State(directory): State<Arc<File>>, request: Request, next: Next) -> Response {
    let path = object_store::path::Path::from_url_path(request.uri().path());
    let is_served =
        path.is_ok_and(|path| layout::is_for_clients(path.as_ref()) && is_inside(&directory, path.as_ref()));
    if is_served { next.run(request).await } else { StatusCode::NOT_FOUND.into_response() }
}

/// Returns whether a path leads to something in the directory, however many links it has.
fn is_inside(directory: &File, path: &str) -> bool {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::openat2(directory, path, flags, Mode::empty(), ResolveFlags::BENEATH).is_ok()
}

/// Adds the `Cache-Control` header to successful answers.
async fn add_cache_control(request: Request, next: Next) -> Response {
    let may_change = layout::may_change(request.uri().path().trim_start_matches('/'));
    let mut response = next.run(request).await;
    if response.status().is_success() {
        let value = if may_change { "no-cache" } else { CACHE_FOR_EVER };
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(value));
    }
    response
}

/// Returns a future that completes on SIGINT or SIGTERM.
fn shutdown_signal() -> io::Result<impl Future<Output = ()>> {
    let (mut interrupted, mut terminated) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
        }
    })
}
