//! The frame of a web server for tests: connections, heads of requests, its end. Bare sockets, since no framework lets one break
//! the protocol.

use std::io::{self, BufRead as _, BufReader};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub path: String,
    /// First and last byte.
    pub range: Option<(usize, usize)>,
    /// Whether caches were told to ask the server.
    pub is_fresh: bool,
}

/// A server on a free port of loopback; it stops when this is dropped.
pub struct Listener {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
}

impl Listener {
    /// Has each request answered by `answer`, many at once; a connection is closed when it says `false`.
    pub fn serve(answer: impl Fn(&TcpStream, &Asked, &AtomicBool) -> io::Result<bool> + Send + Sync + 'static) -> Self {
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
                    // Clients leave when they have had enough: that is what is tested.
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
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn read_head(reader: &mut BufReader<&TcpStream>) -> io::Result<Option<Asked>> {
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
    Ok(Some(Asked { path, range, is_fresh: head.contains("cache-control: no-cache") }))
}
