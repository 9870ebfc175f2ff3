//! Adds members to a tree: creates missing parents, replaces earlier entries, resolves hard links and names in ACLs.
//!
//! *Not here*: the bytes of the archive (`archive`).
//!
//! *Invariants*: every path stays inside the tree, since it is an [`ImagePath`], and no symbolic link is followed.
//!
//! *Used by* `read_tar`.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::super::foreign_xattrs::ForeignXattrs;
use super::archive::Member;
use super::pax::PaxRecords;
use crate::disk;
use crate::image::{NodeId, Tree, TreeError};
use crate::model::{
    ACL_ACCESS, ACL_DEFAULT, AclError, AclName, AclSubject, Content, EntryName, ImagePath, Metadata, Node, NodeKind,
    PathError, PosixAcl, SYMLINK_MAX, Timestamp, XattrError, Xattrs,
};

/// Permissions of a directory for which the archive has no entry.
const DEFAULT_DIRECTORY_MODE: u16 = 0o755;

/// Permissions of a symbolic link, as Linux has them.
const SYMLINK_MODE: u16 = 0o777;

const SELINUX_ATTRIBUTE: &[u8] = b"security.selinux";

/// Why an entry cannot be added to the tree.
#[derive(Debug, thiserror::Error)]
pub enum TarEntryError {
    /// The path does not lie inside a tree, for example because of `..`.
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
    #[error("the target '{0}' of the hard link is not in the archive before it, or left out")]
    LinkTarget(ImagePath),
    /// A symbolic link has an impossible target.
    #[error("a symbolic link cannot lead to {0} bytes of text, or to text with NUL")]
    Symlink(usize),
    /// An extended attribute is invalid.
    #[error(transparent)]
    Xattr(#[from] XattrError),
    /// An ACL is invalid, or names a user or group for which the archive has no number.
    #[error(transparent)]
    Acl(#[from] AclError),
    /// A name says that an entry of a lower layer is removed, which only programs for container images do.
    #[error(
        "it is a whiteout of a layer of a container image, which removes '{0}' from the layers below; they are not applied here"
    )]
    Whiteout(String),
    /// The archive has the layers of a container image, not a tree.
    #[error("this is the archive of a container image: its files are in further archives, one for each layer")]
    ContainerImage,
    /// The tree refuses the entry.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// A tree under construction.
pub(super) struct TreeBuilder {
    pub(super) tree: Tree,
    /// What the archive has itself, if it is a layer of a container image.
    pub(super) layer: Option<Layer>,
    owner: Option<(u32, u32)>,
    account_ids: AccountIds,
    /// ACLs with names, whose numbers may appear only later in the archive.
    pending: Vec<PendingAcl>,
    foreign: ForeignXattrs,
}

/// The entries that the layer has, and directories with such entries.
#[derive(Debug, Default)]
pub(super) struct Layer {
    pub(super) own: HashSet<NodeId>,
}

impl Layer {
    fn add(&mut self, node: NodeId) {
        self.own.insert(node);
    }
}

/// Whether missing directories are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    Made,
    /// The path then leads nowhere.
    Left,
}

struct PendingAcl {
    node: NodeId,
    entry: ImagePath,
    attribute: &'static [u8],
    text: Vec<u8>,
}

impl TreeBuilder {
    /// Begins with the tree of earlier archives, or with an empty one.
    pub(super) fn new(lower: Option<Tree>, owner: Option<(u32, u32)>, layer: Option<Layer>) -> Self {
        Self {
            tree: lower.unwrap_or_else(|| Tree::new(default_directory(owner))),
            layer,
            owner,
            account_ids: AccountIds::default(),
            pending: Vec::new(),
            foreign: ForeignXattrs::default(),
        }
    }

    /// Returns the known numbers of users and groups, so that more can be added.
    pub(super) fn account_ids(&mut self) -> &mut AccountIds {
        &mut self.account_ids
    }

