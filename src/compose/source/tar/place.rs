//! Puts members into a tree: parents made up, earlier entries replaced, hard links followed, ACL names looked up.
//!
//! Knows nothing of the archive's bytes. Invariant: every path stays inside the tree, since it is an [`ImagePath`], and
//! no symbolic link is ever followed.

use std::collections::HashMap;

use super::archive::Member;
use super::pax::Records;
use crate::image::{NodeId, Tree, TreeError};
use crate::model::{
    ACL_ACCESS, ACL_DEFAULT, AclError, AclSubject, EntryName, ImagePath, Metadata, Node, NodeKind, PathError, PosixAcl,
    SYMLINK_MAX, Timestamp, XattrError, Xattrs,
};

/// Permissions of a directory that the archive has no entry for.
const DEFAULT_DIRECTORY: u16 = 0o755;

const SELINUX: &[u8] = b"security.selinux";

/// Why an entry has no place in the tree.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// The path is not one inside a tree, for example because of `..`.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The path leads through something that is not a directory.
    #[error("'{0}' is not a directory")]
    NotADirectory(ImagePath),
    /// A directory with entries would be replaced by something else.
    #[error("a directory that is not empty has the same path")]
    DirectoryInTheWay,
    /// The top of the archive is not a directory.
    #[error("the top of a tree must be a directory")]
    Root,
    /// The target of a hard link is not in the archive before the link.
    #[error("the target '{0}' of the hard link is not in the archive before it")]
    LinkTarget(ImagePath),
    /// A symbolic link has an impossible target.
    #[error("a symbolic link cannot lead to {0} bytes of text, or to text with NUL")]
    Symlink(usize),
    /// An extended attribute that cannot exist.
    #[error(transparent)]
    Xattr(#[from] XattrError),
    /// An ACL that cannot exist, or that names somebody the archive gives no number for.
    #[error(transparent)]
    Acl(#[from] AclError),
    /// The tree refuses the entry.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// A tree under construction.
pub(super) struct Placer {
    tree: Tree,
    owner: Option<(u32, u32)>,
    names: Names,
    /// ACLs that name users: their numbers may only come up later in the archive.
    pending: Vec<PendingAcl>,
}

struct PendingAcl {
    node: NodeId,
    entry: ImagePath,
    attribute: &'static [u8],
    text: Vec<u8>,
}

impl Placer {
    pub(super) fn new(owner: Option<(u32, u32)>) -> Self {
        let tree = Tree::new(default_directory(owner));
        Self { tree, owner, names: Names::default(), pending: Vec::new() }
    }

    /// The numbers of users and groups, to be added to.
    pub(super) fn names(&mut self) -> &mut Names {
        &mut self.names
    }

    /// Puts in an entry that is not a hard link.
    pub(super) fn place(&mut self, path: ImagePath, member: &Member, kind: NodeKind) -> Result<(), EntryError> {
        self.names.learn(AclSubject::User, &member.user, member.uid);
        self.names.learn(AclSubject::Group, &member.group, member.gid);
        if let NodeKind::Symlink(target) = &kind
            && (target.is_empty() || target.len() > SYMLINK_MAX || target.contains(&0))
        {
            return Err(EntryError::Symlink(target.len()));
        }
        let (uid, gid) = self.owner.unwrap_or((member.uid, member.gid));
        let metadata = Metadata {
            permissions: member.permissions,
            uid,
            gid,
            mtime: member.mtime,
            xattrs: attributes(&member.records)?,
        };
        let node = self.insert(&path, Node { metadata, kind })?;
        self.set_acls(node, &path, &member.records)
    }

    /// Gives an entry one more name.
    pub(super) fn link(&mut self, path: &ImagePath, target: &ImagePath) -> Result<(), EntryError> {
        let found = self.tree.resolve(target).ok_or_else(|| EntryError::LinkTarget(target.clone()))?;
        let (parent, name) = self.parent(path)?;
        if self.tree.child(parent, name.as_bytes()) == Some(found) {
            return Ok(());
        }
        self.make_room(parent, &name)?;
        Ok(self.tree.link(parent, name, found)?)
    }

    /// The finished tree; or the entry whose ACL names an unknown user.
    pub(super) fn finish(mut self) -> Result<Tree, (ImagePath, EntryError)> {
        for pending in std::mem::take(&mut self.pending) {
            let PendingAcl { node, entry, attribute, text } = pending;
            let set = PosixAcl::parse(&text, &|subject, name| self.names.number(subject, name))
                .map_err(EntryError::from)
                .and_then(|acl| set_acl(&mut self.tree.node_mut(node).metadata.xattrs, attribute, &acl));
            set.map_err(|error| (entry, error))?;
        }
        Ok(self.tree)
    }

    fn insert(&mut self, path: &ImagePath, node: Node) -> Result<NodeId, EntryError> {
        let is_directory = node.kind == NodeKind::Directory;
        let existing = if path.is_root() {
            if !is_directory {
                return Err(EntryError::Root);
            }
            Some(self.tree.root())
        } else {
            self.tree.resolve(path)
        };
        if let Some(existing) = existing
            && is_directory
            && self.tree.node(existing).kind == NodeKind::Directory
        {
            self.tree.node_mut(existing).metadata = node.metadata;
            return Ok(existing);
        }
        let (parent, name) = self.parent(path)?;
        self.make_room(parent, &name)?;
        Ok(self.tree.insert(parent, name, node)?)
    }

    /// Removes what a later entry replaces.
    fn make_room(&mut self, parent: NodeId, name: &EntryName) -> Result<(), EntryError> {
        if let Some(existing) = self.tree.child(parent, name.as_bytes()) {
            if self.tree.children(existing).next().is_some() {
                return Err(EntryError::DirectoryInTheWay);
            }
            self.tree.remove(parent, name);
        }
        Ok(())
    }

    /// The directory of an entry, made if need be, and the entry's name in it.
    fn parent(&mut self, path: &ImagePath) -> Result<(NodeId, EntryName), EntryError> {
        let (name, parents) = path.components().split_last().ok_or(EntryError::Root)?;
        let mut directory = self.tree.root();
        for (depth, parent) in parents.iter().enumerate() {
            directory = match self.tree.child(directory, parent.as_bytes()) {
                Some(node) => node,
                None => {
                    let node = Node { metadata: default_directory(self.owner), kind: NodeKind::Directory };
                    self.tree.insert(directory, parent.clone(), node)?
                }
            };
            if self.tree.node(directory).kind != NodeKind::Directory {
                let parents = parents[..=depth].iter().cloned();
                return Err(EntryError::NotADirectory(parents.fold(ImagePath::root(), |path, name| path.join(name))));
            }
        }
        Ok((directory, name.clone()))
    }

    /// ACLs come as attributes, as text, or as both; the attribute is exact and wins.
    fn set_acls(&mut self, node: NodeId, path: &ImagePath, records: &Records) -> Result<(), EntryError> {
        for (attribute, text) in [(ACL_ACCESS, &records.acl_access), (ACL_DEFAULT, &records.acl_default)] {
            let metadata = &mut self.tree.node_mut(node).metadata;
            let Some(text) = text.as_ref().filter(|_| metadata.xattrs.get(attribute).is_none()) else { continue };
            match PosixAcl::parse(text, &|_, _| None) {
                Ok(acl) => set_acl(&mut metadata.xattrs, attribute, &acl)?,
                Err(AclError::UnknownName { .. }) => {
                    self.pending.push(PendingAcl { node, entry: path.clone(), attribute, text: text.clone() });
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn set_acl(xattrs: &mut Xattrs, attribute: &'static [u8], acl: &PosixAcl) -> Result<(), EntryError> {
    // Linux keeps an access ACL that the mode can express in the mode alone.
    if attribute == ACL_ACCESS && acl.is_minimal() {
        return Ok(());
    }
    Ok(xattrs.set(attribute, &acl.to_xattr())?)
}

fn default_directory(owner: Option<(u32, u32)>) -> Metadata {
    let (uid, gid) = owner.unwrap_or_default();
    Metadata { permissions: DEFAULT_DIRECTORY, uid, gid, mtime: Timestamp::default(), xattrs: Xattrs::default() }
}

fn attributes(records: &Records) -> Result<Xattrs, XattrError> {
    let mut all = records.libarchive_xattrs.clone();
    all.extend(records.xattrs.iter().map(|(name, value)| (name.clone(), value.clone())));
    if let Some(label) = &records.selinux {
        // The record leaves out the NUL that the attribute ends with.
        all.entry(SELINUX.to_vec()).or_insert_with(|| [label, &[0][..]].concat());
    }
    Xattrs::new(all.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
}

/// The numbers of users and groups as far as the archive tells them.
#[derive(Default)]
pub(super) struct Names {
    users: HashMap<Vec<u8>, u32>,
    groups: HashMap<Vec<u8>, u32>,
}

impl Names {
    fn table(&mut self, subject: AclSubject) -> &mut HashMap<Vec<u8>, u32> {
        match subject {
            AclSubject::User => &mut self.users,
            AclSubject::Group => &mut self.groups,
        }
    }

    /// Takes the name and number of an owner: both are of the machine that also wrote the ACLs.
    fn learn(&mut self, subject: AclSubject, name: &[u8], number: u32) {
        if !name.is_empty() && !self.table(subject).contains_key(name) {
            self.table(subject).insert(name.to_vec(), number);
        }
    }

    /// Takes the lines of a `passwd` or `group` file for names that own nothing in the archive.
    pub(super) fn learn_file(&mut self, subject: AclSubject, file: &[u8]) {
        for line in file.split(|byte| *byte == b'\n') {
            let mut fields = line.split(|byte| *byte == b':');
            let (name, number) = (fields.next().unwrap_or_default(), fields.nth(1).unwrap_or_default());
            if let Some(number) = std::str::from_utf8(number).ok().and_then(|number| number.parse().ok()) {
                self.learn(subject, name, number);
            }
        }
    }

    fn number(&self, subject: AclSubject, name: &[u8]) -> Option<u32> {
        match subject {
            AclSubject::User => self.users.get(name).copied(),
            AclSubject::Group => self.groups.get(name).copied(),
        }
    }
}
