//! The common part of the tests' web servers: connections, heads of requests, shutdown. It uses bare sockets, since no
//! framework allows a test to break the protocol.

use std::io::{self, BufRead as _, BufReader};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// The head of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRequest {
    pub path: String,
    /// First and last byte.
    pub range: Option<(usize, usize)>,
    /// Whether the request tells caches to ask the server.
    pub is_fresh: bool,
}

/// A server on a free port of loopback; it stops when dropped.
pub struct Listener {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
}

impl Listener {
    /// Answers each request by `answer`, many at once; a connection is closed when it returns `false`.
    pub fn serve(
        answer: impl Fn(&TcpStream, &HttpRequest, &AtomicBool) -> io::Result<bool> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
        let address = listener.local_addr().expect("bound");
        let (stopped, answer) = (Arc::<AtomicBool>::default(), Arc::new(answer));
        let is_stopped = Arc::clone(&stopped);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if is_stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (answer, is_stopped) = (Arc::clone(&answer), Arc::clone(&is_stopped));
                thread::spawn(move || {
                    let mut reader = BufReader::new(&client);
                    // Clients may disconnect at any time, which is no error here.
                    while let Ok(Some(asked)) = read_head(&mut reader) {
                        if !answer(&client, &asked, &is_stopped).unwrap_or(false) {
                            break;
                        }
                    }
                    let _ = client.shutdown(Shutdown::Both);
                });
            }
        });
        Self { address, stopped }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        let _ = TcpStream::connect(self.address);
    }
}

fn read_head(reader: &mut BufReader<&TcpStream>) -> io::Result<Option<HttpRequest>> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(None);
        }
    }
    let path = head.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
    let head = head.to_ascii_lowercase();
    let range = head.lines().find_map(|line| line.strip_prefix("range: bytes=")?.split_once('-'));
    let range = range.and_then(|(first, last)| Some((first.parse().ok()?, last.trim().parse().ok()?)));
    Ok(Some(HttpRequest { path, range, is_fresh: head.contains("cache-control: no-cache") }))
}
