//! Compares versions as the UAPI Version Format Specification says, which boot loaders follow, and releases of kernels.
//!
//! *Not here*: what is compared (`kernels`, `forecast`). Everything in this file is pure.
//!
//! *Used by* `kernels` and `forecast`.

use std::cmp::Ordering;

/// Compares two versions. Characters that no version has are skipped.
#[must_use]
pub fn compare(left: &str, right: &str) -> Ordering {
    let (mut a, mut b) = (left.as_bytes(), right.as_bytes());
    loop {
        (a, b) = (skip_others(a), skip_others(b));
        // `~` precedes a pre-release: it is older than everything, also than the end.
        match without_separator(&mut a, &mut b, b'~') {
            Ordering::Equal => {}
            different => return different,
        }
        if a.is_empty() || b.is_empty() {
            return a.len().cmp(&b.len());
        }
        for separator in [b'-', b'^', b'.'] {
            match without_separator(&mut a, &mut b, separator) {
                Ordering::Equal => {}
                different => return different,
            }
        }
        let is_number = |bytes: &[u8]| bytes.first().is_some_and(u8::is_ascii_digit);
        let ordering = if is_number(a) || is_number(b) {
            let (x, y) = (take_while(&mut a, u8::is_ascii_digit), take_while(&mut b, u8::is_ascii_digit));
            compare_numbers(x, y)
        } else {
            take_while(&mut a, u8::is_ascii_alphabetic).cmp(take_while(&mut b, u8::is_ascii_alphabetic))
        };
        if ordering != Ordering::Equal {
            return ordering;
        }
    }
}

/// Compares two releases of kernels, as `uname -r` prints them: `6.10-rc7` is a pre-release of `6.10`.
#[must_use]
pub fn compare_kernels(left: &str, right: &str) -> Ordering {
    let as_version = |release: &str| release.replace("-rc", "~rc");
    compare(&as_version(left), &as_version(right)).then_with(|| left.cmp(right))
}

/// Removes a separator from the front of both sides. A side that has it is older than one that does not.
fn without_separator(a: &mut &[u8], b: &mut &[u8], separator: u8) -> Ordering {
    match (a.strip_prefix(&[separator]), b.strip_prefix(&[separator])) {
        (Some(rest_a), Some(rest_b)) => {
            (*a, *b) = (rest_a, rest_b);
            Ordering::Equal
        }
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    }
}

fn skip_others(bytes: &[u8]) -> &[u8] {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"~-^.".contains(byte);
    &bytes[bytes.iter().position(is_part).unwrap_or(bytes.len())..]
}

fn take_while<'a>(bytes: &mut &'a [u8], holds: fn(&u8) -> bool) -> &'a [u8] {
    let end = bytes.iter().position(|byte| !holds(byte)).unwrap_or(bytes.len());
    let (taken, rest) = bytes.split_at(end);
    *bytes = rest;
    taken
}

/// Compares runs of digits by their value; no digits are less than any number.
fn compare_numbers(a: &[u8], b: &[u8]) -> Ordering {
    let value = |digits: &'_ [u8]| digits.iter().position(|digit| *digit != b'0').unwrap_or(digits.len());
    let (x, y) = (&a[value(a)..], &b[value(b)..]);
    (!a.is_empty()).cmp(&!b.is_empty()).then(x.len().cmp(&y.len())).then_with(|| x.cmp(y))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_the_specification_says() {
        // The examples of the specification, each list in ascending order.
        let lists: &[&[&str]] = &[
            &["11~rc1", "11", "11.1", "122"],
            &["122.1-1", "122.1-2"],
            &["123", "123-1", "123.1", "124-1"],
            &["123.a-1", "123.1-1", "123a"],
            &["0124", "1234"],
            &["6.1.0-9", "6.1.0-10"],
        ];
        for list in lists {
            for pair in list.windows(2) {
                assert_eq!(compare(pair[0], pair[1]), Ordering::Less, "{pair:?}");
                assert_eq!(compare(pair[1], pair[0]), Ordering::Greater, "{pair:?}");
            }
        }
        assert_eq!(compare("0123", "123"), Ordering::Equal);
        assert_eq!(compare("a_b", "ab"), Ordering::Less, "a skipped character ends a run");
    }

    #[test]
    fn a_release_of_a_kernel_is_newer_than_its_candidates() {
        let ascending = ["6.9.12-amd64", "6.10-rc7-amd64", "6.10-rc10-amd64", "6.10-amd64", "6.10.1-amd64", "6.11-rc1"];
        for pair in ascending.windows(2) {
            assert_eq!(compare_kernels(pair[0], pair[1]), Ordering::Less, "{pair:?}");
        }
    }
}