    /// Adds an entry that is not a hard link.
    pub(super) fn add_member(&mut self, path: ImagePath, member: &Member, kind: NodeKind) -> Result<(), TarEntryError> {
        self.account_ids.add(AclSubject::User, &member.user, member.uid);
        self.account_ids.add(AclSubject::Group, &member.group, member.gid);
        if let NodeKind::Symlink(target) = &kind
            && (target.is_empty() || target.len() > SYMLINK_MAX || target.contains(&0))
        {
            return Err(TarEntryError::Symlink(target.len()));
        }
        let (uid, gid) = self.owner.unwrap_or((member.uid, member.gid));
        let metadata = Metadata {
            // Linux has one mode for all symbolic links, whatever a program of another system wrote.
            permissions: if matches!(kind, NodeKind::Symlink(_)) { SYMLINK_MODE } else { member.permissions },
            uid,
            gid,
            mtime: member.mtime,
            xattrs: self.collect_xattrs(&member.records)?,
        };
        let node = self.insert(&path, Node { metadata, kind })?;
        self.set_acls(node, &path, &member.records)
    }

    /// Adds a hard link to an entry. If the archive has the content of the file with this link, it becomes that of the file.
    pub(super) fn add_link(
        &mut self,
        path: &ImagePath,
        target: &ImagePath,
        content: Option<Content>,
    ) -> Result<(), TarEntryError> {
        let found = self.resolve(target)?.ok_or_else(|| TarEntryError::LinkTarget(target.clone()))?;
        let node = self.tree.node_mut(found);
        if let (NodeKind::Regular(known), Some(content)) = (&mut node.kind, content) {
            *known = content;
        }
        let (parent, name) = self.parent_directory(path)?;
        if self.tree.child(parent, name.as_bytes()) == Some(found) {
            return Ok(());
        }
        self.remove_existing(parent, &name)?;
        if let Some(layer) = &mut self.layer {
            layer.add(found);
        }
        Ok(self.tree.link(parent, name, found)?)
    }

    /// Returns the finished tree. Fails with the entry that cannot be finished.
    pub(super) fn finish(mut self) -> Result<Tree, (ImagePath, TarEntryError)> {
        self.foreign.warn();
        if self.layer.is_none() && self.is_container_image() {
            return Err((ImagePath::root(), TarEntryError::ContainerImage));
        }
        let names = std::cell::RefCell::new(ForeignNames::default());
        for pending in std::mem::take(&mut self.pending) {
            let PendingAcl { node, entry, attribute, text } = pending;
            let number = |subject, name: &[u8]| {
                let known = self.account_ids.number(subject, name);
                known.map_or_else(|| names.borrow_mut().resolve(subject, name), AclName::Number)
            };
            let set = PosixAcl::parse(&text, &number)
                .map_err(TarEntryError::from)
                .and_then(|acl| set_acl(&mut self.tree.node_mut(node).metadata.xattrs, attribute, &acl));
            set.map_err(|error| (entry, error))?;
        }
        names.into_inner().warn();
        Ok(self.tree)
    }

    /// Returns whether this is what `docker save` or a program for OCI images wrote: not a tree, but archives of its layers.
    fn is_container_image(&self) -> bool {
        let root = self.tree.root();
        let has = |name: &[u8]| self.tree.child(root, name).is_some();
        let has_layer = || self.tree.children(root).any(|(_, child)| self.tree.child(child, b"layer.tar").is_some());
        (has(b"oci-layout") && has(b"blobs")) || (has(b"manifest.json") && (has(b"blobs") || has_layer()))
    }

    /// Adds an entry, or changes a directory, and notes that the archive has it.
    fn insert(&mut self, path: &ImagePath, node: Node) -> Result<NodeId, TarEntryError> {
        let inserted = self.insert_or_change(path, node)?;
        if let Some(layer) = &mut self.layer {
            layer.add(inserted);
        }
        Ok(inserted)
    }

    /// Returns the entry of a path, whose last part is not followed.
    fn resolve(&mut self, path: &ImagePath) -> Result<Option<NodeId>, TarEntryError> {
        let Some((name, parents)) = path.components().split_last().filter(|_| self.layer.is_some()) else {
            return Ok(self.tree.resolve(path));
        };
        let parent = self.follow(parents, Missing::Left, &|_, _| false)?;
        Ok(parent.and_then(|parent| self.tree.child(parent, name.as_bytes())))
    }

