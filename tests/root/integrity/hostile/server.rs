//! A web server that misbehaves for paths with a given prefix and otherwise answers correctly, with ranges. A fault may last as
//! long as the connection, unlike those of `scripted_server`.

use std::fs;
use std::io::{self, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::common::listener::{HttpRequest, Listener};

/// A way to misbehave.
#[derive(Clone, Debug)]
pub enum Fault {
    /// An error status, with more headers (each with its line's end) and a body.
    Status(u16, &'static str, String),
    /// These bytes instead of an answer; then the connection is closed.
    Raw(Vec<u8>),
    /// No answer.
    Never,
    /// The right answer at four bytes a second.
    Drip,
    /// A head that never ends.
    EndlessHead,
    /// A body that never ends, with this header for its length.
    EndlessBody(&'static str),
    /// Half of the announced body; then the connection is closed.
    ShortBody,
    /// A longer range than requested, as it also announces.
    LongBody,
    /// A longer body than announced.
    Trailing,
    /// This Content-Range, whatever was requested.
    Range(&'static str),
    /// The whole file although a range was requested.
    Whole,
    /// The right bytes with another header.
    Header(&'static str),
    /// Other bytes as the content of the file.
    Content(Arc<Vec<u8>>),
    /// The right file with every five hundredth byte changed.
    Flipped,
    /// A redirect to this URL.
    Redirect(String),
}

pub struct Server {
    listener: Listener,
    state: Arc<State>,
}

struct State {
    root: PathBuf,
    faults: Mutex<Vec<FaultRule>>,
    asked: Mutex<Vec<String>>,
}

/// A fault, and the requests that it applies to.
struct FaultRule {
    /// Prefix of the paths.
    path: String,
    fault: Fault,
    /// Number of requests that are still answered correctly.
    after: u32,
    /// Number of requests after these that are answered wrongly.
    times: u32,
}

impl Server {
    pub fn of(root: &Path) -> Self {
        let state = Arc::new(State { root: root.to_owned(), faults: Mutex::default(), asked: Mutex::default() });
        let shared = Arc::clone(&state);
        let listener = Listener::serve(move |client, asked, stopped| {
            shared.asked.lock().expect("no holder panics").push(asked.path.clone());
            match shared.fault(&asked.path) {
                None => answer(client, &shared, asked, "").map(|()| true),
                Some(fault) => misbehave(client, &shared, asked, fault, stopped),
            }
        });
        Self { listener, state }
    }

    pub fn url(&self) -> String {
        self.listener.url()
    }

    /// Answers with this fault from now on.
    pub fn set(&self, path: &str, fault: Fault) {
        self.add_rule(path, fault, 0, u32::MAX);
    }

    /// Answers the next `times` requests with this fault.
    pub fn set_times(&self, path: &str, fault: Fault, times: u32) {
        self.add_rule(path, fault, 0, times);
    }

    /// Answers with this fault after `after` correct answers.
    pub fn set_after(&self, path: &str, fault: Fault, after: u32) {
        self.add_rule(path, fault, after, u32::MAX);
    }

    fn add_rule(&self, path: &str, fault: Fault, after: u32, times: u32) {
        let add_rule = FaultRule { path: path.to_owned(), fault, after, times };
        self.state.faults.lock().expect("no holder panics").push(add_rule);
    }

    /// Answers everything correctly from now on.
    pub fn restore(&self) {
        self.state.faults.lock().expect("no holder panics").clear();
    }

    /// Returns the requested paths.
    pub fn requests(&self) -> Vec<String> {
        self.state.asked.lock().expect("no holder panics").clone()
    }
}

impl State {
    fn fault(&self, path: &str) -> Option<Fault> {
        let mut rules = self.faults.lock().expect("no holder panics");
        let add_rule = rules.iter_mut().find(|add_rule| path.starts_with(&add_rule.path) && add_rule.times > 0)?;
        if add_rule.after > 0 {
            add_rule.after -= 1;
            return None;
        }
        add_rule.times -= u32::from(add_rule.times != u32::MAX);
        Some(add_rule.fault.clone())
    }
}

/// Returns the file or the requested part of it: the status line with its headers, and the body.
fn right_answer(state: &State, asked: &HttpRequest, content: Option<&[u8]>) -> (String, Vec<u8>) {
    let file = content.map(<[u8]>::to_vec).or_else(|| fs::read(state.root.join(&asked.path)).ok());
    let Some(file) = file else { return ("404 Not Found\r\n".to_owned(), Vec::new()) };
    match asked.range {
        None => ("200 OK\r\nETag: \"tag\"\r\n".to_owned(), file),
        Some((first, _)) if first >= file.len() => {
            (format!("416 Range Not Satisfiable\r\nContent-Range: bytes */{}\r\n", file.len()), Vec::new())
        }
        Some((first, last)) => {
            let last = last.min(file.len() - 1);
            let head = format!(
                "206 Partial Content\r\nContent-Range: bytes {first}-{last}/{}\r\nETag: \"tag\"\r\n",
                file.len()
            );
            (head, file[first..=last].to_vec())
        }
    }
}

fn answer(mut client: &TcpStream, state: &State, asked: &HttpRequest, header: &str) -> io::Result<()> {
    let (head, body) = right_answer(state, asked, None);
    write!(client, "HTTP/1.1 {head}{header}Content-Length: {}\r\n\r\n", body.len())?;
    client.write_all(&body)
}

/// Answers with a fault. Returns whether the connection can be used again.
fn misbehave(
    mut client: &TcpStream,
    state: &State,
    asked: &HttpRequest,
    fault: Fault,
    stopped: &AtomicBool,
) -> io::Result<bool> {
    let (head, mut body) = right_answer(state, asked, None);
    let length = body.len();
    match fault {
        Fault::Status(status, headers, text) => {
            write!(client, "HTTP/1.1 {status} Whatever\r\n{headers}Content-Length: {}\r\n\r\n{text}", text.len())?;
            return Ok(true);
        }
        Fault::Raw(bytes) => client.write_all(&bytes)?,
        Fault::Never => wait(client, stopped),
        Fault::Drip => {
            write!(client, "HTTP/1.1 {head}Content-Length: {length}\r\n\r\n")?;
            for byte in body {
                client.write_all(&[byte])?;
                thread::sleep(Duration::from_millis(250));
            }
        }
        Fault::EndlessHead => {
            write!(client, "HTTP/1.1 200 OK\r\n")?;
            while !stopped.load(Ordering::SeqCst) {
                write!(client, "X-Padding: {}\r\n", "x".repeat(1000))?;
            }
        }
        Fault::EndlessBody(announced) => {
            let status = if asked.range.is_some() { head } else { "200 OK\r\n".to_owned() };
            write!(client, "HTTP/1.1 {status}{announced}\r\n")?;
            let piece = if announced.starts_with("Transfer") {
                format!("10000\r\n{}\r\n", "x".repeat(65536))
            } else {
                "x".repeat(65536)
            };
            while !stopped.load(Ordering::SeqCst) {
                client.write_all(piece.as_bytes())?;
            }
        }
        Fault::ShortBody => {
            write!(client, "HTTP/1.1 {head}Content-Length: {length}\r\n\r\n")?;
            client.write_all(&body[..length / 2])?;
        }
        Fault::LongBody => {
            body.extend_from_slice(b"and more");
            write!(client, "HTTP/1.1 {head}Content-Length: {}\r\n\r\n", body.len())?;
            client.write_all(&body)?;
        }
        Fault::Trailing => {
            write!(client, "HTTP/1.1 {head}Content-Length: {length}\r\n\r\n")?;
            body.extend_from_slice(&[b'x'; 100]);
            client.write_all(&body)?;
        }
        Fault::Range(range) => {
            let range = format!("206 Partial Content\r\nContent-Range: {range}\r\nETag: \"tag\"\r\n");
            write!(client, "HTTP/1.1 {range}Content-Length: {length}\r\n\r\n")?;
            client.write_all(&body)?;
        }
        Fault::Whole => {
            let whole = HttpRequest { range: None, ..asked.clone() };
            answer(client, state, &whole, "")?;
        }
        Fault::Header(header) => answer(client, state, asked, header)?,
        Fault::Content(content) => {
            let (head, body) = right_answer(state, asked, Some(&content));
            write!(client, "HTTP/1.1 {head}Content-Length: {}\r\n\r\n", body.len())?;
            client.write_all(&body)?;
            return Ok(true);
        }
        Fault::Flipped => {
            body.iter_mut().skip(50).step_by(500).for_each(|byte| *byte ^= 0x20);
            write!(client, "HTTP/1.1 {head}Content-Length: {length}\r\n\r\n")?;
            client.write_all(&body)?;
            return Ok(true);
        }
        Fault::Redirect(to) => {
            write!(client, "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n")?;
            return Ok(true);
        }
    }
    Ok(false)
}

/// Waits until the client closes the connection.
fn wait(client: &TcpStream, stopped: &AtomicBool) {
    let _ = client.set_read_timeout(Some(Duration::from_millis(100)));
    let mut byte = [0];
    while !stopped.load(Ordering::SeqCst) {
        match client.peek(&mut byte) {
            Ok(0) => return,
            Err(error) if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => return,
            _ => thread::sleep(Duration::from_millis(20)),
        }
    }
}
