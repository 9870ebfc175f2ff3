//! Digests of blobs, and a reader that checks them.
//!
//! *Used by* the other files of this folder.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// The digest of a blob. Only SHA-256 is known, which is what all programs write.
#[derive(Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Digest([u8; 32]);

/// The error for a text that is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no digest: expected sha256: and 64 hexadecimal digits")]
pub(crate) struct DigestError(String);

impl Digest {
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Returns the path of the blob in a layout.
    pub(super) fn path(&self) -> String {
        format!("blobs/sha256/{}", self.hex())
    }

    fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let parse = || {
            let hex = text.strip_prefix("sha256:").filter(|hex| hex.len() == 64)?;
            let is_legal = hex.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f'));
            let mut bytes = [0; 32];
            for (index, byte) in bytes.iter_mut().enumerate().take_while(|_| is_legal) {
                *byte = u8::from_str_radix(&hex[index * 2..index * 2 + 2], 16).ok()?;
            }
            is_legal.then_some(Self(bytes))
        };
        parse().ok_or_else(|| DigestError(text.escape_debug().take(80).collect()))
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Hashes what is read through it.
pub(super) struct HashingReader<R> {
    reader: R,
    hash: Sha256,
    length: u64,
}

impl<R: Read> HashingReader<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, hash: Sha256::new(), length: 0 }
    }

    /// Reads the rest, and returns the digest and the length of everything.
    pub(super) fn finish(mut self) -> io::Result<(Digest, u64)> {
        io::copy(&mut self, &mut io::sink())?;
        Ok((Digest(self.hash.finalize().into()), self.length))
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.reader.read(buffer)?;
        self.hash.update(&buffer[..length]);
        self.length += length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_has_one_spelling() {
        let text = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let digest: Digest = text.parse().expect("legal");
        assert_eq!((digest, digest.to_string()), (Digest::of(b"abc"), text.to_owned()));
        let mut reader = HashingReader::new(&b"abc"[..]);
        assert_eq!(reader.read(&mut [0]).expect("memory"), 1);
        assert_eq!(reader.finish().expect("memory"), (digest, 3));
        for bad in [&text[1..], &text[..70], &text.to_uppercase(), "sha512:00", "sha256:../../x", ""] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }
}
