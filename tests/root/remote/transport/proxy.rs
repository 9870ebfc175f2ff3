//! A forward proxy, which passes on requests for `http://…` and tunnels (`CONNECT`), and records the requests.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

pub struct ForwardProxy {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl ForwardProxy {
    /// Starts a proxy, which runs as long as the test program.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
        let port = listener.local_addr().expect("bound").port();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let log = Arc::clone(&asked);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let log = Arc::clone(&log);
                thread::spawn(move || {
                    // Errors of clients that disconnect do not matter.
                    let _ = serve(client, &log);
                });
            }
        });
        Self { port, asked }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Returns the first line of each request, and its headers.
    pub fn requests(&self) -> Vec<String> {
        self.asked.lock().expect("no holder panics").clone()
    }
}

fn serve(client: TcpStream, log: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    log.lock().expect("no holder panics").push(head.clone());
    let mut words = head.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let is_tunnel = method == "CONNECT";
    let authority =
        if is_tunnel { target } else { target.trim_start_matches("http://").split('/').next().unwrap_or("") };
    let server = TcpStream::connect(authority)?;
    let mut down = client.try_clone()?;
    if is_tunnel {
        down.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    } else {
        // One request per connection, since the next may be for another server.
        let path = target.trim_start_matches("http://").trim_start_matches(authority);
        let head = head.replacen(target, path, 1).replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
        (&server).write_all(head.as_bytes())?;
    }
    let mut up = server.try_clone()?;
    thread::spawn(move || {
        let _ = io::copy(&mut reader, &mut up);
        let _ = up.shutdown(std::net::Shutdown::Write);
    });
    io::copy(&mut &server, &mut down)?;
    down.shutdown(std::net::Shutdown::Both)
}
