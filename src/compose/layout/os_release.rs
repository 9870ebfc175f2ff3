//! Computes the version of a commit from the parent's, and writes it into `os-release`.

use super::super::staged::StagedTree;
use super::LayoutError;

const OS_RELEASE: &str = "/usr/lib/os-release";

/// Returns the next version: `prefix` alone, or with a number one above the parent's if the parent's version has the same
/// prefix. `<date:FORMAT>` in the prefix stands for the commit's time.
pub(crate) fn next_version(prefix: &str, suffix: char, parent: Option<&str>, time: i64) -> String {
    let (prefix, has_date) = expand_dates(prefix, time);
    let first = if has_date { format!("{prefix}{suffix}0") } else { prefix.clone() };
    let Some(parent) = parent else { return first };
    if parent == prefix {
        return format!("{prefix}{suffix}1");
    }
    let number =
        parent.strip_prefix(&prefix).and_then(|rest| rest.strip_prefix(suffix)).and_then(|n| n.parse::<u64>().ok());
    number.map_or(first, |number| format!("{prefix}{suffix}{}", number.saturating_add(1)))
}

fn expand_dates(prefix: &str, time: i64) -> (String, bool) {
    let Ok(time) = jiff::Timestamp::from_second(time) else { return (prefix.to_owned(), false) };
    let (mut done, mut rest, mut has_date) = (String::new(), prefix, false);
    while let Some((before, after)) = rest.split_once("<date:") {
        let Some((format, after)) = after.split_once('>') else { break };
        done.push_str(before);
        // An invalid format stays in the version as it is, where the user sees it.
        let text = jiff::fmt::strtime::format(format, &time.to_zoned(jiff::tz::TimeZone::UTC));
        done.push_str(&text.unwrap_or_else(|_| format.to_owned()));
        (rest, has_date) = (after, true);
    }
    (done + rest, has_date)
}

/// Replaces `base` in the names in `os-release` by the commit's version, and adds the version itself.
pub(crate) fn mutate(staged: &mut StagedTree, base: &str, version: &str) -> Result<(), LayoutError> {
    let Some(text) = staged.read_text(OS_RELEASE)? else { return Ok(()) };
    let mut new = String::new();
    for line in text.lines() {
        let names_it = ["VERSION=", "PRETTY_NAME="].iter().any(|key| line.starts_with(key));
        let is_version_line = ["IMAGE_VERSION=", "OSTREE_VERSION="].iter().any(|key| line.starts_with(key));
        if !is_version_line {
            new.push_str(&if names_it { line.replace(base, version) } else { line.to_owned() });
            new.push('\n');
        }
    }
    new.push_str(&format!("IMAGE_VERSION='{version}'\nOSTREE_VERSION='{version}'\n"));
    Ok(staged.write(OS_RELEASE, new.into_bytes(), 0o644)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_count_up_within_a_prefix() {
        let time = 1_770_000_000; // 2026-02-02
        for (prefix, parent, expected) in [
            ("22", None, "22"),
            ("22", Some("22"), "22.1"),
            ("22", Some("22.1"), "22.2"),
            ("22", Some("21.9"), "22"),
            ("22", Some("221"), "22"),
            ("22.1", Some("22.1.3"), "22.1.4"),
            ("12.<date:%Y%m%d>", None, "12.20260202.0"),
            ("12.<date:%Y%m%d>", Some("12.20260202.0"), "12.20260202.1"),
            ("12.<date:%Y%m%d>", Some("12.20260201.7"), "12.20260202.0"),
            ("12.<date:%Y>.1", None, "12.2026.1.0"),
        ] {
            assert_eq!(next_version(prefix, '.', parent, time), expected, "{prefix} after {parent:?}");
        }
        assert_eq!(next_version("22", '-', Some("22-1"), time), "22-2");
    }

    #[test]
    fn mutate_writes_the_version_into_os_release() {
        let mut staged = StagedTree::empty();
        let text = "PRETTY_NAME=\"Debian 12\"\nVERSION=\"12 (bookworm)\"\nVERSION_ID=\"12\"\nIMAGE_VERSION=1\n";
        staged.write(OS_RELEASE, text.as_bytes(), 0o644).expect("free");
        mutate(&mut staged, "12", "12.5").expect("edits");
        let new = staged.read_text(OS_RELEASE).expect("a file").expect("there");
        assert_eq!(
            new,
            "PRETTY_NAME=\"Debian 12.5\"\nVERSION=\"12.5 (bookworm)\"\nVERSION_ID=\"12\"\nIMAGE_VERSION='12.5'\nOSTREE_VERSION='12.5'\n"
        );
    }
}
