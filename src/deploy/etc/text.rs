//! Merges text files line by line, and returns their differences.
//!
//! *Not here*: reading the files. Everything in this file is pure.
//!
//! *Used by* `plan`, `edit` and `cli`.

/// The largest text in bytes: a larger file is not configuration that should be merged by line.
const TEXT_BYTES_MAX: usize = 4 << 20;

/// Returns whether bytes are text: they have no NUL, and there are at most [`TEXT_BYTES_MAX`].
pub(crate) fn is_text(bytes: &[u8]) -> bool {
    bytes.len() <= TEXT_BYTES_MAX && !bytes.contains(&0)
}

/// The result of a merge of texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextMerge {
    /// The text with the changes of both sides.
    Clean(Vec<u8>),
    /// Both sides changed the same lines: the text with both versions between conflict markers.
    Conflict(Vec<u8>),
    /// One of the versions is not text.
    Binary,
}

/// Merges two versions of the text `old`.
#[must_use]
pub fn merge(old: &[u8], local: &[u8], new: &[u8]) -> TextMerge {
    if ![old, local, new].into_iter().all(is_text) {
        return TextMerge::Binary;
    }
    match diffy::merge_bytes(old, local, new) {
        Ok(merged) => TextMerge::Clean(merged),
        Err(marked) => TextMerge::Conflict(marked),
    }
}

/// Returns the difference between two texts as `diff -u` prints it; `None` if one of them is not text. The texts come with the
/// names in the header.
#[must_use]
pub fn difference(old: (&str, &[u8]), new: (&str, &[u8])) -> Option<Vec<u8>> {
    if !is_text(old.1) || !is_text(new.1) {
        return None;
    }
    let mut options = diffy::DiffOptions::new();
    options.set_original_filename(old.0.to_owned()).set_modified_filename(new.0.to_owned());
    Some(options.create_patch_bytes(old.1, new.1).to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merge_takes_changes_of_different_lines() {
        let old = b"a\nb\nc\nd\ne\n";
        assert_eq!(merge(old, b"A\nb\nc\nd\ne\n", b"a\nb\nc\nd\nE\n"), TextMerge::Clean(b"A\nb\nc\nd\nE\n".to_vec()));
        assert_eq!(merge(old, old, b"x\n"), TextMerge::Clean(b"x\n".to_vec()));
        assert!(matches!(merge(old, b"1\n", b"2\n"), TextMerge::Conflict(_)));
        assert_eq!(merge(b"", b"\0", b""), TextMerge::Binary);
    }

    #[test]
    fn difference_has_the_format_of_diff() {
        let patch = difference(("a/x", b"1\n2\n"), ("b/x", b"1\n3\n")).expect("texts");
        assert_eq!(String::from_utf8_lossy(&patch), "--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n 1\n-2\n+3\n");
        assert_eq!(difference(("a", b"\0"), ("b", b"")), None);
    }
}
