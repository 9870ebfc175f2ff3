//! Recognises a compressed archive by its first bytes and decompresses it while it is read.
//!
//! *Used by* `read_tar`.

use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};

use flate2::bufread::GzDecoder;

/// Size of the read buffers in bytes.
const READ_SIZE: usize = 256 << 10;

/// Most memory for decompressing an xz stream, in KiB. Archives of `xz -9` need 65 MiB.
const XZ_MEMORY: u32 = 256 << 10;

/// Length in bytes of the longest magic number.
const MAGIC_MAX: usize = 6;

/// The archive has a compression that is not supported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the archive is compressed with {name}, which is not supported; pipe it through `{command}`")]
pub(crate) struct UnknownCompression {
    name: &'static str,
    command: &'static str,
}

/// The window of a zstd frame is larger than what is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the archive needs more than 128 MiB of memory to be decompressed (zstd --long); pipe it through `zstd -dc --long=31`"
)]
pub(crate) struct LargeWindow;

/// A gzip file is followed by something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("something that is not gzip data follows the compressed archive, which itself is complete")]
pub(crate) struct TrailingGarbage;

/// Returns the uncompressed bytes of an archive that may be compressed with zstd, gzip or xz, in one or several frames.
///
/// # Errors
/// [`io::Error`], which contains an [`UnknownCompression`] where that is the cause.
pub(in crate::compose::source) fn open<'a>(mut archive: impl Read + 'a) -> io::Result<Box<dyn BufRead + 'a>> {
    let mut magic = Vec::with_capacity(MAGIC_MAX);
    archive.by_ref().take(MAGIC_MAX as u64).read_to_end(&mut magic)?;
    let compression = Compression::of(&magic);
    let whole: Chain<Cursor<Vec<u8>>, _> = Cursor::new(magic).chain(archive);
    let whole = BufReader::with_capacity(READ_SIZE, whole);
    Ok(match compression {
        Compression::None => Box::new(whole),
        // The default limit of the window stays: 128 MiB, the most that `zstd` without `--long` uses.
        Compression::Zstd => buffered(ZstdFrames(zstd::Decoder::with_buffer(whole)?)),
        Compression::Gzip => buffered(GzipMembers { current: Some(GzDecoder::new(whole)), is_first: true }),
        Compression::Xz => buffered(lzma_rust2::XzReader::new_mem_limit(whole, true, XZ_MEMORY)),
        Compression::Unknown(name, command) => return Err(io::Error::other(UnknownCompression { name, command })),
    })
}

fn buffered<'a>(reader: impl Read + 'a) -> Box<dyn BufRead + 'a> {
    Box::new(BufReader::with_capacity(READ_SIZE, reader))
}

/// Reads zstd frames, with a better message for one whose window is too large.
struct ZstdFrames<R: BufRead>(zstd::Decoder<'static, R>);

impl<R: BufRead> Read for ZstdFrames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // zstd has no code in its interface for this error, only the text.
        let explain = |error: io::Error| match error.to_string().contains("too much memory") {
            true => io::Error::other(LargeWindow),
            false => error,
        };
        self.0.read(buffer).map_err(explain)
    }
}

/// Reads the members of a gzip file one after the other. Zeros after a member are padding, as block devices and tapes add it
/// and as gzip ignores it.
struct GzipMembers<R> {
    /// The member that is being read; `None` at the end.
    current: Option<GzDecoder<R>>,
    is_first: bool,
}

impl<R: BufRead> Read for GzipMembers<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.current {
            let is_first = self.is_first;
            let length = member.read(buffer).map_err(|error| match error.kind() {
                io::ErrorKind::InvalidInput if !is_first => io::Error::new(error.kind(), TrailingGarbage),
                _ => error,
            })?;
            if length > 0 || buffer.is_empty() {
                return Ok(length);
            }
            let Some(mut rest) = self.current.take().map(GzDecoder::into_inner) else { break };
            if !skip_zeros(&mut rest)? {
                self.is_first = false;
                self.current = Some(GzDecoder::new(rest));
            }
        }
        Ok(0)
    }
}

