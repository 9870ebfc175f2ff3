//! A web server that does what it is told to do wrong, by the beginning of a path; everything else it serves properly, with
//! ranges. What it does wrong may last as long as the client stays, unlike what `odd` sends.

use std::fs;
use std::io::{self, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::common::listener::{Asked, Listener};

/// What to do wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    /// An error, with more headers (each with its line's end) and a text.
    Status(u16, &'static str, String),
    /// These bytes instead of an answer, and the connection is closed.
    Raw(Vec<u8>),
    /// Nothing at all.
    Never,
    /// The right answer, four bytes a second.
    Drip,
    /// A head that never ends.
    EndlessHead,
    /// A body that never ends, of this announced length.
    EndlessBody(&'static str),
    /// Half of what was announced, and the connection is closed.
    ShortBody,
    /// More than was asked for, which is also announced.
    LongBody,
    /// More than was announced.
    Trailing,
    /// This is said of the range, whatever was asked for.
    Range(&'static str),
    /// All of the file though a range was asked for.
    Whole,
    /// The right bytes with another header.
    Header(&'static str),
    /// Other bytes as the content of the file.
    Content(Arc<Vec<u8>>),
    /// Every five hundredth byte is another one.
    Flipped,
    /// Somewhere else.
    Redirect(String),
}

pub struct Server {
    listener: Listener,
    state: Arc<State>,
}

struct State {
    root: PathBuf,
    faults: Mutex<Vec<Order>>,
    asked: Mutex<Vec<String>>,
}

/// What to do, and when.
struct Order {
    /// For paths that begin so.
    path: String,
    fault: Fault,
    /// So many requests are served properly before.
    after: u32,
    /// And so many are not.
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

    /// Does this wrong from now on.
    pub fn set(&self, path: &str, fault: Fault) {
        self.order(path, fault, 0, u32::MAX);
    }

    /// Does this wrong so often.
    pub fn set_times(&self, path: &str, fault: Fault, times: u32) {
        self.order(path, fault, 0, times);
    }

    /// Does this wrong after so many times right.
    pub fn set_after(&self, path: &str, fault: Fault, after: u32) {
        self.order(path, fault, after, u32::MAX);
    }

    fn order(&self, path: &str, fault: Fault, after: u32, times: u32) {
        let order = Order { path: path.to_owned(), fault, after, times };
        self.state.faults.lock().expect("no holder panics").push(order);
    }

    /// Does everything right from now on.
    pub fn mend(&self) {
        self.state.faults.lock().expect("no holder panics").clear();
    }

    /// The paths that were asked for.
    pub fn asked(&self) -> Vec<String> {
        self.state.asked.lock().expect("no holder panics").clone()
    }
}

impl State {
    fn fault(&self, path: &str) -> Option<Fault> {
        let mut orders = self.faults.lock().expect("no holder panics");
        let order = orders.iter_mut().find(|order| path.starts_with(&order.path) && order.times > 0)?;
        if order.after > 0 {
            order.after -= 1;
            return None;
        }
        order.times -= u32::from(order.times != u32::MAX);
        Some(order.fault.clone())
    }
}

/// The file as it is, or the part of it that was asked for: status line with its headers, and body.
fn right_answer(state: &State, asked: &Asked, content: Option<&[u8]>) -> (String, Vec<u8>) {
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

fn answer(mut client: &TcpStream, state: &State, asked: &Asked, header: &str) -> io::Result<()> {
    let (head, body) = right_answer(state, asked, None);
    write!(client, "HTTP/1.1 {head}{header}Content-Length: {}\r\n\r\n", body.len())?;
    client.write_all(&body)
}

/// Does one thing wrong; whether the connection can be used again.
fn misbehave(
    mut client: &TcpStream,
    state: &State,
    asked: &Asked,
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
            let whole = Asked { range: None, ..asked.clone() };
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

/// Says nothing until the client leaves.
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
