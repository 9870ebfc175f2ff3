//! Decodes the names and values of extended attributes in archives: percent escapes and base64.
//!
//! *Used by* `pax`.

/// Undoes GNU tar's escaping of the names after `SCHILY.xattr.`: `=` would end the key, so it is written `%3D`, and
/// `%` itself `%25`. Nothing else is escaped.
pub(super) fn unescape_schily(name: &[u8]) -> Vec<u8> {
    unescape(name, |byte| matches!(byte, b'=' | b'%'))
}

/// Undoes URL encoding, which libarchive applies to the names after `LIBARCHIVE.xattr.`.
pub(super) fn unescape_url(name: &[u8]) -> Vec<u8> {
    unescape(name, |_| true)
}

fn unescape(name: &[u8], escapes: impl Fn(u8) -> bool) -> Vec<u8> {
    let mut plain = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((first, after)) = rest.split_first() {
        let escaped = match (first, after) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        if let Some(byte) = escaped.filter(|byte| escapes(*byte)) {
            plain.push(byte);
            rest = &after[2..];
        } else {
            plain.push(*first);
            rest = after;
        }
    }
    plain
}

const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// Decodes base64 with or without padding. Returns `None` for any other character or an impossible length.
pub(super) fn from_base64(text: &[u8]) -> Option<Vec<u8>> {
    let digits = text.trim_ascii();
    let digits = digits.strip_suffix(b"==").or_else(|| digits.strip_suffix(b"=")).unwrap_or(digits);
    let mut bytes = Vec::with_capacity(digits.len() / 4 * 3 + 2);
    for group in digits.chunks(4) {
        let bits = group.iter().try_fold(0_u32, |bits, digit| Some(bits << 6 | u32::from(base64_digit(*digit)?)))?;
        let [_, first, second, third] = (bits << (6 * (4 - group.len()))).to_be_bytes();
        match group.len() {
            4 => bytes.extend([first, second, third]),
            3 => bytes.extend([first, second]),
            2 => bytes.push(first),
            _ => return None,
        }
    }
    Some(bytes)
}

const fn base64_digit(letter: u8) -> Option<u8> {
    match letter {
        b'A'..=b'Z' => Some(letter - b'A'),
        b'a'..=b'z' => Some(letter - b'a' + 26),
        b'0'..=b'9' => Some(letter - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unescaped_as_their_writers_escape_them() {
        assert_eq!(unescape_schily(b"user.a%3Db%25c%20%"), b"user.a=b%c%20%");
        assert_eq!(unescape_url(b"user.%E2%82%AC%2"), "user.€%2".as_bytes());
    }

    #[test]
    fn base64_is_decoded_with_and_without_padding() {
        for (text, bytes) in [
            (&b""[..], Some(&b""[..])),
            (b"AA", Some(b"\0")),
            (b"AA==", Some(b"\0")),
            (b"AAr/", Some(b"\0\x0a\xff")),
            (b"aGVsbG8", Some(b"hello")),
            (b"aGVsbG8=", Some(b"hello")),
            (b"A", None),
            (b"A*==", None),
        ] {
            assert_eq!(from_base64(text).as_deref(), bytes, "{}", text.escape_ascii());
        }
    }
}
