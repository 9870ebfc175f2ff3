//! A web server with one page, for the metrics of a mount.
//!
//! One thread serves all clients. It waits for none of them: what a client has sent is read when it is there, the answer goes into the
//! socket's buffer at once, and when there are too many clients, the one that connected first is dismissed.
//!
//! *Not here*: what the page says (`metrics`).
//!
//! *Invariants*: at most [`CLIENTS_MAX`] descriptors are open; clients that send nothing keep no other from its answer.
//!
//! *Used by* `metrics`.

use std::collections::VecDeque;
use std::io::{self, Read as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd as _;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::net::{SendFlags, send};

/// Number of clients whose requests are awaited.
const CLIENTS_MAX: usize = 32;

/// Longest request in bytes.
const REQUEST_MAX: usize = 8 << 10;

/// The media type of the text.
const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A connection, with what the client has sent so far.
struct Client {
    stream: TcpStream,
    request: Vec<u8>,
}

/// Serves the text at `/` and `/metrics` until waiting fails.
pub(super) fn serve(listener: &TcpListener, text: &dyn Fn() -> String) -> io::Result<()> {
    let mut clients: VecDeque<Client> = VecDeque::new();
    loop {
        let mut waiting: Vec<PollFd> =
            clients.iter().map(|client| PollFd::new(client.stream.as_fd(), PollFlags::POLLIN)).collect();
        waiting.push(PollFd::new(listener.as_fd(), PollFlags::POLLIN));
        match poll(&mut waiting, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            other => other?,
        };
        let is_ready: Vec<bool> = waiting.iter().map(|fd| fd.any() == Some(true)).collect();
        let mut ready = is_ready.iter().copied();
        clients.retain_mut(|client| {
            !ready.next().unwrap_or(false)
                || client.advance(text).unwrap_or_else(|error| {
                    tracing::debug!("metrics: {error}");
                    false
                })
        });
        if is_ready.last() == Some(&true) {
            match listener.accept() {
                Ok((stream, _)) => clients.push_back(Client { stream, request: Vec::new() }),
                // Without descriptors for a further client, the oldest makes room.
                Err(error) => {
                    tracing::debug!("metrics: {error}");
                    clients.pop_front();
                }
            }
            if clients.len() > CLIENTS_MAX {
                clients.pop_front();
            }
        }
    }
}

impl Client {
    /// Reads what is there, and answers if that completes the request. Returns whether more is to come.
    fn advance(&mut self, text: &dyn Fn() -> String) -> io::Result<bool> {
        let mut bytes = [0; 1024];
        let length = self.stream.read(&mut bytes)?;
        self.request.extend_from_slice(&bytes[..length]);
        if self.request.windows(4).any(|end| end == b"\r\n\r\n") {
            self.answer(text)?;
            return Ok(false);
        }
        Ok(length > 0 && self.request.len() < REQUEST_MAX)
    }

    /// Sends the answer, which fits into the buffer of a socket unless the client lets its own fill up.
    fn answer(&self, text: &dyn Fn() -> String) -> io::Result<()> {
        let (status, body) = if self.request.starts_with(b"GET /metrics ") || self.request.starts_with(b"GET / ") {
            ("200 OK", text())
        } else {
            ("404 Not Found", String::new())
        };
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        let answer = [head, body].concat();
        let mut rest = answer.as_bytes();
        while !rest.is_empty() {
            rest = &rest[send(&self.stream, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?..];
        }
        Ok(())
    }
}
