//! Every form that RFC 9110 allows for the answer to a GET, and some that it does not: read where the bytes are determined, and
//! otherwise refused with a message.

use std::io::Write as _;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use sapwood::remote::transport::{Transport, TransportOptions};

use super::fixture::chain;
use crate::common::scripted_server::{
    Answer, HttpRequest, PAGE, ScriptedServer, chunked, content_range, part, proper, response, with,
};

/// Returns the requested file, of which the range is a part.
fn content() -> Vec<u8> {
    (0..40_000_u32).flat_map(|number| number.to_le_bytes()).collect()
}

const RANGE_FIRST: usize = 1000;
const RANGE_LAST: usize = 150_000;

/// A name, the answer, and the messages with which the file and the range are refused; none where it is read.
type Form = (&'static str, Answer, Option<&'static str>, Option<&'static str>);

fn form(
    name: &'static str,
    answer: impl Fn(&HttpRequest, &[u8]) -> Vec<u8> + Send + Sync + 'static,
    whole: Option<&'static str>,
    of_part: Option<&'static str>,
) -> Form {
    (name, Arc::new(answer), whole, of_part)
}

/// The correct answer with other headers.
fn headers(name: &'static str, lines: &'static str) -> Form {
    form(name, move |asked, file| with(asked, file, lines, part(asked, file)), None, None)
}

/// The whole file, whatever was requested, in this encoding.
fn encoded(name: &'static str, coding: &'static str, encode: fn(&[u8]) -> Vec<u8>) -> Form {
    let line = format!("Content-Encoding: {coding}\r\n");
    form(name, move |_, file| response("200 OK", &line, &encode(file)), None, None)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(bytes, 3).expect("memory")
}

fn twice(bytes: &[u8]) -> Vec<u8> {
    gzip(&zlib(bytes))
}

/// The requested range with this Content-Range.
fn range(name: &'static str, say: impl Fn(usize, usize, usize) -> String + Send + Sync + 'static) -> Form {
    let answer = move |asked: &HttpRequest, file: &[u8]| {
        let Some((first, last)) = asked.range else { return proper(asked, file) };
        let line = format!("Content-Range: {}\r\n", say(first, last, file.len()));
        response("206 Partial Content", &line, part(asked, file))
    };
    form(name, answer, None, None)
}

/// Returns the forms that determine the bytes.
fn read() -> Vec<Form> {
    vec![
        form("as it should be", proper, None, None),
        form("in chunks, without a length", chunked, None, None),
        form(
            "until the connection ends",
            |asked, file| {
                let line = if asked.range.is_some() { "206 Partial Content" } else { "200 OK" };
                let head = format!("HTTP/1.1 {line}\r\n{}\r\n", content_range(asked, file));
                [head.as_bytes(), part(asked, file)].concat()
            },
            None,
            None,
        ),
        form("by an old server", |_, file| [b"HTTP/1.0 200 OK\r\n\r\n", file].concat(), None, None),
        form("all of it for a part", |_, file| response("200 OK", "", file), None, None),
        form("transformed by a proxy", |_, file| response("203 Non-Authoritative Information", "", file), None, None),
        form(
            "all of it as a part",
            |_, file| {
                let line = format!("Content-Range: bytes 0-{}/{}\r\n", file.len() - 1, file.len());
                response("206 Partial Content", &line, file)
            },
            None,
            None,
        ),
        form(
            "more than the part",
            |asked, file| match asked.range {
                None => proper(asked, file),
                Some((first, _)) => {
                    let line = format!("Content-Range: bytes {}-{}/{}\r\n", first - 500, file.len() - 1, file.len());
                    response("206 Partial Content", &line, &file[first - 500..])
                }
            },
            None,
            None,
        ),
        form(
            "a part of the part, each time",
            |asked, file| match asked.range {
                None => proper(asked, file),
                Some((first, last)) => {
                    let last = last.min(first + 65_535);
                    let line = format!("Content-Range: bytes {first}-{last}/{}\r\n", file.len());
                    response("206 Partial Content", &line, &file[first..=last])
                }
            },
            None,
            None,
        ),
        form(
            "a part that is not named",
            |asked, file| response("206 Partial Content", "", part(asked, file)),
            Some("where bytes 0-"),
            None,
        ),
        form(
            "more bytes than it says",
            |asked, file| [proper(asked, file), b"HTTP/1.1 and more".to_vec()].concat(),
            None,
            None,
        ),
        form(
            "hints first",
            |asked, file| [b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".to_vec(), proper(asked, file)].concat(),
            None,
            None,
        ),
        form(
            "a trailer behind chunks",
            |asked, file| {
                let mut answer = chunked(asked, file);
                answer.truncate(answer.len() - 2);
                answer.extend_from_slice(b"Server-Timing: x\r\n\r\n");
                answer
            },
            None,
            None,
        ),
        range("a file of unknown length", |first, last, _| format!("bytes {first}-{last}/*")),
        range("another spelling of bytes", |first, last, length| format!("Bytes {first}-{last}/{length}")),
        range("more blanks", |first, last, length| format!(" bytes  {first} - {last} / {length} ")),
        range("an equals sign", |first, last, length| format!("bytes={first}-{last}/{length}")),
        headers("a weak tag", "ETag: W/\"1\"\r\n"),
        headers("a tag that is no text", "ETag: \"\u{fc}\"\r\n"),
        headers("a date that is none", "Last-Modified: Sonntag, 29-Nov-26 \u{fc}\r\nDate: now\r\nExpires: 0\r\n"),
        headers(
            "headers that are no text",
            "Content-Type: \u{fc}\r\nContent-Language: \u{fc}\r\nCache-Control: \u{fc}\r\n",
        ),
        headers("a wrong type", "Content-Type: text/html; charset=utf-8\r\nContent-Disposition: attachment\r\n"),
        headers("warnings and an age", "Warning: 110 - \"stale\"\r\nAge: 100000\r\nVary: *\r\n"),
        headers("no coding", "Content-Encoding: identity\r\n"),
        headers("an empty coding", "Content-Encoding: \r\n"),
        headers("the coding of an upload", "Content-Encoding: aws-chunked\r\n"),
        headers("no ranges", "Accept-Ranges: none\r\n"),
        headers("a digest of something else", "Content-Digest: sha-256=:AAAA:\r\nContent-MD5: AAAA\r\n"),
        encoded("gzip", "gzip", gzip),
        encoded("gzip by its old name", "X-GZIP", gzip),
        encoded("deflate", "deflate", zlib),
        encoded("deflate without its header", "deflate", deflate),
        encoded("zstd", "zstd", zstd),
        encoded("two codings", "deflate, gzip", twice),
    ]
}

/// Returns the forms that do not determine the bytes, with the messages for the file and the range.
fn refused() -> Vec<Form> {
    let status = |line: &'static str, words: &'static str| {
        form(line, move |_, _| response(line, "", b""), Some(words), Some(words))
    };
    vec![
        status("201 Created", "201"),
        status("202 Accepted", "202"),
        status("205 Reset Content", "205"),
        status("300 Multiple Choices", "300"),
        status("304 Not Modified", "304"),
        status("400 Bad Request", "400"),
        status("402 Payment Required", "402"),
        status("405 Method Not Allowed", "405"),
        status("406 Not Acceptable", "406"),
        status("408 Request Timeout", "408"),
        status("409 Conflict", "409"),
        status("410 Gone", "410"),
        status("412 Precondition Failed", "412"),
        status("416 Range Not Satisfiable", "ends too early"),
        status("421 Misdirected Request", "421"),
        status("425 Too Early", "425"),
        status("429 Too Many Requests", "429"),
        status("451 Unavailable For Legal Reasons", "451"),
        status("500 Internal Server Error", "500"),
        status("502 Bad Gateway", "502"),
        status("511 Network Authentication Required", "511"),
        status("599 Whatever", "599"),
        status("403 Forbidden", "not allowed to read file"),
        status("401 Unauthorized", "not allowed to read file"),
        form("a page for a part", |_, _| response("200 OK", "", PAGE), None, Some("a file of ")),
        form(
            "a page without a length",
            |_, _| {
                let head = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
                [head, PAGE.to_vec(), vec![b' '; 200_000]].concat()
            },
            None,
            Some("a web page, 'Log in'"),
        ),
        form(
            "part of a coded file",
            |asked, file| with(asked, file, "Content-Encoding: gzip\r\n", part(asked, file)),
            Some("a form that cannot be unpacked"),
            Some("encoded as 'gzip'"),
        ),
        form(
            "an unknown coding",
            |asked, file| with(asked, file, "Content-Encoding: br\r\n", part(asked, file)),
            Some("encoded as 'br'"),
            Some("encoded as 'br'"),
        ),
        form(
            "many parts",
            |_, file| response("206 Partial Content", "Content-Type: multipart/byteranges; boundary=x\r\n", file),
            Some("where bytes 0-"),
            Some("multipart/byteranges"),
        ),
        form(
            "a range behind",
            |_, file| response("206 Partial Content", "Content-Range: bytes 2000-2999/160000\r\n", &file[2000..3000]),
            Some("bytes 2000-2999/160000"),
            Some("bytes 2000-2999/160000"),
        ),
        form(
            "a range beyond the file",
            |_, file| response("206 Partial Content", "Content-Range: bytes 1000-1999/1500\r\n", &file[1000..2000]),
            Some("bytes 1000-1999/1500"),
            Some("bytes 1000-1999/1500"),
        ),
        form(
            "a range in lines",
            |_, file| response("206 Partial Content", "Content-Range: lines 1-2/3\r\n", &file[..10]),
            Some("lines 1-2/3"),
            Some("lines 1-2/3"),
        ),
        form("nothing", |_, _| Vec::new(), Some("the connection broke"), Some("the connection broke")),
    ]
}

fn check(server: &ScriptedServer, form: &Form) {
    let (name, answer, of_whole, of_part) = form;
    server.restore();
    server.set("file", answer, u32::MAX);
    let options = TransportOptions { patience: 0, connect_timeout: 5, stall_timeout: 5, ..TransportOptions::default() };
    let transport = Transport::open(&server.url(), &options).expect("a URL");
    let content = content();
    let whole = transport.get("file", 1 << 20).map(|found| found.map(|(bytes, _)| bytes));
    let found_part = transport.get_range("file", RANGE_FIRST as u64..RANGE_LAST as u64 + 1);
    match (whole, of_whole) {
        (Ok(Some(bytes)), None) if name.starts_with("a page") => assert!(bytes.starts_with(PAGE), "{name}"),
        (Ok(Some(bytes)), None) => assert!(bytes == content, "{name}: other bytes"),
        (Err(error), Some(word)) => {
            assert!(chain(&error).contains(word), "{name}: '{word}' not in '{}'", chain(&error))
        }
        (other, _) => panic!("{name}: the whole: {:?}", other.map(|found| found.map(|bytes| bytes.len()))),
    }
    match (found_part, of_part) {
        (Ok(bytes), None) => assert!(bytes == content[RANGE_FIRST..=RANGE_LAST], "{name}: other bytes of a part"),
        (Err(error), Some(word)) => {
            assert!(chain(&error).contains(word), "{name}: '{word}' not in '{}'", chain(&error))
        }
        (other, _) => panic!("{name}: the part: {:?}", other.map(|bytes| bytes.len())),
    }
}

#[test]
fn answers_are_read_in_every_form_that_determines_the_bytes() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(directory.path().join("file"), content()).expect("writable");
    let server = ScriptedServer::serve(directory.path());
    read().iter().for_each(|form| check(&server, form));
}

#[test]
fn answers_that_do_not_determine_the_bytes_are_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(directory.path().join("file"), content()).expect("writable");
    let server = ScriptedServer::serve(directory.path());
    refused().iter().for_each(|form| check(&server, form));
}