    fn insert_or_change(&mut self, path: &ImagePath, node: Node) -> Result<NodeId, TarEntryError> {
        let is_directory = node.kind == NodeKind::Directory;
        let existing = if path.is_root() {
            if !is_directory {
                return Err(TarEntryError::Root);
            }
            Some(self.tree.root())
        } else {
            self.resolve(path)?
        };
        if let Some(existing) = existing
            && is_directory
            && self.tree.node(existing).kind == NodeKind::Directory
        {
            self.tree.node_mut(existing).metadata = node.metadata;
            return Ok(existing);
        }
        let (parent, name) = self.parent_directory(path)?;
        self.remove_existing(parent, &name)?;
        Ok(self.tree.insert(parent, name, node)?)
    }

    /// Removes the entry that a later one replaces.
    fn remove_existing(&mut self, parent: NodeId, name: &EntryName) -> Result<(), TarEntryError> {
        if let Some(existing) = self.tree.child(parent, name.as_bytes()) {
            if self.layer.is_none() && self.tree.children(existing).next().is_some() {
                return Err(TarEntryError::DirectoryInTheWay);
            }
            self.tree.remove(parent, name);
        }
        Ok(())
    }

    /// Returns the directory of an entry, created if it is missing, and the entry's name in it.
    fn parent_directory(&mut self, path: &ImagePath) -> Result<(NodeId, EntryName), TarEntryError> {
        let (name, parents) = path.components().split_last().ok_or(TarEntryError::Root)?;
        if self.layer.is_some() {
            let directory = self.follow(parents, Missing::Made, &|_, _| false)?;
            let directory = directory.ok_or_else(|| TarEntryError::NotADirectory(path.clone()))?;
            return Ok((directory, name.clone()));
        }
        let mut directory = self.tree.root();
        for (depth, parent) in parents.iter().enumerate() {
            directory = match self.tree.child(directory, parent.as_bytes()) {
                Some(node) => node,
                None => self.make_directory(directory, parent.clone())?,
            };
            if self.tree.node(directory).kind != NodeKind::Directory {
                let parents = parents[..=depth].iter().cloned();
                return Err(TarEntryError::NotADirectory(
                    parents.fold(ImagePath::root(), |path, name| path.join(name)),
                ));
            }
        }
        Ok((directory, name.clone()))
    }

    /// Makes a directory for which the archive has no entry.
    pub(super) fn make_directory(&mut self, parent: NodeId, name: EntryName) -> Result<NodeId, TarEntryError> {
        let node = Node { metadata: default_directory(self.owner), kind: NodeKind::Directory };
        Ok(self.tree.insert(parent, name, node)?)
    }

    /// Returns the attributes that the tree keeps. Labels of a layer are those of the machine that built the image.
    fn collect_xattrs(&mut self, records: &PaxRecords) -> Result<Xattrs, XattrError> {
        let mut all = records.libarchive_xattrs.clone();
        all.extend(records.xattrs.iter().map(|(name, value)| (name.clone(), value.clone())));
        if let Some(label) = &records.selinux {
            // The record has no NUL at the end, but the attribute does.
            all.entry(SELINUX_ATTRIBUTE.to_vec()).or_insert_with(|| [label, &[0][..]].concat());
        }
        if self.layer.is_some() {
            all.remove(SELINUX_ATTRIBUTE);
        }
        let mut pairs = all.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        self.foreign.remove_from(&mut pairs);
        Xattrs::new(pairs)
    }

