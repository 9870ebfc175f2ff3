//! Decompresses a body that a server or an intermediary compressed without being asked to.
//!
//! *Not here*: parts of a compressed file, which are unusable.
//!
//! *Invariants*: memory is bounded whatever is sent.
//!
//! *Used by* `response`.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use flate2::write::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http_body::{Body, Frame};
use object_store::client::{HttpError, HttpErrorKind, HttpResponseBody};

use super::super::reason::FailureReason;

/// Bytes that are decompressed at a time: with any of the codings they become at most 8 MiB.
const STEP_SIZE: usize = 256;

/// The most bytes that one step may produce.
const STEP_OUTPUT_MAX: usize = 16 << 20;

/// The most nested codings that are decoded.
const CODINGS_MAX: usize = 2;

/// Decoded bytes that have not been read yet.
#[derive(Debug, Default)]
struct DecodedBytes(Vec<u8>);

impl Write for DecodedBytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > STEP_OUTPUT_MAX {
            return Err(io::Error::other("it unpacks to too much"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A decoder of one coding.
enum BodyDecoder {
    Gzip(MultiGzDecoder<DecodedBytes>),
    /// With the header that RFC 9110 requires, or without, as some servers send it; the first byte tells them apart.
    Deflate(Option<ZlibDecoder<DecodedBytes>>, Option<DeflateDecoder<DecodedBytes>>),
    Zstd(zstd::stream::write::Decoder<'static, DecodedBytes>),
}

impl BodyDecoder {
    fn of(coding: &str) -> Option<Self> {
        match coding.to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => Some(Self::Gzip(MultiGzDecoder::new(DecodedBytes::default()))),
            "deflate" => Some(Self::Deflate(None, None)),
            "zstd" => zstd::stream::write::Decoder::new(DecodedBytes::default()).ok().map(Self::Zstd),
            _ => None,
        }
    }

    /// Decodes some bytes and returns the result.
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
                    *with_header = Some(ZlibDecoder::new(DecodedBytes::default()));
                } else {
                    *plain = Some(DeflateDecoder::new(DecodedBytes::default()));
                }
                self.step(bytes)
            }
        }
    }
}

/// A body whose codings are decoded.
pub(super) struct DecodedBody {
    body: HttpResponseBody,
    /// The decoders, with the last applied coding first.
    decoders: Vec<BodyDecoder>,
    /// Received bytes that are not decoded yet.
    encoded: Bytes,
    ready: VecDeque<Bytes>,
}

impl DecodedBody {
    /// Returns the body without the codings that `header` lists; `None` when one of them is not supported.
    pub(crate) fn new(body: HttpResponseBody, header: &str) -> Option<Self> {
        let codings: Vec<&str> = codings(header).collect();
        if codings.len() > CODINGS_MAX {
            return None;
        }
        let decoders = codings.into_iter().rev().map(BodyDecoder::of).collect::<Option<Vec<_>>>()?;
        Some(Self { body, decoders, encoded: Bytes::new(), ready: VecDeque::new() })
    }

    fn step(&mut self) -> io::Result<()> {
        let mut pieces = vec![self.encoded.split_to(self.encoded.len().min(STEP_SIZE)).to_vec()];
        for decoder in &mut self.decoders {
            let mut made = Vec::new();
            for piece in pieces.iter().flat_map(|piece| piece.chunks(STEP_SIZE)) {
                made.extend(decoder.step(piece)?);
                if made.len() > STEP_OUTPUT_MAX {
                    return Err(io::Error::other("it unpacks to too much"));
                }
            }
            pieces = vec![made];
        }
        self.ready.extend(pieces.into_iter().filter(|piece| !piece.is_empty()).map(Bytes::from));
        Ok(())
    }
}

/// Returns the codings of a header that change the content. `aws-chunked` describes how a file was uploaded; some
/// buckets keep sending it.
pub(super) fn codings(header: &str) -> impl Iterator<Item = &str> {
    let changes = |word: &&str| !["", "identity", "aws-chunked"].iter().any(|none| word.eq_ignore_ascii_case(none));
    header.split(',').map(str::trim).filter(changes)
}

impl Body for DecodedBody {
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
            if !self.encoded.is_empty() {
                if let Err(error) = self.step() {
                    let reason = FailureReason::Encoded(format!("a form that cannot be unpacked: {error}"));
                    return Poll::Ready(Some(Err(HttpError::new(HttpErrorKind::Decode, reason))));
                }
                continue;
            }
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => self.encoded = frame.into_data().unwrap_or_default(),
                other => return other,
            }
        }
    }
}
