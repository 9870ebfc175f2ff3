//! The floor: a FUSE mount with the tree's structure that does no work. All answers are ready in memory, and files read as
//! zeros. Its times are those of the kernel's side of FUSE; nothing built on FUSE can be faster.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, InitFlags, KernelConfig, LockOwner,
    MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEntry, ReplyOpen, Request,
    SessionACL,
};

/// Validity of attributes and entries: for ever, since nothing changes.
const TTL: Duration = Duration::from_secs(1 << 32);
/// The largest READ that the kernel sends.
const READ_MAX: usize = 1 << 20;

struct Floor {
    /// Nodes by inode number less one; children have larger numbers than their parent.
    nodes: Vec<Node>,
    zeros: Vec<u8>,
}

struct Node {
    attributes: FileAttr,
    children: Vec<(OsString, INodeNo)>,
    by_name: HashMap<OsString, INodeNo>,
    target: Vec<u8>,
}

/// Reads the structure of `source` and serves it at `target` until it is unmounted.
pub fn serve(source: &Path, target: &Path) -> anyhow::Result<()> {
    let mut floor = Floor { nodes: Vec::new(), zeros: vec![0; READ_MAX] };
    floor.add(source, INodeNo::ROOT)?;
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("floor".into()),
        MountOption::RO,
        MountOption::Suid,
        MountOption::Dev,
        MountOption::DefaultPermissions,
    ];
    config.acl = SessionACL::All;
    config.n_threads = Some(2);
    Ok(fuser::mount(floor, target, &config)?)
}

impl Floor {
    fn add(&mut self, path: &Path, number: INodeNo) -> anyhow::Result<()> {
        let metadata = std::fs::symlink_metadata(path)?;
        let index = self.nodes.len();
        let target = if metadata.is_symlink() { std::fs::read_link(path)?.into_os_string() } else { OsString::new() };
        self.nodes.push(Node {
            attributes: attributes(&metadata, number),
            children: Vec::new(),
            by_name: HashMap::new(),
            target: target.into_encoded_bytes(),
        });
        if metadata.is_dir() {
            let mut entries: Vec<_> = std::fs::read_dir(path)?.collect::<Result<_, _>>()?;
            entries.sort_by_key(|entry| (entry.file_name(), entry.ino()));
            for entry in entries {
                let child = INodeNo(self.nodes.len() as u64 + 1);
                self.nodes[index].children.push((entry.file_name(), child));
                self.nodes[index].by_name.insert(entry.file_name(), child);
                self.add(&entry.path(), child)?;
            }
        }
        Ok(())
    }

    fn node(&self, number: INodeNo) -> Option<&Node> {
        usize::try_from(number.0).ok().and_then(|number| self.nodes.get(number.checked_sub(1)?))
    }
}

fn attributes(metadata: &std::fs::Metadata, number: INodeNo) -> FileAttr {
    let kind = match metadata.file_type() {
        kind if kind.is_dir() => FileType::Directory,
        kind if kind.is_symlink() => FileType::Symlink,
        _ => FileType::RegularFile,
    };
    FileAttr {
        ino: number,
        size: metadata.size(),
        blocks: metadata.blocks(),
        atime: SystemTime::UNIX_EPOCH,
        mtime: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind,
        perm: (metadata.mode() & 0o7777) as u16,
        nlink: 1,
        uid: metadata.uid(),
        gid: metadata.gid(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for Floor {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Flags that the kernel does not know are not requested; the floor is then that kernel's.
        for flag in [
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_NO_OPEN_SUPPORT,
            InitFlags::FUSE_NO_OPENDIR_SUPPORT,
        ] {
            let _ = config.add_capabilities(flag);
        }
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.node(parent).and_then(|node| self.node(*node.by_name.get(name)?)) {
            Some(node) => reply.entry(&TTL, &node.attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _request: &Request, number: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.node(number) {
            Some(node) => reply.attr(&TTL, &node.attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn readlink(&self, _request: &Request, number: INodeNo, reply: ReplyData) {
        match self.node(number) {
            Some(node) => reply.data(&node.target),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _request: &Request, _number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _request: &Request, _number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let left = self.node(number).map_or(0, |node| node.attributes.size.saturating_sub(offset));
        let length = usize::try_from(left.min(size.into())).map_or(READ_MAX, |length| length.min(READ_MAX));
        reply.data(&self.zeros[..length]);
    }

    fn readdir(&self, _request: &Request, number: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let Some(node) = self.node(number) else { return reply.error(Errno::ENOENT) };
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(node.children.len());
        for (index, (name, child)) in node.children.iter().enumerate().skip(start) {
            let kind = self.node(*child).map_or(FileType::RegularFile, |child| child.attributes.kind);
            if reply.add(*child, index as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let Some(node) = self.node(number) else { return reply.error(Errno::ENOENT) };
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(node.children.len());
        for (index, (name, child)) in node.children.iter().enumerate().skip(start) {
            let Some(child_node) = self.node(*child) else { continue };
            if reply.add(*child, index as u64 + 1, name, &TTL, &child_node.attributes, Generation(0)) {
                break;
            }
        }
        reply.ok();
    }
}
