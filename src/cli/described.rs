//! A commit that says what it was made of, here or at a remote: its record, and single files of it.
//!
//! Of a remote commit only what is asked for is fetched: the record for lists of packages, a file for `whence`.

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::remote_source::{RemoteSource, TrustArgs};
use super::{Context, lazy, repository};
use crate::cache::{LazyOptions, LazyTree, Patience, Visit};
use crate::compose::packages::{self, PackageList};
use crate::image::{Image, ImageError, Ino};
use crate::model::{Commit, FileKind, ImagePath};
use crate::store::{Absent, Fetch as _, ObjectSource as _, ReadError, Store};

/// How long missing parts are waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Links that are followed in one path.
const LINKS_MAX: usize = 8;

/// Largest file that is read whole.
const FILE_MAX: u64 = 256 << 20;

/// A commit, and where its parts are.
pub struct Described {
    name: String,
    commit: Commit,
    place: Place,
    /// Opened when the first file is asked for.
    tree: OnceCell<Tree>,
}

enum Place {
    Here(Store),
    There(Store, Box<Visit>),
}

/// Something that is opened for reading files.
enum Tree {
    Here(Store, Box<Image>),
    There(Arc<LazyTree>),
}

impl Described {
    /// The commit that `source` names: local, `REMOTE:REF` or `URL#REF`.
    ///
    /// # Errors
    /// When there is none, or it is not trusted.
    pub fn find(source: &str, trust: &TrustArgs, context: &Context) -> Result<Self> {
        let name = source.to_owned();
        match RemoteSource::parse(source) {
            Ok(Some(remote)) => {
                let store = lazy::open_or_make(&lazy::repository(&remote, context)?)?;
                let visit = lazy::visit(&store, &remote, trust, lazy::Asking::Attended)?;
                let commit = visit.commit().clone();
                Ok(Self { name, commit, place: Place::There(store, Box::new(visit)), tree: OnceCell::new() })
            }
            // `remote:ref^` names something local.
            Ok(None) | Err(_) => {
                let store = repository::open(context)?;
                let commit = store.commit(store.resolve(source)?)?;
                Ok(Self { name, commit, place: Place::Here(store), tree: OnceCell::new() })
            }
        }
    }

    /// Its packages.
    ///
    /// # Errors
    /// When it does not say which.
    pub fn packages(&self) -> Result<PackageList> {
        match self.commit.extra.get(packages::KEY) {
            Some(text) => Ok(PackageList::decode(text).with_context(|| self.name.clone())?),
            None => bail!("{} does not say what it was made of: it was not made by 'sapwood compose'", self.name),
        }
    }

    /// Whether there is something at a path.
    ///
    /// # Errors
    /// When names cannot be had.
    pub fn has(&self, path: &[u8]) -> Result<bool> {
        let path = ImagePath::parse(path)?;
        self.open()?.asking(|tree| Ok(tree.image().resolve(&path)?.is_some()))
    }

    /// The content of the file at a path, symbolic links followed within the commit; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be had.
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let tree = self.open()?;
        let mut path = ImagePath::parse(path.as_bytes())?;
        for _ in 0..LINKS_MAX {
            match tree.asking(|tree| step(tree.image(), &path))? {
                Step::Missing => return Ok(None),
                Step::Link(target) => path = target,
                Step::File(ino) => return tree.content(ino).map(Some),
            }
        }
        Ok(None)
    }

    fn open(&self) -> Result<&Tree> {
        if let Some(tree) = self.tree.get() {
            return Ok(tree);
        }
        let tree = match &self.place {
            Place::Here(store) => Tree::Here(store.clone(), Box::new(store.image(self.commit.image)?)),
            Place::There(store, visit) => {
                let patience = Patience::Within(PATIENCE);
                Tree::There(visit.open(store, LazyOptions { patience, ..LazyOptions::default() })?)
            }
        };
        Ok(self.tree.get_or_init(|| tree))
    }
}

/// What is at a path.
enum Step {
    Missing,
    Link(ImagePath),
    File(Ino),
}

fn step(image: &Image, path: &ImagePath) -> Result<Step, ImageError> {
    // A link may stand for any part of the path: documents of one package are often those of another.
    let mut at = ImagePath::root();
    for (index, name) in path.components().iter().enumerate() {
        at.push(name.clone());
        let Some(ino) = image.resolve(&at)? else { return Ok(Step::Missing) };
        match image.attributes(ino)?.kind {
            FileKind::Symlink => {
                let target = image.symlink(ino)?.to_vec();
                at.pop();
                return Ok(followed(&at, &target, &path.components()[index + 1..]).map_or(Step::Missing, Step::Link));
            }
            FileKind::Regular if index + 1 == path.components().len() => return Ok(Step::File(ino)),
            _ => {}
        }
    }
    Ok(Step::Missing)
}

fn followed(directory: &ImagePath, target: &[u8], rest: &[crate::model::EntryName]) -> Option<ImagePath> {
    let mut path = if target.starts_with(b"/") { ImagePath::root() } else { directory.clone() };
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => _ = path.pop(),
            name => path.push(crate::model::EntryName::new(name).ok()?),
        }
    }
    rest.iter().for_each(|name| path.push(name.clone()));
    Some(path)
}

impl Tree {
    fn image(&self) -> &Image {
        match self {
            Self::Here(_, image) => image,
            Self::There(tree) => tree.image(),
        }
    }

    /// Asks, and fetches what the answer needs, until there is one.
    fn asking<T>(&self, question: impl Fn(&Self) -> Result<T, ImageError>) -> Result<T> {
        loop {
            match (question(self), self) {
                (Err(ImageError::Absent { block }), Self::There(tree)) => {
                    tree.fetch(&Absent::ImageBlock(block), Instant::now() + PATIENCE)?;
                }
                (answer, _) => return Ok(answer?),
            }
        }
    }

    fn content(&self, ino: Ino) -> Result<Vec<u8>> {
        let Some(object) = self.asking(|tree| tree.image().object_ref(ino))? else { return Ok(Vec::new()) };
        if object.size > FILE_MAX {
            bail!("a file of {} bytes is too large to be shown", object.size);
        }
        let mut bytes = vec![0; usize::try_from(object.size)?];
        let mut done = 0;
        while done < bytes.len() {
            let read = match self {
                Self::Here(store, _) => store.read_at(object.id, done as u64, &mut bytes[done..]),
                Self::There(tree) => tree.read_object(&object, done as u64, &mut bytes[done..]),
            };
            match (read, self) {
                (Ok(0), _) => break,
                (Ok(length), _) => done += length,
                (Err(ReadError::Absent(absent)), Self::There(tree)) => {
                    tree.fetch(&absent, Instant::now() + PATIENCE)?
                }
                (Err(error), _) => return Err(error.into()),
            }
        }
        bytes.truncate(done);
        Ok(bytes)
    }
}
