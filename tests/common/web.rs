//! A static web server on loopback in this process, which can be stopped and started again.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use axum::Router;
use axum::serve::ListenerExt as _;
use tokio::runtime::Runtime;
use tower_http::services::ServeDir;

/// A server of one directory; it stops when dropped.
pub struct Web {
    directory: PathBuf,
    address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Web {
    /// Serves `directory` on a free port.
    pub fn serve(directory: &Path) -> Self {
        let mut web = Self { directory: directory.to_owned(), address: ([127, 0, 0, 1], 0).into(), runtime: None };
        web.start();
        web
    }

    /// Returns its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Cuts all connections and refuses new ones.
    pub fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// Serves again, on the same port.
    pub fn start(&mut self) {
        let listener = TcpListener::bind(self.address).expect("the port is free");
        self.address = listener.local_addr().expect("bound");
        listener.set_nonblocking(true).expect("a socket");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("threads");
        let router = Router::new().fallback_service(ServeDir::new(&self.directory));
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
            // Web servers send the end of an answer at once; without this, some clients would wait 40 ms for it.
            axum::serve(listener.tap_io(|stream| stream.set_nodelay(true).expect("a socket")), router).await
        });
        self.runtime = Some(runtime);
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.stop();
    }
}