/// Skips zeros, and returns whether nothing follows them.
fn skip_zeros(reader: &mut impl BufRead) -> io::Result<bool> {
    loop {
        let available = reader.fill_buf()?;
        if available.is_empty() {
            return Ok(true);
        }
        let (length, zeros) = (available.len(), available.iter().take_while(|byte| **byte == 0).count());
        reader.consume(zeros);
        if zeros < length {
            return Ok(false);
        }
    }
}

enum Compression {
    None,
    Zstd,
    Gzip,
    Xz,
    /// The name, and the command that decompresses it.
    Unknown(&'static str, &'static str),
}

impl Compression {
    const fn of(magic: &[u8]) -> Self {
        match magic {
            // A frame, or a skippable frame, with which `pzstd` and seekable writers begin.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0xfd, b'7', b'z', b'X', b'Z', 0] => Self::Xz,
            [b'B', b'Z', b'h', b'1'..=b'9', b'1', b'A'] => Self::Unknown("bzip2", "bzip2 -dc"),
            [0x04, 0x22, 0x4d, 0x18, ..] => Self::Unknown("lz4", "lz4 -dc"),
            [b'L', b'Z', b'I', b'P', ..] => Self::Unknown("lzip", "lzip -dc"),
            [0x1f, 0x9d, ..] => Self::Unknown("compress", "gzip -dc"),
            [0x89, b'L', b'Z', b'O', 0, ..] => Self::Unknown("lzop", "lzop -dc"),
            // The header of an .lzma file: properties, and the size of the dictionary, which is none of a file named "]".
            [0x5d, 0, 0, low, high, _] if *low | *high != 0 => Self::Unknown("lzma", "xz --format=lzma -dc"),
            _ => Self::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    fn piped(program: &str, bytes: &[u8]) -> Vec<u8> {
        let mut child = Command::new(program)
            .arg("-c")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{program} is needed: {error}"));
        child.stdin.take().expect("stdin is a pipe").write_all(bytes).expect("the program reads");
        child.wait_with_output().expect("the program ends").stdout
    }

    #[test]
    fn each_supported_compression_is_recognised() {
        let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        for program in ["cat", "zstd", "gzip", "xz"] {
            let packed = if program == "cat" { bytes.clone() } else { piped(program, &bytes) };
            for repeat in [1, 2] {
                let mut unpacked = Vec::new();
                let packed = packed.repeat(repeat);
                open(&packed[..])
                    .expect("the compression is supported")
                    .read_to_end(&mut unpacked)
                    .expect("the archive is complete");
                assert!(unpacked == bytes.repeat(repeat), "{program} {repeat}");
            }
            if program != "cat" {
                let mut cut = open(&packed[..packed.len() - 9]).expect("the compression is supported");
                assert!(io::copy(&mut cut, &mut io::sink()).is_err(), "{program}");
            }
        }
    }

    #[test]
    fn zeros_after_a_gzip_member_are_padding() {
        let bytes: Vec<u8> = (0..10_000_u32).flat_map(u32::to_le_bytes).collect();
        let packed = piped("gzip", &bytes);
        for (padding, repeat) in [(1, 1), (512, 2), (600_000, 2)] {
            let padded = [&packed[..], &vec![0; padding]].concat().repeat(repeat);
            let mut unpacked = Vec::new();
            open(&padded[..]).expect("gzip").read_to_end(&mut unpacked).expect("the archive is complete");
            assert!(unpacked == bytes.repeat(repeat), "{padding} {repeat}");
        }
        let garbage = [&packed[..], b"\0\0x"].concat();
        assert!(io::copy(&mut open(&garbage[..]).expect("gzip"), &mut io::sink()).is_err());
    }

    #[test]
    fn unsupported_compression_is_named_in_the_error() {
        let error = open(&b"BZh91AY&SY"[..]).err().expect("not supported");
        assert!(error.to_string().contains("bzip2 -dc"), "{error}");
        assert!(open(&b""[..]).is_ok());
    }
}
