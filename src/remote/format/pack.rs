//! Published packs: files of zstd frames, and the parallel compression of frames.
//!
//! ```text
//! offset size
//!      0    8  magic "SAPWPCK\0"
//!      8    4  version = 1
//!     12    4  0
//!     16       zstd frames
//! ```
//!
//! A frame holds contents one after the other and nothing else. The positions of objects are in the locators: a pack by
//! itself is a list of frames. Frames are compressed by several threads and written in the order in which they were
//! given, so that equal input makes equal packs.
//!
//! *Not here*: which objects share a frame (`publish`), and packs of the local repository (`store`).
//!
//! *Used by* `publish`, `prune`, `fetch`, the delta writer and the cache.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use sha2::{Digest as _, Sha256};

use crate::model::PackId;

const MAGIC: [u8; 8] = *b"SAPWPCK\0";
const VERSION: u32 = 1;

/// Bytes before the first frame.
pub(crate) const PACK_HEADER_SIZE: u32 = 16;

/// The most bytes of a decompressed frame: an object that is not large is never split.
pub const FRAME_RAW_MAX: usize = 1 << 20;

/// Number of frames that may wait for each thread: enough that no thread idles, few enough to keep memory small.
const QUEUE_LENGTH: usize = 4;

/// The reason why a frame cannot be decompressed.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The bytes are no zstd frame.
    #[error("a frame cannot be unpacked")]
    Compression(#[source] io::Error),
    /// The frame decompresses to another length than announced.
    #[error("a frame unpacks to {found} bytes where {expected} were announced")]
    Length {
        /// Bytes announced.
        expected: u32,
        /// Bytes found.
        found: usize,
    },
}

/// Returns whether a frame's compressed length is plausible for its decompressed length: zstd adds little to bytes that
/// it cannot make shorter. A frame that takes more room is refused, since its length decides how much is downloaded and
/// held in memory.
#[must_use]
pub const fn is_in_proportion(length: u32, raw_length: u32) -> bool {
    length as u64 <= raw_length as u64 + (raw_length as u64 >> 7) + 1024
}

/// Decompresses a frame to exactly `raw_length` bytes, which must be at most [`FRAME_RAW_MAX`].
///
/// # Errors
/// [`FrameError`].
pub fn decode_frame(packed: &[u8], raw_length: u32) -> Result<Vec<u8>, FrameError> {
    let expected = (raw_length as usize).min(FRAME_RAW_MAX);
    let raw = zstd::bulk::decompress(packed, expected).map_err(FrameError::Compression)?;
    if raw.len() == raw_length as usize {
        Ok(raw)
    } else {
        Err(FrameError::Length { expected: raw_length, found: raw.len() })
    }
}

/// The content of a frame before it is compressed.
#[derive(Debug)]
pub(crate) struct RawFrame {
    /// The content, at most [`FRAME_RAW_MAX`] bytes.
    pub(crate) bytes: Vec<u8>,
    /// Level of zstd.
    pub(crate) level: i32,
}

