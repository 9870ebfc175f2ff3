//! STUB until the real one is merged.
#![allow(missing_docs, clippy::all)]
use crate::model::*;
use std::num::NonZeroU32;
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    #[error("none")]
    NoSuchInode { ino: u64 },
    #[error("kind")]
    WrongKind { ino: u64, expected: FileKind, found: FileKind },
    #[error("broken")]
    NotAnImage,
}
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ino(NonZeroU32);
impl Ino {
    pub const fn get(self) -> u64 { self.0.get() as u64 }
    pub fn from_raw(n: u64) -> Option<Self> { NonZeroU32::new(u32::try_from(n).ok()?).map(Self) }
}
#[derive(Debug, Clone)]
pub struct Attributes { pub ino: Ino, pub kind: FileKind, pub permissions: u16, pub uid: u32, pub gid: u32, pub mtime: Timestamp, pub size: u64, pub nlink: u32, pub device: Option<DeviceNumber>, pub blocks: u64 }
pub struct DirEntry<'a> { pub index: u32, pub name: &'a [u8], pub ino: Ino, pub kind: FileKind }
#[derive(Clone)]
pub struct Image(Arc<Vec<N>>);
pub struct N { pub parent: u32, pub node: Node, pub children: Vec<(Vec<u8>, u32)> }
pub struct Tree(Vec<N>);
#[derive(Clone, Copy)]
pub struct NodeId(u32);
impl Tree {
    pub fn new(root: Metadata) -> Self { Self(vec![N { parent: 0, node: Node { metadata: root, kind: NodeKind::Directory }, children: vec![] }]) }
    pub fn root(&self) -> NodeId { NodeId(0) }
    pub fn insert(&mut self, parent: NodeId, name: EntryName, node: Node) -> Result<NodeId, ImageError> {
        let id = self.0.len() as u32;
        self.0.push(N { parent: parent.0, node, children: vec![] });
        let c = &mut self.0[parent.0 as usize].children;
        let at = c.partition_point(|(n, _)| &n[..] < name.as_bytes());
        c.insert(at, (name.as_bytes().to_vec(), id));
        Ok(NodeId(id))
    }
    pub fn into_image(self) -> Image { Image(Arc::new(self.0)) }
}
impl Image {
    fn n(&self, ino: Ino) -> Result<&N, ImageError> { self.0.get(ino.get() as usize - 1).ok_or(ImageError::NoSuchInode { ino: ino.get() }) }
    pub fn entries(&self) -> u32 { self.0.len() as u32 }
    pub fn has_xattrs(&self) -> bool { self.0.iter().any(|n| !n.node.metadata.xattrs.is_empty()) }
    pub fn root(&self) -> Ino { Ino(NonZeroU32::MIN) }
    pub fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Option<Ino>, ImageError> {
        let n = self.n(dir)?;
        if n.node.kind != NodeKind::Directory { return Err(ImageError::WrongKind { ino: dir.get(), expected: FileKind::Directory, found: n.node.kind.file_kind() }); }
        Ok(n.children.iter().find(|(x, _)| x == name).and_then(|(_, i)| Ino::from_raw(*i as u64 + 1)))
    }
    pub fn children(&self, dir: Ino, from: u32) -> Result<impl Iterator<Item = Result<DirEntry<'_>, ImageError>>, ImageError> {
        let n = self.n(dir)?;
        if n.node.kind != NodeKind::Directory { return Err(ImageError::WrongKind { ino: dir.get(), expected: FileKind::Directory, found: n.node.kind.file_kind() }); }
        Ok(n.children.iter().enumerate().skip(from as usize).map(move |(i, (name, id))| Ok(DirEntry { index: i as u32, name, ino: Ino::from_raw(*id as u64 + 1).unwrap_or(dir), kind: self.0[*id as usize].node.kind.file_kind() })))
    }
    pub fn attributes(&self, ino: Ino) -> Result<Attributes, ImageError> {
        let n = self.n(ino)?;
        let (size, device) = match &n.node.kind { NodeKind::Regular(c) => (c.size, None), NodeKind::Symlink(t) => (t.len() as u64, None), NodeKind::CharDevice(d) | NodeKind::BlockDevice(d) => (0, Some(*d)), _ => (0, None) };
        let m = &n.node.metadata;
        Ok(Attributes { ino, kind: n.node.kind.file_kind(), permissions: m.permissions, uid: m.uid, gid: m.gid, mtime: m.mtime, size, nlink: 1, device, blocks: size.div_ceil(512) })
    }
    pub fn parent(&self, ino: Ino) -> Result<Ino, ImageError> { Ok(Ino::from_raw(self.n(ino)?.parent as u64 + 1).unwrap_or(ino)) }
    pub fn symlink(&self, ino: Ino) -> Result<&[u8], ImageError> { match &self.n(ino)?.node.kind { NodeKind::Symlink(t) => Ok(t), k => Err(ImageError::WrongKind { ino: ino.get(), expected: FileKind::Symlink, found: k.file_kind() }) } }
    fn c(&self, ino: Ino) -> Result<&Content, ImageError> { match &self.n(ino)?.node.kind { NodeKind::Regular(t) => Ok(t), k => Err(ImageError::WrongKind { ino: ino.get(), expected: FileKind::Regular, found: k.file_kind() }) } }
    pub fn object(&self, ino: Ino) -> Result<Option<ObjectId>, ImageError> { Ok(self.c(ino)?.object) }
    pub fn extents(&self, ino: Ino) -> Result<Option<Vec<Extent>>, ImageError> { Ok(self.c(ino)?.extents.clone()) }
    pub fn xattrs(&self, ino: Ino) -> Result<Xattrs, ImageError> { Ok(self.n(ino)?.node.metadata.xattrs.clone()) }
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Option<&[u8]>, ImageError> { Ok(self.n(ino)?.node.metadata.xattrs.get(name)) }
    pub fn resolve(&self, path: &ImagePath) -> Result<Option<Ino>, ImageError> {
        let mut at = self.root();
        for c in path.components() { match self.lookup(at, c.as_bytes())? { Some(i) => at = i, None => return Ok(None) } }
        Ok(Some(at))
    }
}
