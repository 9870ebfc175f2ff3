//! Compares versions of packages as dpkg (deb-version(7)) and rpm (rpm-version(7)) do.
//!
//! Both split a version into runs of digits, compared as numbers, and runs of other characters; `~` sorts before
//! everything, even the end. They differ in how they order other characters and in `^`.
//!
//! *Used by* `packages::diff` and `cli::db`.

use std::cmp::Ordering;

use super::PackageFormat;

/// Compares two versions; the newer one is greater.
#[must_use]
pub fn compare_versions(format: PackageFormat, a: &str, b: &str) -> Ordering {
    let (a, b) = (VersionParts::parse(a), VersionParts::parse(b));
    let part = match format {
        PackageFormat::Deb => compare_debian_part,
        PackageFormat::Rpm => compare_rpm_part,
    };
    a.epoch.cmp(&b.epoch).then_with(|| part(a.version, b.version)).then_with(|| part(a.release, b.release))
}

struct VersionParts<'a> {
    epoch: u64,
    version: &'a [u8],
    release: &'a [u8],
}

impl<'a> VersionParts<'a> {
    fn parse(text: &'a str) -> Self {
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

/// Compares as dpkg: letters sort before other characters, `~` before everything.
fn compare_debian_part(mut a: &[u8], mut b: &[u8]) -> Ordering {
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
        let ((x, rest_a), (y, rest_b)) = (split_digits(a), split_digits(b));
        match compare_numbers(x, y) {
            Ordering::Equal => (a, b) = (rest_a, rest_b),
            other => return other,
        }
    }
    Ordering::Equal
}

/// Compares as rpm: separators are ignored, `~` sorts before the end, `^` just after it.
fn compare_rpm_part(mut a: &[u8], mut b: &[u8]) -> Ordering {
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
        // A number is newer than letters.
        if is_number != b[0].is_ascii_digit() {
            return if is_number { Ordering::Greater } else { Ordering::Less };
        }
        let take = if is_number { split_digits } else { split_letters };
        let ((x, rest_a), (y, rest_b)) = (take(a), take(b));
        match if is_number { compare_numbers(x, y) } else { x.cmp(y) } {
            Ordering::Equal => (a, b) = (rest_a, rest_b),
            other => return other,
        }
    }
}

fn split_digits(side: &[u8]) -> (&[u8], &[u8]) {
    side.split_at(side.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(side.len()))
}

fn split_letters(side: &[u8]) -> (&[u8], &[u8]) {
    side.split_at(side.iter().position(|byte| !byte.is_ascii_alphabetic()).unwrap_or(side.len()))
}

/// Compares numbers of any length.
fn compare_numbers(a: &[u8], b: &[u8]) -> Ordering {
    let strip = |side: &[u8]| side.iter().position(|byte| *byte != b'0').unwrap_or(side.len());
    let (a, b) = (&a[strip(a)..], &b[strip(b)..]);
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `tests/root/compose` compares these cases and more with dpkg and rpm themselves.
    #[test]
    fn versions_are_ordered_as_dpkg_and_rpm_order_them() {
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
        for (format, cases) in [(PackageFormat::Deb, &deb[..]), (PackageFormat::Rpm, &rpm[..])] {
            for (a, b, order) in cases {
                assert_eq!(compare_versions(format, a, b), *order, "{format:?} {a} {b}");
                assert_eq!(compare_versions(format, b, a), order.reverse(), "{format:?} {b} {a}");
            }
        }
    }
}