/// Compresses the frames that `next` returns on `threads` threads, and passes the results to `done` in the same order,
/// each with the value that came with it. At most a few frames for each thread are in memory.
///
/// # Errors
/// The first error of `next`, of `done`, or of the compressor.
pub(crate) fn compress_frames<T: Send, E: From<io::Error> + Send>(
    threads: usize,
    next: impl FnMut() -> Result<Option<(T, RawFrame)>, E> + Send,
    mut done: impl FnMut(T, &[u8], Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    let worker = || {
        let mut compressor = zstd::bulk::Compressor::default();
        move |raw: RawFrame| {
            compressor.set_compression_level(raw.level)?;
            let packed = compressor.compress(&raw.bytes)?;
            Ok((raw.bytes, packed))
        }
    };
    run_in_order(threads, QUEUE_LENGTH, worker, next, |value, (raw, packed)| done(value, &raw, packed))
}

/// Passes what `next` returns to `threads` workers, and their results to `done` in the order of `next`, each with the
/// value that came with it. At most `2 × queue` inputs and results wait for each thread.
///
/// # Errors
/// The first error of `next`, of `done`, or of a worker.
pub(crate) fn run_in_order<
    T: Send,
    In: Send,
    Out: Send,
    Worker: FnMut(In) -> io::Result<Out>,
    E: From<io::Error> + Send,
>(
    threads: usize,
    queue: usize,
    worker: impl Fn() -> Worker + Sync,
    mut next: impl FnMut() -> Result<Option<(T, In)>, E> + Send,
    mut done: impl FnMut(T, Out) -> Result<(), E>,
) -> Result<(), E> {
    let threads = threads.max(1);
    let worker = &worker;
    thread::scope(|scope| {
        // Input n goes to thread n modulo the number of threads, and results are taken in the same order, so no sorting
        // is needed.
        let (mut inputs, mut outputs): (Vec<SyncSender<In>>, Vec<Receiver<io::Result<Out>>>) = (Vec::new(), Vec::new());
        for _ in 0..threads {
            let (input, jobs) = sync_channel::<In>(queue);
            let (results, output) = sync_channel(queue);
            scope.spawn(move || {
                let mut work = worker();
                jobs.into_iter().map(&mut work).all(|result| results.send(result).is_ok())
            });
            inputs.push(input);
            outputs.push(output);
        }
        let (values, waiting) = sync_channel::<Result<T, E>>(threads * queue);
        scope.spawn(move || {
            for number in 0.. {
                let value = match next() {
                    Ok(None) => return,
                    Err(error) => Err(error),
                    // The receiver is gone after an error of `done`.
                    Ok(Some((value, input))) => match inputs[number % threads].send(input) {
                        Ok(()) => Ok(value),
                        Err(_) => return,
                    },
                };
                let is_last = value.is_err();
                if values.send(value).is_err() || is_last {
                    return;
                }
            }
        });
        let stopped = || io::Error::other("a worker has stopped");
        for (number, value) in waiting.into_iter().enumerate() {
            let value = value?;
            let result = outputs[number % threads].recv().map_err(|_| stopped())??;
            done(value, result)?;
        }
        Ok(())
    })
}

/// A writer of one pack, which also computes the pack's name.
pub struct PackWriter<W: Write> {
    out: W,
    digest: Sha256,
    length: u64,
}

impl<W: Write> PackWriter<W> {
    /// Begins a pack.
    ///
    /// # Errors
    /// Errors of writing.
    pub fn new(out: W) -> io::Result<Self> {
        let mut pack = Self { out, digest: Sha256::new(), length: 0 };
        let mut header = MAGIC.to_vec();
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&[0; 4]);
        pack.write(&header)?;
        Ok(pack)
    }

    /// Returns the number of bytes so far.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Returns whether a frame of `frame` bytes fits into a pack of `limit` bytes. The first frame always does.
    pub(crate) const fn has_room(&self, frame: usize, limit: u64) -> bool {
        self.length <= PACK_HEADER_SIZE as u64 || self.length + frame as u64 <= limit
    }

    /// Adds a frame and returns where it begins.
    ///
    /// # Errors
    /// Errors of writing.
    pub fn add(&mut self, frame: &[u8]) -> io::Result<u64> {
        let offset = self.length;
        self.write(frame)?;
        Ok(offset)
    }

    /// Returns the writer, the pack's name and its length in bytes.
    pub fn finish(self) -> (W, PackId, u64) {
        (self.out, PackId::from_bytes(self.digest.finalize().into()), self.length)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.digest.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(count: u32) -> impl FnMut() -> Result<Option<(u32, RawFrame)>, io::Error> + Send {
        let mut number = 0_u32;
        move || {
            number += 1;
            let bytes = || format!("{number} ").repeat(number as usize * 37).into_bytes();
            let level = if number.is_multiple_of(2) { 3 } else { 15 };
            Ok((number <= count).then(|| (number, RawFrame { bytes: bytes(), level })))
        }
    }

    #[test]
    fn frames_keep_order_and_content_with_any_number_of_threads() {
        let made = |threads| {
            let mut made = Vec::new();
            let done = |number, raw: &[u8], packed: Vec<u8>| {
                let again = decode_frame(&packed, u32::try_from(raw.len()).expect("small")).expect("own frame");
                assert_eq!(again, raw);
                made.push((number, packed));
                Ok::<_, io::Error>(())
            };
            compress_frames(threads, frames(100), done).expect("memory");
            made
        };
        let one = made(1);
        assert_eq!(one.iter().map(|(number, _)| *number).collect::<Vec<_>>(), (1..=100).collect::<Vec<_>>());
        assert_eq!(one, made(3));
    }

    #[test]
    fn errors_of_either_callback_end_the_compression() {
        let broken = || io::Error::other("broken");
        let result = compress_frames(2, || Err::<Option<((), RawFrame)>, _>(broken()), |(), _, _| Ok(()));
        assert_eq!(result.expect_err("next fails").to_string(), "broken");
        let result = compress_frames(2, frames(1000), |_, _, _| Err(broken()));
        assert_eq!(result.expect_err("done fails").to_string(), "broken");
    }

    #[test]
    fn frame_of_another_length_is_refused() {
        let packed = zstd::bulk::compress(&[1; 1000], 3).expect("memory");
        assert!(decode_frame(&packed, 999).is_err());
        assert!(matches!(decode_frame(&packed, 1001), Err(FrameError::Length { found: 1000, .. })));
        assert!(decode_frame(&packed[1..], 1000).is_err());
    }
}
