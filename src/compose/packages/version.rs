//! The order of versions: dpkg's (deb-version(7)) and rpm's (rpm-version(7)).
//!
//! Both split a version into runs of digits, compared as numbers, and runs of other characters; `~` sorts before
//! everything, even the end. They differ in what other characters count and in `^`.

use std::cmp::Ordering;

use super::Format;

/// Which version is newer.
#[must_use]
pub fn compare(format: Format, a: &str, b: &str) -> Ordering {
    let (a, b) = (Parts::of(a), Parts::of(b));
    let part = match format {
        Format::Deb => debian,
        Format::Rpm => rpm,
    };
    a.epoch.cmp(&b.epoch).then_with(|| part(a.version, b.version)).then_with(|| part(a.release, b.release))
}

struct Parts<'a> {
    epoch: u64,
    version: &'a [u8],
    release: &'a [u8],
}

impl<'a> Parts<'a> {
    fn of(text: &'a str) -> Self {
        let (epoch, rest) = match text.split_once(':') {
            Some((epoch, rest)) if epoch.bytes().all(|byte| byte.is_ascii_digit()) => {
                (epoch.parse().unwrap_or(0), rest)
            }
            _ => (0, text),
        };
        let (version, release) = rest.rsplit_once('-').unwrap_or((rest, ""));
        Self { epoch, version: version.as_bytes(), release: release.as_bytes() }
    }
}

/// dpkg: letters before other characters, `~` before all.
fn debian(mut a: &[u8], mut b: &[u8]) -> Ordering {
    let weight = |byte: Option<&u8>| match byte {
        Some(b'~') => -1,
        None => 0,
        Some(byte) if byte.is_ascii_digit() => 0,
        Some(byte) if byte.is_ascii_alphabetic() => i32::from(*byte),
        Some(byte) => i32::from(*byte) + 256,
    };
    while !a.is_empty() || !b.is_empty() {
        let is_text = |side: &[u8]| side.first().is_some_and(|byte| !byte.is_ascii_digit());
        while is_text(a) || is_text(b) {
            match weight(a.first()).cmp(&weight(b.first())) {
                Ordering::Equal => (a, b) = (a.get(1..).unwrap_or_default(), b.get(1..).unwrap_or_default()),
                other => return other,
            }
        }
        let ((x, rest_a), (y, rest_b)) = (digits(a), digits(b));
        match number(x, y) {
            Ordering::Equal => (a, b) = (rest_a, rest_b),
            other => return other,
        }
    }
    Ordering::Equal
}

/// rpm: separators do not count, `~` is before the end, `^` just after it.
fn rpm(mut a: &[u8], mut b: &[u8]) -> Ordering {
    let skip = |side: &[u8]| {
        side.iter().position(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'~' | b'^')).unwrap_or(side.len())
    };
    loop {
        (a, b) = (&a[skip(a)..], &b[skip(b)..]);
        match (a.first(), b.first()) {
            (Some(b'~'), Some(b'~')) | (Some(b'^'), Some(b'^')) => {
                (a, b) = (&a[1..], &b[1..]);
                continue;
            }
            (Some(b'~'), _) => return Ordering::Less,
            (_, Some(b'~')) => return Ordering::Greater,
            (Some(b'^'), None) => return Ordering::Greater,
            (None, Some(b'^')) => return Ordering::Less,
            (Some(b'^'), Some(_)) => return Ordering::Less,
            (Some(_), Some(b'^')) => return Ordering::Greater,
            (None, None) => return Ordering::Equal,
            (None, _) => return Ordering::Less,
            (_, None) => return Ordering::Greater,
            _ => {}
        }
        let is_number = a[0].is_ascii_digit();
        // A number is newer than a word.
        if is_number != b[0].is_ascii_digit() {
            return if is_number { Ordering::Greater } else { Ordering::Less };
        }
        let take = if is_number { digits } else { letters };
        let ((x, rest_a), (y, rest_b)) = (take(a), take(b));
        match if is_number { number(x, y) } else { x.cmp(y) } {
            Ordering::Equal => (a, b) = (rest_a, rest_b),
            other => return other,
        }
    }
}

fn digits(side: &[u8]) -> (&[u8], &[u8]) {
    side.split_at(side.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(side.len()))
}

fn letters(side: &[u8]) -> (&[u8], &[u8]) {
    side.split_at(side.iter().position(|byte| !byte.is_ascii_alphabetic()).unwrap_or(side.len()))
}

/// Numbers of any length.
fn number(a: &[u8], b: &[u8]) -> Ordering {
    let strip = |side: &[u8]| side.iter().position(|byte| *byte != b'0').unwrap_or(side.len());
    let (a, b) = (&a[strip(a)..], &b[strip(b)..]);
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `tests/root/compose` asks dpkg and rpm themselves about the same and more.
    #[test]
    fn versions_are_ordered_as_their_tools_order_them() {
        let deb = [
            ("1.0", "1.0", Ordering::Equal),
            ("1.9", "1.10", Ordering::Less),
            ("1.0~rc1", "1.0", Ordering::Less),
            ("1:0.1", "2.0", Ordering::Greater),
            ("1.0-1", "1.0-1+b1", Ordering::Less),
            ("1.0a", "1.0+", Ordering::Less),
            ("2.36-9+deb12u9", "2.36-9+deb12u10", Ordering::Less),
            ("1.0", "1.0-0", Ordering::Equal),
            ("00123", "123", Ordering::Equal),
        ];
        let rpm = [
            ("1.0-1", "1.0-2", Ordering::Less),
            ("1.0.a", "1.0.1", Ordering::Less),
            ("1.0~rc1-1", "1.0-1", Ordering::Less),
            ("1.0^git1-1", "1.0-1", Ordering::Greater),
            ("1.0^git1-1", "1.0.1-1", Ordering::Less),
            ("1_0", "1.0", Ordering::Equal),
            ("2:1-1", "1:9-1", Ordering::Greater),
        ];
        for (format, cases) in [(Format::Deb, &deb[..]), (Format::Rpm, &rpm[..])] {
            for (a, b, order) in cases {
                assert_eq!(compare(format, a, b), *order, "{format:?} {a} {b}");
                assert_eq!(compare(format, b, a), order.reverse(), "{format:?} {b} {a}");
            }
        }
    }
}
