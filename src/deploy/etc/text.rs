//! Three-way merges and differences of text files, line by line. Pure.

/// Larger files are no configuration that anybody wants to see merged.
const TEXT_MAX: usize = 4 << 20;

/// Whether bytes are text: no NUL, not huge.
#[must_use]
pub fn is_text(bytes: &[u8]) -> bool {
    bytes.len() <= TEXT_MAX && !bytes.contains(&0)
}

/// What a merge of texts came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextMerge {
    /// Both changes are in.
    Clean(Vec<u8>),
    /// Both changed the same lines: the text with both versions between marks.
    Conflict(Vec<u8>),
    /// One of them is no text.
    Binary,
}

/// Merges two descendants of a text.
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

/// The difference between two texts as `diff -u` prints it; `None` when one of them is no text.
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
    fn changes_in_different_places_are_both_in() {
        let old = b"a\nb\nc\nd\ne\n";
        assert_eq!(merge(old, b"A\nb\nc\nd\ne\n", b"a\nb\nc\nd\nE\n"), TextMerge::Clean(b"A\nb\nc\nd\nE\n".to_vec()));
        assert_eq!(merge(old, old, b"x\n"), TextMerge::Clean(b"x\n".to_vec()));
        assert!(matches!(merge(old, b"1\n", b"2\n"), TextMerge::Conflict(_)));
        assert_eq!(merge(b"", b"\0", b""), TextMerge::Binary);
    }

    #[test]
    fn differences_are_those_of_diff() {
        let patch = difference(("a/x", b"1\n2\n"), ("b/x", b"1\n3\n")).expect("texts");
        assert_eq!(String::from_utf8_lossy(&patch), "--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n 1\n-2\n+3\n");
        assert_eq!(difference(("a", b"\0"), ("b", b"")), None);
    }
}
