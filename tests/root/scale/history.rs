//! Makes repositories with a long history by the library and one writer, since a process for each commit would take minutes.

use std::collections::BTreeMap;
use std::path::Path;

use sapwood::compose::{CommitRequest, ParentChoice, commit_tree};
use sapwood::disk::Wait;
use sapwood::image::Tree;
use sapwood::model::{CommitId, EntryName, Metadata, Node, NodeKind};
use sapwood::store::{Config, Store};

/// The ref of the history.
pub const REF: &str = "m";

/// Number of files in each commit that never change.
pub const CONSTANT_FILES: usize = 20;

/// Returns the content of a file that never changes.
pub fn constant(number: usize) -> Vec<u8> {
    format!("constant {number}\n").repeat(40).into_bytes()
}

/// Returns the content of `/f` in commit number `number`.
pub fn changing(number: usize) -> Vec<u8> {
    format!("version {number}\n").into_bytes()
}

/// Makes a repository with `count` commits, each with one new object. Returns the first commit and the bytes that were merged.
pub fn make(repository: &Path, count: usize) -> (CommitId, u64) {
    let store = Store::init(repository, &Config::default()).expect("an empty place");
    extend(&store, 0..count)
}

/// Adds commits to a repository.
pub fn extend(store: &Store, numbers: std::ops::Range<usize>) -> (CommitId, u64) {
    // A process that another test starts may hold the lock for a moment.
    let writer = store.writer(Wait::Announced(&|_| {})).expect("no other writer");
    let mut first = None;
    for number in numbers {
        let mut tree = Tree::new(Metadata::default());
        let mut add = |name: &str, content: &[u8]| {
            let content = writer.put(content.len() as u64, &mut &*content).expect("there is room");
            let node = Node { metadata: Metadata::default(), kind: NodeKind::Regular(content) };
            tree.insert(tree.root(), EntryName::new(name.as_bytes()).expect("legal"), node).expect("free");
        };
        (0..CONSTANT_FILES).for_each(|file| add(&format!("c{file}"), &constant(file)));
        add("f", &changing(number));
        let request = CommitRequest {
            ref_name: REF.parse().expect("legal"),
            subject: String::new(),
            version: None,
            timestamp: 1_700_000_000 + i64::try_from(number).expect("small"),
            parent: ParentChoice::Auto,
            skip_if_unchanged: false,
            extra: BTreeMap::new(),
        };
        let committed = commit_tree(&writer, &tree, &request).expect("there is room");
        first.get_or_insert(committed.id);
    }
    (first.expect("at least one"), writer.merged_bytes())
}
