//! Reads bytes as the answer of a web server, head and body. Shared by the fuzz target and the test over its seeds.
//!
//! ```text
//! 5-9 206                 the requested bytes, and the status; an empty range requests the whole file
//! Content-Range: …        headers
//!                         an empty line, then the body; a byte of 0xff ends a piece of it
//! ```
//!
//! *Invariants*: what is accepted is what was requested, and no more of it; anything else is an error.

use sapwood::remote::transport::{PreparedAnswer, PreparedAnswers, Transport};

/// The name of a kind of request, and its check.
type Kind = (&'static str, fn(&Transport, &Answer));

/// Kinds of input, in the order of their first byte.
pub const KINDS: [Kind; 3] = [("range", range), ("whole", whole), ("length", length)];

/// Separates the pieces of a body.
const SEPARATOR: u8 = 0xff;

/// Most bytes of a file that is read as a whole.
const WHOLE_FILE_MAX: u64 = 1000;

/// An answer, and its request.
pub struct Answer {
    first: u64,
    last: u64,
    prepared: PreparedAnswer,
}

/// Reads bytes as their first byte says.
pub fn exercise(data: &[u8]) {
    thread_local! {
        static CONNECTION: (PreparedAnswers, Transport) = {
            let answers = PreparedAnswers::default();
            let transport = Transport::prepared(&answers).expect("threads can be started");
            (answers, transport)
        };
    }
    let Some((kind, bytes)) = data.split_first() else { return };
    let Some(answer) = parse(bytes) else { return };
    CONNECTION.with(|(answers, transport)| {
        answers.set(answer.prepared.clone());
        KINDS[usize::from(*kind) % KINDS.len()].1(transport, &answer);
    });
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let mut rest = bytes;
    let mut line = || {
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        let line = &rest[..end];
        rest = &rest[end + 1..];
        Some(line)
    };
    let first = String::from_utf8(line()?.to_vec()).ok()?;
    let (range, status) = first.split_once(' ')?;
    let (first, last) = range.split_once('-')?;
    let mut headers = Vec::new();
    while let Some(line) = line().filter(|line| !line.is_empty()) {
        let colon = line.iter().position(|byte| *byte == b':')?;
        headers.push((line[..colon].to_vec(), line[colon + 1..].trim_ascii().to_vec()));
    }
    let body = rest.split(|byte| *byte == SEPARATOR).map(<[u8]>::to_vec).collect();
    let prepared = PreparedAnswer { status: status.parse().ok()?, headers, body };
    Some(Answer { first: first.parse().ok()?, last: last.parse().ok()?, prepared })
}

fn range(transport: &Transport, answer: &Answer) {
    let Some(end) = answer.last.checked_add(1).filter(|end| *end > answer.first) else { return };
    if let Ok(bytes) = transport.get_range("file", answer.first..end) {
        assert_eq!(bytes.len() as u64, end - answer.first);
        let whole = answer.prepared.body.concat();
        if is_encoded(answer) {
            return;
        }
        // A server without ranges sent the whole file.
        if answer.prepared.status != 206 {
            let from = usize::try_from(answer.first).expect("inside");
            assert_eq!(bytes[..], whole[from..from + bytes.len()]);
        } else {
            // It may announce that it sent more than was requested.
            assert!(whole.windows(bytes.len()).any(|window| window == &bytes[..]));
        }
    }
}

fn whole(transport: &Transport, answer: &Answer) {
    if let Ok(Some((bytes, _))) = transport.get("file", WHOLE_FILE_MAX) {
        assert!(bytes.len() as u64 <= WHOLE_FILE_MAX);
        assert!(is_encoded(answer) || bytes[..] == answer.prepared.body.concat());
    }
}

fn is_encoded(answer: &Answer) -> bool {
    answer.prepared.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(b"content-encoding"))
}

fn length(transport: &Transport, _: &Answer) {
    let _ = transport.length("file");
}
