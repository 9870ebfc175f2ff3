//! A web server that answers correctly except where a test sets another answer, for paths with a given prefix, a number of
//! times.
//!
//! Such an answer is a function from the request and the file to the bytes that are sent, so that a test can give any answer of
//! a server, a cache or a network. All requests are recorded.

use std::fs;
use std::io::{self, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

pub use super::listener::HttpRequest;
use super::listener::Listener;

/// Makes the bytes of an answer. If they do not say where they end, the connection is closed after them.
pub type Answer = Arc<dyn Fn(&HttpRequest, &[u8]) -> Vec<u8> + Send + Sync>;

struct AnswerRule {
    path: String,
    answer: Answer,
    times: u32,
}

struct State {
    root: PathBuf,
    rules: Mutex<Vec<AnswerRule>>,
    asked: Mutex<Vec<HttpRequest>>,
}

/// A server of one directory; it stops when dropped.
pub struct ScriptedServer {
    listener: Listener,
    state: Arc<State>,
}

impl ScriptedServer {
    /// Serves `root` on a free port.
    pub fn serve(root: &Path) -> Self {
        let state = Arc::new(State { root: root.to_owned(), rules: Mutex::default(), asked: Mutex::default() });
        let shared = Arc::clone(&state);
        let listener = Listener::serve(move |client, asked, _| serve(client, asked, &shared));
        Self { listener, state }
    }

    pub fn url(&self) -> String {
        self.listener.url()
    }

    /// Answers the next `times` requests for paths with this prefix by `answer`.
    pub fn set(&self, path: &str, answer: &Answer, times: u32) {
        let order = AnswerRule { path: path.to_owned(), answer: Arc::clone(answer), times };
        self.state.rules.lock().expect("no holder panics").push(order);
    }

    /// Answers correctly from now on.
    pub fn restore(&self) {
        self.state.rules.lock().expect("no holder panics").clear();
    }

    /// Returns the requests below a path.
    pub fn requests(&self, path: &str) -> Vec<HttpRequest> {
        let asked = self.state.asked.lock().expect("no holder panics");
        asked.iter().filter(|asked| asked.path.starts_with(path)).cloned().collect()
    }

    /// Forgets the recorded requests.
    pub fn forget(&self) {
        self.state.asked.lock().expect("no holder panics").clear();
    }
}

impl State {
    fn order(&self, path: &str) -> Option<Answer> {
        let mut rules = self.rules.lock().expect("no holder panics");
        let order = rules.iter_mut().find(|order| order.times > 0 && path.starts_with(&order.path))?;
        order.times -= u32::from(order.times != u32::MAX);
        Some(Arc::clone(&order.answer))
    }
}

/// Answers one request. Returns whether the connection can be used again.
fn serve(mut client: &TcpStream, asked: &HttpRequest, state: &State) -> io::Result<bool> {
    state.asked.lock().expect("no holder panics").push(asked.clone());
    let file = fs::read(state.root.join(&asked.path));
    let answer = match (state.order(&asked.path), &file) {
        (Some(answer), file) => answer(asked, file.as_deref().unwrap_or_default()),
        (None, Ok(file)) => proper(asked, file),
        (None, Err(_)) => response("404 Not Found", "", b""),
    };
    client.write_all(&answer)?;
    let head = String::from_utf8_lossy(&answer[..answer.len().min(2000)]).to_ascii_lowercase();
    let head = head.split("\r\n\r\n").next().unwrap_or_default();
    let has_length = head.contains("\r\ncontent-length:") || head.contains("\r\ntransfer-encoding:");
    Ok(has_length && !head.contains("x-cut:"))
}

/// Returns the status line, these headers (each with its line's end), the length and the body.
pub fn response(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// Returns the requested part, or all.
pub fn part<'a>(asked: &HttpRequest, file: &'a [u8]) -> &'a [u8] {
    match asked.range {
        Some((first, last)) => file.get(first..(last + 1).min(file.len())).unwrap_or_default(),
        None => file,
    }
}

/// Returns `Content-Range` for that part, with the end of the line; nothing for all of a file.
pub fn content_range(asked: &HttpRequest, file: &[u8]) -> String {
    asked.range.map_or_else(String::new, |(first, last)| {
        format!("Content-Range: bytes {first}-{}/{}\r\n", last.min(file.len().saturating_sub(1)), file.len())
    })
}

fn status(asked: &HttpRequest) -> &'static str {
    if asked.range.is_some() { "206 Partial Content" } else { "200 OK" }
}

