//! A compose on top of another commit: the base gives a root in which packages are installed already.
//!
//! Purpose: reads the base commit, and writes its tree as a root in which the layout of an image is undone, so that a package
//! manager can install into it.
//!
//! Not here: installing (`engine`) and laying out again (`layout`). Contents are not shared on disk while a compose runs; the
//! repository shares them when the root is stored, since equal contents are one object.
//!
//! Invariants: a base lists its packages, and their database is below `/usr/lib/sysimage`, or where a root that runs has
//! it. Nothing outside of the directory that
//! is written is touched, whatever links the base has.
//!
//! Used by: `pipeline`.

mod tmpfiles;
mod undo;

use std::io;
use std::path::{Path, PathBuf};

use super::packages::{self, Package, PackageFormat, PackageList};
use crate::export::{ExportDirectoryError, ExportOptions, ExportProgress, export_directory};
use crate::image::ImageError;
use crate::model::{Commit, CommitId, ImagePath};
use crate::store::{ReadError, ResolveError, Store};

/// The key in a commit's `extra` for the id of the commit that it was composed on.
pub(crate) const KEY: &str = "compose.base";

/// The directory of the package databases in a commit.
const DATABASES: &str = "/usr/lib/sysimage";

/// The directory of dpkg's database in a commit that runs as it is.
const RUNNING_DPKG_DIRECTORY: &str = "/var/lib/dpkg";

/// Why a commit cannot be a base.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BaseError {
    #[error("cannot find '{spec}'")]
    Resolve { spec: String, source: ResolveError },
    #[error("cannot read it")]
    Read(#[from] ReadError),
    #[error("cannot read it")]
    Image(#[from] ImageError),
    #[error("{} lists no packages: only a commit that 'sapwood compose' made of packages can be a base", .0.short())]
    NoPackages(CommitId),
    #[error("it has {} packages, and this treefile installs {} packages", .found.word(), .expected.word())]
    Format { found: PackageFormat, expected: PackageFormat },
    #[error("cannot write its files")]
    Export(#[from] ExportDirectoryError),
    /// The layout cannot be undone.
    #[error("cannot {action} {path} in its root")]
    Undo { action: &'static str, path: String, source: io::Error },
}

/// A commit on which another one is composed.
pub(crate) struct BaseCommit<'a> {
    store: &'a Store,
    pub(crate) id: CommitId,
    pub(crate) commit: Commit,
    packages: Vec<Package>,
}

impl<'a> BaseCommit<'a> {
    /// Reads the commit that `spec` names, whose packages have to be of this format.
    pub(crate) fn load(store: &'a Store, spec: &str, format: PackageFormat) -> Result<Self, BaseError> {
        let resolved = store.resolve(spec);
        let id = resolved.map_err(|source| BaseError::Resolve { spec: spec.to_owned(), source })?;
        let commit = store.commit(id)?;
        let list = commit.extra.get(packages::KEY).and_then(|text| PackageList::decode(text).ok());
        let list = list.ok_or(BaseError::NoPackages(id))?;
        if list.format != format {
            return Err(BaseError::Format { found: list.format, expected: format });
        }
        Ok(Self { store, id, commit, packages: list.packages })
    }

    /// Writes only the package databases below `directory`, enough to resolve packages, and returns what the engine needs.
    pub(crate) fn write_databases(&self, directory: &Path) -> Result<InstalledBase, BaseError> {
        let image = self.store.image(self.commit.image)?;
        let dpkg = ImagePath::parse(RUNNING_DPKG_DIRECTORY.as_bytes()).map_err(|_| BaseError::NoPackages(self.id))?;
        let target = directory.join(&DATABASES[1..]);
        let (from, target) = match image.resolve(&dpkg)? {
            Some(_) => (RUNNING_DPKG_DIRECTORY, target.join("dpkg")),
            None => (DATABASES, target),
        };
        let made = target.parent().map_or(Ok(()), crate::disk::make_directories);
        made.map_err(|source| BaseError::Undo { action: "make", path: DATABASES.to_owned(), source })?;
        self.export(from, &target)?;
        Ok(InstalledBase { root: directory.to_owned(), packages: self.packages.clone() })
    }

    /// Writes the whole tree into `root`, which does not exist yet, with the layout of an image undone.
    pub(crate) fn write_root(&self, root: &Path) -> Result<(), BaseError> {
        self.export("/", root)?;
        undo::undo_layout(root)
    }

    fn export(&self, path: &str, target: &Path) -> Result<(), BaseError> {
        let image = self.store.image(self.commit.image)?;
        let path = ImagePath::parse(path.as_bytes()).map_err(|_| BaseError::NoPackages(self.id))?;
        let ino = image.resolve(&path)?.ok_or(BaseError::NoPackages(self.id))?;
        let options = ExportOptions::default();
        export_directory(&image, ino, self.store, target, options, &ExportProgress::default())?;
        Ok(())
    }
}

/// The packages that are installed before a compose begins.
#[derive(Debug, Clone)]
pub(crate) struct InstalledBase {
    /// A directory with the package databases below `usr/lib/sysimage`.
    pub(crate) root: PathBuf,
    /// The packages.
    pub(crate) packages: Vec<Package>,
}

impl InstalledBase {
    /// Returns the packages of a root to which `added` are installed. A package replaces one of the same name and architecture.
    pub(crate) fn with(&self, added: Vec<Package>) -> Vec<Package> {
        let is_replaced = |package: &Package| {
            added
                .iter()
                .any(|new| new.name == package.name && (new.arch == package.arch || is_any(new) || is_any(package)))
        };
        let mut all: Vec<Package> = self.packages.iter().filter(|package| !is_replaced(package)).cloned().collect();
        all.extend(added);
        all.sort();
        all
    }
}

/// Returns whether a package is for every architecture: one of that kind and one of an architecture exclude each other.
fn is_any(package: &Package) -> bool {
    ["all", "noarch"].contains(&package.arch.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn added_packages_replace_those_of_the_same_name() {
        let package = |name: &str, version: &str, arch: &str| Package {
            name: name.to_owned(),
            version: version.to_owned(),
            arch: arch.to_owned(),
            source: name.to_owned(),
            sha256: None,
        };
        let installed = vec![package("a", "1", "amd64"), package("b", "1", "amd64"), package("b", "1", "i386")];
        let base = InstalledBase { root: PathBuf::new(), packages: installed };
        let all = base.with(vec![package("a", "2", "all"), package("b", "2", "i386"), package("c", "1", "amd64")]);
        let shown: Vec<String> = all.iter().map(|p| format!("{} {} {}", p.name, p.version, p.arch)).collect();
        assert_eq!(shown, ["a 2 all", "b 1 amd64", "b 2 i386", "c 1 amd64"]);
    }
}
