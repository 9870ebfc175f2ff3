//! A small static web server: for trying things, for tests, for a network without a web server at hand.
//!
//! Knows nothing of what it serves but which names change: those must be asked for again each time, all others may be kept for
//! ever. Speaks HTTP/1.1 and HTTP/2 without TLS, answers ranges, lists nothing.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use axum::Router;
use axum::extract::Request;
use axum::http::header::{CACHE_CONTROL, HeaderValue};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::serve::ListenerExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tower_http::services::ServeDir;

use super::layout;

/// For files whose name tells their content.
const FOR_EVER: &str = "public, max-age=31536000, immutable";

/// Serves the files below `directory` at `address` until SIGINT or SIGTERM; `ready` hears the address once clients can
/// connect.
///
/// # Errors
/// Those of binding the address and of accepting.
pub fn serve(directory: &Path, address: SocketAddr, ready: impl FnOnce(SocketAddr)) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await?;
        let files = ServeDir::new(directory).append_index_html_on_directories(false);
        let router = Router::new().fallback_service(files).layer(from_fn(cached));
        let ended = ended()?;
        ready(listener.local_addr()?);
        axum::serve(listener.tap_io(without_delay), router).with_graceful_shutdown(ended).await
    })
}

/// The end of an answer would otherwise wait for the client to acknowledge what came before it: 40 ms of each request.
fn without_delay(stream: &mut TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "answers may come late");
    }
}

/// Says what may be kept.
async fn cached(request: Request, next: Next) -> Response {
    let may_change = layout::may_change(request.uri().path().trim_start_matches('/'));
    let mut response = next.run(request).await;
    if response.status().is_success() {
        let value = if may_change { "no-cache" } else { FOR_EVER };
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(value));
    }
    response
}

/// Comes about when the process is asked to end.
fn ended() -> io::Result<impl Future<Output = ()>> {
    let (mut interrupted, mut terminated) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
        }
    })
}
