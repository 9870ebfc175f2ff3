//! Random trees: a list of steps that builds one, with so few names that steps often meet.

use proptest::collection::vec;
use proptest::prelude::*;
use sapwood::image::{NodeId, Tree};
use sapwood::model::{
    BLOCK_SIZE, BlockId, Content, DeviceNumber, EntryName, Extent, LARGE_OBJECT, Metadata, Node, NodeKind, ObjectId,
    Timestamp, Xattrs,
};

/// A step that builds a tree. Numbers choose among what exists, modulo its count.
#[derive(Debug, Clone)]
pub enum Step {
    Insert { directory: usize, name: EntryName, node: Node },
    Link { directory: usize, name: EntryName, target: usize },
    Remove { directory: usize, name: EntryName },
}

/// Builds the tree. Steps that are not possible are skipped.
pub fn build(root: &Metadata, steps: &[Step]) -> Tree {
    let mut tree = Tree::new(root.clone());
    let mut directories = vec![tree.root()];
    let mut others: Vec<NodeId> = Vec::new();
    for step in steps {
        match step {
            Step::Insert { directory, name, node } => {
                let parent = directories[directory % directories.len()];
                let Ok(id) = tree.insert(parent, name.clone(), node.clone()) else { continue };
                if node.kind == NodeKind::Directory { directories.push(id) } else { others.push(id) }
            }
            Step::Link { directory, name, target } if !others.is_empty() => {
                let parent = directories[directory % directories.len()];
                let _ = tree.link(parent, name.clone(), others[target % others.len()]);
            }
            Step::Link { .. } => {}
            Step::Remove { directory, name } => {
                // Nodes below it stay in the lists: adding to a removed directory must do no harm.
                tree.remove(directories[directory % directories.len()], name);
            }
        }
    }
    tree
}

pub fn steps(count: usize) -> impl Strategy<Value = Vec<Step>> {
    vec(step(), 0..count)
}

pub fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (any::<usize>(), name(), node()).prop_map(|(directory, name, node)| Step::Insert { directory, name, node }),
        2 => (any::<usize>(), name(), any::<usize>())
            .prop_map(|(directory, name, target)| Step::Link { directory, name, target }),
        1 => (any::<usize>(), name()).prop_map(|(directory, name)| Step::Remove { directory, name }),
    ]
}

fn name() -> impl Strategy<Value = EntryName> {
    let bytes = prop_oneof![
        8 => vec(b'a'..=b'e', 1..3),
        1 => vec(prop_oneof![1..=b'.', b'0'..=255], 1..=255),
    ];
    bytes.prop_filter_map("legal", |bytes| EntryName::new(bytes).ok())
}

pub fn metadata() -> impl Strategy<Value = Metadata> {
    let mtime = (prop_oneof![Just(0), any::<i64>()], prop_oneof![Just(0), 0..1_000_000_000_u32])
        .prop_map(|(seconds, nanoseconds)| Timestamp { seconds, nanoseconds });
    (0..=0o7777_u16, id(), id(), mtime, xattrs()).prop_map(|(permissions, uid, gid, mtime, xattrs)| Metadata {
        permissions,
        uid,
        gid,
        mtime,
        xattrs,
    })
}

fn id() -> impl Strategy<Value = u32> {
    prop_oneof![4 => Just(0), 1 => any::<u32>()]
}

fn xattrs() -> impl Strategy<Value = Xattrs> {
    let name = prop_oneof![Just("security.selinux"), Just("user.a"), Just("user.b")];
    let value = prop_oneof![3 => vec(b'0'..=b'1', 0..2), 1 => vec(any::<u8>(), 0..70)];
    let pairs = prop_oneof![2 => Just(Vec::new()).boxed(), 1 => vec((name, value), 0..3).boxed()];
    pairs.prop_map(|pairs| {
        let mut xattrs = Xattrs::default();
        pairs.iter().for_each(|(name, value)| xattrs.set(name.as_bytes(), value).expect("legal"));
        xattrs
    })
}

fn node() -> impl Strategy<Value = Node> {
    let device = || (any::<u32>(), any::<u32>()).prop_map(|(major, minor)| DeviceNumber { major, minor });
    let target = vec(prop_oneof![b'a'..=b'c', 1..=255_u8], 1..40).prop_map(|target| NodeKind::Symlink(target.into()));
    let kind = prop_oneof![
        6 => Just(NodeKind::Directory),
        8 => content().prop_map(NodeKind::Regular),
        2 => target,
        1 => device().prop_map(NodeKind::CharDevice),
        1 => device().prop_map(NodeKind::BlockDevice),
        1 => Just(NodeKind::Fifo),
        1 => Just(NodeKind::Socket),
    ];
    (metadata(), kind).prop_map(|(metadata, kind)| Node { metadata, kind })
}

/// Returns a content without bytes: its digests depend on the number only, so that equal numbers agree in everything that an
/// object implies.
pub fn numbered_content(number: u8) -> Content {
    const SIZES: [u64; 8] = [0, 1, 5, 4096, LARGE_OBJECT, LARGE_OBJECT + 1, 3 * BLOCK_SIZE + LARGE_OBJECT, 5 << 20];
    let size = SIZES[usize::from(number) % SIZES.len()];
    let blocks = if size > LARGE_OBJECT { size.div_ceil(BLOCK_SIZE) } else { 0 };
    Content {
        object: (size > 0).then(|| ObjectId::of(&[number])),
        size,
        blocks: (0..blocks).map(|block| BlockId::of(&[&[number][..], &block.to_le_bytes()].concat())).collect(),
        extents: None,
    }
}

fn content() -> impl Strategy<Value = Content> {
    (any::<u8>(), prop_oneof![3 => Just(None), 1 => vec(any::<u64>(), 0..8).prop_map(Some)]).prop_map(
        |(number, cuts)| {
            let mut content = numbered_content(number);
            content.extents = cuts.and_then(|cuts| extents(content.size, cuts));
            content
        },
    )
}

/// Returns the extents between cuts, every second piece being data; `None` if there is no hole.
fn extents(size: u64, mut cuts: Vec<u64>) -> Option<Vec<Extent>> {
    if size == 0 {
        return None;
    }
    cuts.iter_mut().for_each(|cut| *cut %= size + 1);
    cuts.sort_unstable();
    cuts.dedup();
    let pieces = cuts.chunks_exact(2).map(|cut| Extent { offset: cut[0], length: cut[1] - cut[0] });
    let extents: Vec<_> = pieces.collect();
    (extents != [Extent { offset: 0, length: size }]).then_some(extents)
}
