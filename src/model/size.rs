//! Parses sizes in bytes as people write them.
//!
//! *Used by* `cli` and `fuse`, which read options.

/// Parses a number of bytes with or without a unit: `500000`, `500K`, `2M`, `2MiB`, `1G`, `1T`. Units are powers of 1024.
/// Returns `None` for a text that is no size, or a size that does not fit a `u64`.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    let (digits, unit) = text.split_at(text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len()));
    let factor: u64 = match unit.trim_end_matches("iB").trim_end_matches('B') {
        "" => 1,
        "K" | "k" => 1 << 10,
        "M" | "m" => 1 << 20,
        "G" | "g" => 1 << 30,
        "T" | "t" => 1 << 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_size_accepts_sizes_with_and_without_unit() {
        let sizes = [("0", 0), ("17", 17), ("500K", 500 << 10), ("3MiB", 3 << 20), ("2g", 2 << 30), ("1T", 1 << 40)];
        for (text, bytes) in sizes {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for bad in ["", "M", "1X", "1MM", "-1", "1.5M", "99999999999T"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }
}