    /// Sets the ACLs of a node. They come as attributes, as text, or as both; the attribute is exact and takes precedence.
    fn set_acls(&mut self, node: NodeId, path: &ImagePath, records: &PaxRecords) -> Result<(), TarEntryError> {
        for (attribute, text) in [(ACL_ACCESS, &records.acl_access), (ACL_DEFAULT, &records.acl_default)] {
            let metadata = &mut self.tree.node_mut(node).metadata;
            let Some(text) = text.as_ref().filter(|_| metadata.xattrs.get(attribute).is_none()) else { continue };
            match PosixAcl::parse(text, &|_, _| AclName::Unknown) {
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

fn set_acl(xattrs: &mut Xattrs, attribute: &'static [u8], acl: &PosixAcl) -> Result<(), TarEntryError> {
    // Linux stores an access ACL that is equivalent to the mode only as the mode.
    if attribute == ACL_ACCESS && acl.is_minimal() {
        return Ok(());
    }
    Ok(xattrs.set(attribute, &acl.to_xattr())?)
}

pub(in crate::compose::source) fn default_directory(owner: Option<(u32, u32)>) -> Metadata {
    let (uid, gid) = owner.unwrap_or_default();
    Metadata { permissions: DEFAULT_DIRECTORY_MODE, uid, gid, mtime: Timestamp::default(), xattrs: Xattrs::default() }
}

/// What the names in ACLs stand for that the archive has no number of.
#[derive(Default)]
struct ForeignNames {
    users: BTreeMap<Vec<u8>, AclName>,
    groups: BTreeMap<Vec<u8>, AclName>,
}

impl ForeignNames {
    /// Returns what a name stands for: root everywhere the same, others what they are on this machine, or nothing.
    fn resolve(&mut self, subject: AclSubject, name: &[u8]) -> AclName {
        if name == b"root" {
            return AclName::Number(0);
        }
        let (table, look_up): (_, fn(&str) -> std::io::Result<Option<u32>>) = match subject {
            AclSubject::User => (&mut self.users, disk::user_id),
            AclSubject::Group => (&mut self.groups, disk::group_id),
        };
        *table.entry(name.to_vec()).or_insert_with(|| {
            let number = std::str::from_utf8(name).ok().and_then(|name| look_up(name).ok().flatten());
            number.map_or(AclName::LeftOut, AclName::Number)
        })
    }

    /// Logs what was not taken from the archive.
    fn warn(&self) {
        let all = || {
            [("user", &self.users), ("group", &self.groups)].into_iter().flat_map(|(kind, table)| {
                table.iter().map(move |(name, number)| (kind, name.escape_ascii().to_string(), *number))
            })
        };
        let taken: Vec<String> = all()
            .filter_map(|(kind, name, number)| match number {
                AclName::Number(number) => Some(format!("{kind} {name} ({number})")),
                AclName::LeftOut | AclName::Unknown => None,
            })
            .collect();
        let lost: Vec<String> = all()
            .filter(|(.., number)| matches!(number, AclName::LeftOut))
            .map(|(kind, name, _)| format!("{kind} {name}"))
            .collect();
        if !taken.is_empty() {
            tracing::warn!(
                "ACLs name users and groups by name alone; their numbers on this machine are taken: {}",
                taken.join(", ")
            );
        }
        if !lost.is_empty() {
            tracing::warn!(
                "entries of ACLs are left out, since no number is known for {}; bsdtar writes numbers",
                lost.join(", ")
            );
        }
    }
}

/// The numbers of the users and groups that the archive names.
#[derive(Default)]
pub(super) struct AccountIds {
    users: HashMap<Vec<u8>, u32>,
    groups: HashMap<Vec<u8>, u32>,
}

impl AccountIds {
    fn table(&mut self, subject: AclSubject) -> &mut HashMap<Vec<u8>, u32> {
        match subject {
            AclSubject::User => &mut self.users,
            AclSubject::Group => &mut self.groups,
        }
    }

    /// Records the name and number of an owner. Both come from the machine that also wrote the ACLs.
    fn add(&mut self, subject: AclSubject, name: &[u8], number: u32) {
        if !name.is_empty() && !self.table(subject).contains_key(name) {
            self.table(subject).insert(name.to_vec(), number);
        }
    }

    /// Records the names of a `passwd` or `group` file, for users and groups that own nothing in the archive.
    pub(super) fn add_file(&mut self, subject: AclSubject, file: &[u8]) {
        for line in file.split(|byte| *byte == b'\n') {
            let mut fields = line.split(|byte| *byte == b':');
            let (name, number) = (fields.next().unwrap_or_default(), fields.nth(1).unwrap_or_default());
            if let Some(number) = std::str::from_utf8(number).ok().and_then(|number| number.parse().ok()) {
                self.add(subject, name, number);
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