/// Returns the correct answer with more headers and another body.
pub fn with(asked: &HttpRequest, file: &[u8], headers: &str, body: &[u8]) -> Vec<u8> {
    response(status(asked), &format!("{}{headers}", content_range(asked, file)), body)
}

/// Returns the correct answer.
pub fn proper(asked: &HttpRequest, file: &[u8]) -> Vec<u8> {
    if asked.range.is_some_and(|(first, _)| first >= file.len()) {
        return response("416 Range Not Satisfiable", "", b"");
    }
    with(asked, file, "", part(asked, file))
}

/// Returns the correct answer in chunks, without its length.
pub fn chunked(asked: &HttpRequest, file: &[u8]) -> Vec<u8> {
    let head =
        format!("HTTP/1.1 {}\r\n{}Transfer-Encoding: chunked\r\n\r\n", status(asked), content_range(asked, file));
    let mut answer = head.into_bytes();
    for piece in part(asked, file).chunks(1000) {
        answer.extend(format!("{:x}\r\n", piece.len()).into_bytes());
        answer.extend_from_slice(piece);
        answer.extend_from_slice(b"\r\n");
    }
    answer.extend_from_slice(b"0\r\n\r\n");
    answer
}

/// A login page, as on public networks.
pub const PAGE: &[u8] = b"<!DOCTYPE html><html><title>Log in</title><p>Welcome to this network</html>";

fn odd(answer: impl Fn(&HttpRequest, &[u8]) -> Vec<u8> + Send + Sync + 'static) -> Answer {
    Arc::new(answer)
}

fn plain(line: &'static str, headers: &'static str, body: &'static [u8]) -> Answer {
    odd(move |_, _| response(line, headers, body))
}

/// Returns wrong answers, each with a name.
pub fn wrong() -> Vec<(&'static str, Answer)> {
    vec![
        (
            "one byte is another",
            odd(|asked, file| {
                let mut body = part(asked, file).to_vec();
                let middle = body.len() / 2;
                body.iter_mut().skip(middle).take(1).for_each(|byte| *byte ^= 0x20);
                with(asked, file, "", &body)
            }),
        ),
        ("a login page", plain("200 OK", "Content-Type: text/html\r\n", PAGE)),
        ("a login page without a type", plain("200 OK", "", PAGE)),
        ("a redirect to a login page", plain("302 Found", "Location: /login\r\n", b"")),
        (
            "a redirect in a circle",
            odd(|asked, _| response("302 Found", &format!("Location: /{}\r\n", asked.path), b"")),
        ),
        ("a redirect to nowhere", plain("302 Found", "", b"")),
        ("not found", plain("404 Not Found", "", b"")),
        ("gone", plain("410 Gone", "", b"")),
        ("not modified", plain("304 Not Modified", "", b"")),
        ("no content", odd(|_, _| b"HTTP/1.1 204 No Content\r\nX-Cut: 1\r\n\r\n".to_vec())),
        ("a conflict", plain("409 Conflict", "", b"")),
        ("a broken server", plain("500 Internal Server Error", "", b"broken")),
        ("a busy server", plain("503 Service Unavailable", "", b"")),
        ("log in to the network", plain("511 Network Authentication Required", "", PAGE)),
        ("out of range", plain("416 Range Not Satisfiable", "", b"")),
        ("an empty file", plain("200 OK", "", b"")),
        (
            "a coding that is none",
            odd(|asked, file| with(asked, file, "Content-Encoding: gzip\r\n", part(asked, file))),
        ),
        ("an unknown coding", odd(|asked, file| with(asked, file, "Content-Encoding: br\r\n", part(asked, file)))),
        (
            "another range",
            odd(|_, file| {
                response("206 Partial Content", "Content-Range: bytes 1-9/10\r\n", &file[..file.len().min(9)])
            }),
        ),
        (
            "many parts",
            plain("206 Partial Content", "Content-Type: multipart/byteranges; boundary=x\r\n", b"--x\r\n\r\n--x--"),
        ),
        (
            "half of it and the end",
            odd(|asked, file| {
                let body = part(asked, file);
                let headers =
                    format!("{}Content-Length: {}\r\nX-Cut: 1\r\n\r\n", content_range(asked, file), body.len());
                [format!("HTTP/1.1 {}\r\n{headers}", status(asked)).as_bytes(), &body[..body.len() / 2]].concat()
            }),
        ),
        ("nothing at all", odd(|_, _| Vec::new())),
        ("no HTTP", odd(|_, _| b"220 mail.example ESMTP\r\n".to_vec())),
    ]
}
