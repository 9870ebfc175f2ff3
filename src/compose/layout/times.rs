//! Limits all times to that of the commit: the times of files that the run itself wrote differ from one run to the next.

use super::super::staged::StagedTree;
use crate::model::Timestamp;

/// Sets every time later than `seconds` to `seconds`.
pub(crate) fn clamp(staged: &mut StagedTree, seconds: i64) {
    let limit = Timestamp { seconds, nanoseconds: 0 };
    let mut ids: Vec<_> = staged.descendants("/").into_iter().map(|(_, id)| id).collect();
    ids.push(staged.tree().root());
    for id in ids {
        let metadata = staged.metadata_mut(id);
        metadata.mtime = metadata.mtime.min(limit);
    }
}

/// Removes the write permissions of every executable file.
pub(crate) fn make_executables_read_only(staged: &mut StagedTree) {
    for (_, id) in staged.descendants("/") {
        let is_file = staged.tree().node(id).kind.file_kind() == crate::model::FileKind::Regular;
        let metadata = staged.metadata_mut(id);
        if is_file && metadata.permissions & 0o111 != 0 {
            metadata.permissions &= !0o222;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clamp_lowers_only_later_times() {
        let mut staged = StagedTree::empty();
        staged.set_edit_time(500);
        staged.write("/new", *b"x", 0o755).expect("free");
        staged.set_edit_time(50);
        staged.write("/old", *b"x", 0o644).expect("free");
        clamp(&mut staged, 100);
        let mtime = |staged: &StagedTree, path: &str| staged.node(path).expect("there").metadata.mtime.seconds;
        assert_eq!((mtime(&staged, "/new"), mtime(&staged, "/old")), (100, 50));
        make_executables_read_only(&mut staged);
        let mode = |path: &str| staged.node(path).expect("there").metadata.permissions;
        assert_eq!((mode("/new"), mode("/old")), (0o555, 0o644));
    }
}
