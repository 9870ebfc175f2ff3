//! A body that was compressed on the way, made plain again as it arrives.
//!
//! Purpose: reading whole files through servers and networks that compress unasked. Not here: parts of a
//! compressed file, which are of no use. Invariant: memory stays bounded whatever is sent. Used by `answer`.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use flate2::write::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http_body::{Body, Frame};
use object_store::client::{HttpError, HttpErrorKind, HttpResponseBody};

use super::super::reason::Reason;

/// So many bytes are unpacked at a time: by any of the forms they become at most 8 MiB.
const STEP: usize = 256;

/// Bytes that one step may make.
const MADE_MAX: usize = 16 << 20;

/// Codings that are undone, one in the other.
const CODINGS_MAX: usize = 2;

/// What unpacking has made and no reader has taken yet.
#[derive(Debug, Default)]
struct Made(Vec<u8>);

impl Write for Made {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MADE_MAX {
            return Err(io::Error::other("it unpacks to too much"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One way to unpack.
enum Decoder {
    Gzip(MultiGzDecoder<Made>),
    /// With the header that RFC 9110 asks for, or without, as some servers send it; told apart by the first byte.
    Deflate(Option<ZlibDecoder<Made>>, Option<DeflateDecoder<Made>>),
    Zstd(zstd::stream::write::Decoder<'static, Made>),
}

impl Decoder {
    fn of(coding: &str) -> Option<Self> {
        match coding.to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => Some(Self::Gzip(MultiGzDecoder::new(Made::default()))),
            "deflate" => Some(Self::Deflate(None, None)),
            "zstd" => zstd::stream::write::Decoder::new(Made::default()).ok().map(Self::Zstd),
            _ => None,
        }
    }

    /// Unpacks some bytes and returns what they made.
    fn step(&mut self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip(decoder) => {
                decoder.write_all(bytes)?;
                decoder.flush()?;
                Ok(std::mem::take(&mut decoder.get_mut().0))
            }
            Self::Zstd(decoder) => {
                decoder.write_all(bytes)?;
                decoder.flush()?;
                Ok(std::mem::take(&mut decoder.get_mut().0))
            }
            Self::Deflate(Some(decoder), _) => {
                decoder.write_all(bytes)?;
                decoder.flush()?;
                Ok(std::mem::take(&mut decoder.get_mut().0))
            }
            Self::Deflate(None, Some(decoder)) => {
                decoder.write_all(bytes)?;
                decoder.flush()?;
                Ok(std::mem::take(&mut decoder.get_mut().0))
            }
            Self::Deflate(with_header, plain) => {
                let Some(first) = bytes.first() else { return Ok(Vec::new()) };
                if first & 0x0f == 8 {
                    *with_header = Some(ZlibDecoder::new(Made::default()));
                } else {
                    *plain = Some(DeflateDecoder::new(Made::default()));
                }
                self.step(bytes)
            }
        }
    }
}

/// A body whose codings are undone.
pub(super) struct Decoded {
    body: HttpResponseBody,
    /// The last coding that was applied comes first.
    decoders: Vec<Decoder>,
    /// What arrived and is not unpacked yet.
    packed: Bytes,
    ready: VecDeque<Bytes>,
}

impl Decoded {
    /// Undoes the codings that `header` lists; `None` when one of them is not known.
    pub fn new(body: HttpResponseBody, header: &str) -> Option<Self> {
        let codings: Vec<&str> = codings(header).collect();
        if codings.len() > CODINGS_MAX {
            return None;
        }
        let decoders = codings.into_iter().rev().map(Decoder::of).collect::<Option<Vec<_>>>()?;
        Some(Self { body, decoders, packed: Bytes::new(), ready: VecDeque::new() })
    }

    fn step(&mut self) -> io::Result<()> {
        let mut pieces = vec![self.packed.split_to(self.packed.len().min(STEP)).to_vec()];
        for decoder in &mut self.decoders {
            let mut made = Vec::new();
            for piece in pieces.iter().flat_map(|piece| piece.chunks(STEP)) {
                made.extend(decoder.step(piece)?);
                if made.len() > MADE_MAX {
                    return Err(io::Error::other("it unpacks to too much"));
                }
            }
            pieces = vec![made];
        }
        self.ready.extend(pieces.into_iter().filter(|piece| !piece.is_empty()).map(Bytes::from));
        Ok(())
    }
}

/// The codings of a header that change anything. `aws-chunked` is how a file was uploaded; some buckets keep telling.
pub(super) fn codings(header: &str) -> impl Iterator<Item = &str> {
    let changes = |word: &&str| !["", "identity", "aws-chunked"].iter().any(|none| word.eq_ignore_ascii_case(none));
    header.split(',').map(str::trim).filter(changes)
}

impl Body for Decoded {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            if !self.packed.is_empty() {
                if let Err(error) = self.step() {
                    let reason = Reason::Encoded(format!("a form that cannot be unpacked: {error}"));
                    return Poll::Ready(Some(Err(HttpError::new(HttpErrorKind::Decode, reason))));
                }
                continue;
            }
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => self.packed = frame.into_data().unwrap_or_default(),
                other => return other,
            }
        }
    }
}
