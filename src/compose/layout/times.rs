//! No time is later than that of the commit: what the run itself wrote would differ from one run to the next.

use super::super::draft::Draft;
use crate::model::Timestamp;

/// Brings later times down to `seconds`.
pub fn clamp(draft: &mut Draft, seconds: i64) {
    let limit = Timestamp { seconds, nanoseconds: 0 };
    let mut ids: Vec<_> = draft.below("/").into_iter().map(|(_, id)| id).collect();
    ids.push(draft.tree().root());
    for id in ids {
        let metadata = draft.metadata_mut(id);
        metadata.mtime = metadata.mtime.min(limit);
    }
}

/// Takes the right to write from every executable file.
pub fn make_executables_read_only(draft: &mut Draft) {
    for (_, id) in draft.below("/") {
        let is_file = draft.tree().node(id).kind.file_kind() == crate::model::FileKind::Regular;
        let metadata = draft.metadata_mut(id);
        if is_file && metadata.permissions & 0o111 != 0 {
            metadata.permissions &= !0o222;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_times_become_the_limit() {
        let mut draft = Draft::empty();
        draft.set_time(500);
        draft.write("/new", *b"x", 0o755).expect("free");
        draft.set_time(50);
        draft.write("/old", *b"x", 0o644).expect("free");
        clamp(&mut draft, 100);
        let mtime = |draft: &Draft, path: &str| draft.node(path).expect("there").metadata.mtime.seconds;
        assert_eq!((mtime(&draft, "/new"), mtime(&draft, "/old")), (100, 50));
        make_executables_read_only(&mut draft);
        let mode = |path: &str| draft.node(path).expect("there").metadata.permissions;
        assert_eq!((mode("/new"), mode("/old")), (0o555, 0o644));
    }
}
