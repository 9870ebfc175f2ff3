//! The boot menu of one sysroot as it is on the boot partition, and the steps that make it another one.
//!
//! The loader's own files are the only record of what boots, so that this program and the loader cannot disagree. A change
//! is a list of [`Step`]s, planned without touching anything. Their order carries the safety, since there may be neither
//! links nor a journal (FAT): new before old, each settled before the next may rely on it, and at every moment the
//! loader finds a menu in which something boots.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::entry::{BootEntry, EntryError, sort};
use super::grubenv::{GrubEnv, GrubEnvError};
use super::loader::{Loader, LoaderKind};
use super::{bls, extlinux, grub};
use crate::disk;
use crate::sys::{Freeze, empty_journal};

/// Why the boot menu cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The directory that `sysroot init` made is not there.
    #[error("{} is missing: is the boot partition mounted?", .0.display())]
    NotMounted(PathBuf),
    /// GRUB's counters do not fit, or are not GRUB's.
    #[error("cannot use {}", .path.display())]
    GrubEnv {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: GrubEnvError,
    },
    /// An entry that no menu can hold.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// The system refused.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// One step of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make or replace a file as a whole.
    Write {
        /// Which.
        path: PathBuf,
        /// With what.
        bytes: Vec<u8>,
    },
    /// Remove a file.
    Remove(PathBuf),
    /// Make sure that everything before is on the disk, where the loader looks.
    Settle,
}

/// What the files of a loader hold.
#[derive(Debug, Clone)]
enum Files {
    /// The names of our files, whatever they hold.
    Bls(Vec<String>),
    Grub {
        config: Option<String>,
        entries: Option<String>,
        counters: GrubEnv,
    },
    Extlinux(String),
}

/// The menu.
#[derive(Debug, Clone)]
pub struct Menu {
    loader: Loader,
    id: String,
    files: Files,
    entries: Vec<BootEntry>,
}

impl Menu {
    /// Reads the entries of the sysroot `id`.
    ///
    /// # Errors
    /// [`BootError`].
    pub fn read(loader: &Loader, id: &str) -> Result<Self, BootError> {
        let marker = loader.kernels(id);
        if !marker.is_dir() {
            return Err(BootError::NotMounted(marker));
        }
        let (files, mut entries) = match loader.kind {
            LoaderKind::Grub => read_grub(loader, id)?,
            LoaderKind::Extlinux => {
                let text = read(&loader.extlinux().join(extlinux::CONFIG))?.unwrap_or_default();
                let entries = extlinux::parse(id, &text);
                (Files::Extlinux(text), entries)
            }
            LoaderKind::SystemdBoot | LoaderKind::None | LoaderKind::Auto => read_bls(loader, id)?,
        };
        sort(&mut entries);
        Ok(Self { loader: loader.clone(), id: id.to_owned(), files, entries })
    }

    /// The entries, the one that boots first.
    #[must_use]
    pub fn entries(&self) -> &[BootEntry] {
        &self.entries
    }

    /// The loader.
    #[must_use]
    pub const fn loader(&self) -> &Loader {
        &self.loader
    }

    /// Whether the loader counts tries.
    #[must_use]
    pub const fn can_count(&self) -> bool {
        matches!(self.loader.kind, LoaderKind::SystemdBoot | LoaderKind::Grub)
    }

    /// The steps to a menu of exactly these entries, the first of which is to boot.
    ///
    /// # Errors
    /// [`BootError::Entry`] or [`BootError::GrubEnv`].
    pub fn swap(&self, wanted: &[BootEntry]) -> Result<Vec<Step>, BootError> {
        match &self.files {
            Files::Bls(names) => self.swap_bls(names, wanted),
            Files::Grub { config, entries, counters } => {
                self.swap_grub(config.as_deref(), entries.as_deref(), counters, wanted)
            }
            Files::Extlinux(before) => {
                let text = extlinux::render(&self.id, before, wanted)?;
                let path = self.loader.extlinux().join(extlinux::CONFIG);
                let write = Step::Write { path, bytes: text.clone().into_bytes() };
                Ok(if text == *before { Vec::new() } else { vec![write, Step::Settle] })
            }
        }
    }

    fn swap_bls(&self, names: &[String], wanted: &[BootEntry]) -> Result<Vec<Step>, BootError> {
        let directory = self.loader.entries();
        let name = |entry: &BootEntry| bls::file_name(&self.id, entry.order, entry.tries);
        let mut steps = Vec::new();
        // The lowest first: whoever is interrupted leaves the old default, or the new one, as the highest.
        // One under a name that only means the same is written under its own, since the other name is removed below.
        let is_there = |entry: &&BootEntry| self.entries.contains(entry) && names.contains(&name(entry));
        for entry in wanted.iter().rev().filter(|entry| !is_there(entry)) {
            let bytes = bls::render(&self.id, entry)?.into_bytes();
            steps.push(Step::Write { path: directory.join(name(entry)), bytes });
        }
        settle(&mut steps);
        let kept: Vec<String> = wanted.iter().map(name).collect();
        let gone = names.iter().filter(|name| !kept.contains(name));
        let before = steps.len();
        steps.extend(gone.map(|name| Step::Remove(directory.join(name))));
        if steps.len() > before {
            steps.push(Step::Settle);
        }
        Ok(steps)
    }

    fn swap_grub(
        &self,
        config: Option<&str>,
        entries: Option<&str>,
        counters: &GrubEnv,
        wanted: &[BootEntry],
    ) -> Result<Vec<Step>, BootError> {
        let at = |name: &str| self.loader.grub().join(name);
        let write = |name: &str, text: &str| Step::Write { path: at(name), bytes: text.as_bytes().to_vec() };
        let mut steps = Vec::new();
        let mut counted = counters.clone();
        for entry in wanted {
            counted.set(&grub::counter(entry.order), entry.tries.map(|tries| tries.left.to_string()));
        }
        self.write_counters(counters, &counted, &mut steps)?;
        if self.entries != wanted || entries.is_none() {
            if let Some(entries) = entries {
                steps.push(write(grub::ENTRIES_OLD, entries));
                steps.push(Step::Settle);
            }
            steps.push(write(grub::ENTRIES, &grub::render(&self.id, wanted)?));
        }
        settle(&mut steps);
        match config {
            Some(config) if grub::is_ours(config) => {
                if config != grub::static_config() {
                    steps.push(write(grub::CONFIG, &grub::static_config()));
                    steps.push(Step::Settle);
                }
            }
            config => {
                steps.extend(config.map(|before| write(grub::CONFIG_BEFORE, before)));
                settle(&mut steps);
                // Last, since from now on the loader reads the entries above.
                steps.push(write(grub::CONFIG, &grub::static_config()));
                steps.push(Step::Settle);
            }
        }
        let mut tidy = counted.clone();
        let is_wanted = |order| wanted.iter().any(|entry| entry.order == order);
        let stale = |name: &&str| grub::counted_order(name).is_some_and(|order| !is_wanted(order));
        counted.names().filter(stale).for_each(|name| tidy.set(name, None));
        self.write_counters(&counted, &tidy, &mut steps)?;
        settle(&mut steps);
        Ok(steps)
    }

    fn write_counters(&self, before: &GrubEnv, after: &GrubEnv, steps: &mut Vec<Step>) -> Result<(), BootError> {
        let path = self.loader.grub().join(grub::ENVIRONMENT);
        if before == after && path.exists() {
            return Ok(());
        }
        let bytes = after.render().map_err(|source| BootError::GrubEnv { path: path.clone(), source })?;
        steps.push(Step::Write { path, bytes });
        steps.push(Step::Settle);
        Ok(())
    }

    /// The steps after which the entry with this number is trusted: it has come up.
    ///
    /// # Errors
    /// [`BootError::Entry`] or [`BootError::GrubEnv`].
    pub fn bless(&self, order: u32) -> Result<Vec<Step>, BootError> {
        let counted = self.entries.iter().find(|entry| entry.order == order && entry.tries.is_some());
        let Some(entry) = counted else { return Ok(Vec::new()) };
        let trusted = BootEntry { tries: None, ..entry.clone() };
        match &self.files {
            Files::Bls(_) => {
                // Not renamed: on FAT a rename that a power cut tears may lose both names.
                let path = |entry: &BootEntry| self.loader.entries().join(bls::file_name(&self.id, order, entry.tries));
                let bytes = bls::render(&self.id, &trusted)?.into_bytes();
                let write = Step::Write { path: path(&trusted), bytes };
                Ok(vec![write, Step::Settle, Step::Remove(path(entry)), Step::Settle])
            }
            Files::Grub { counters, .. } => {
                let mut trusted = counters.clone();
                trusted.set(&grub::counter(order), None);
                let mut steps = Vec::new();
                self.write_counters(counters, &trusted, &mut steps)?;
                Ok(steps)
            }
            Files::Extlinux(_) => Ok(Vec::new()),
        }
    }

    /// Makes the steps. Whoever is killed on the way and starts again plans anew from what is there.
    ///
    /// # Errors
    /// [`BootError::Io`]; what was done by then is as safe as before.
    pub fn carry_out(&self, steps: &[Step]) -> Result<(), BootError> {
        for step in steps {
            match step {
                Step::Write { path, bytes } => {
                    let made = path.parent().map_or(Ok(()), disk::make_directories);
                    made.and_then(|()| disk::replace_on_fat(path, bytes)).map_err(io_error("write", path))?;
                }
                Step::Remove(path) => disk::remove_file(path).map_err(io_error("remove", path))?,
                Step::Settle => settle_disk(&self.loader)?,
            }
        }
        Ok(())
    }
}

/// Makes sure that everything written to the boot partition is on the disk, where the loader looks.
///
/// # Errors
/// [`BootError::Io`].
pub fn settle_disk(loader: &Loader) -> Result<(), BootError> {
    let path = &loader.directory;
    // What is mounted there alone is nothing that this process needs to go on.
    let device = |path: &Path| rustix::fs::stat(path).map(|stat| stat.st_dev).ok();
    let is_alone = device(path) != device(&path.join("..")) && device(path) != device(Path::new("/"));
    let freeze = if is_alone { Freeze::Allowed } else { Freeze::Never };
    let settled = disk::open_directory(path).and_then(|directory| {
        disk::sync_filesystem(&directory)?;
        empty_journal(&directory, freeze)
    });
    settled.map_err(io_error("sync", path))
}

fn settle(steps: &mut Vec<Step>) {
    if !matches!(steps.last(), None | Some(Step::Settle)) {
        steps.push(Step::Settle);
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BootError + use<> {
    let path = path.to_owned();
    move |source| BootError::Io { action, path, source }
}

/// A text file; `None` when there is none.
fn read(path: &Path) -> Result<Option<String>, BootError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read", path)(error)),
    }
}

fn read_bls(loader: &Loader, id: &str) -> Result<(Files, Vec<BootEntry>), BootError> {
    let directory = loader.entries();
    let (mut names, mut entries) = (Vec::new(), Vec::new());
    let listed = match fs::read_dir(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Files::Bls(names), entries)),
        other => other.map_err(io_error("list", &directory))?,
    };
    for entry in listed {
        let name = entry.map_err(io_error("list", &directory))?.file_name();
        let Some(name) = name.to_str().filter(|name| bls::parse_name(id, name).is_some()) else { continue };
        let text = read(&directory.join(name))?.unwrap_or_default();
        entries.extend(bls::parse(id, name, &text));
        names.push(name.to_owned());
    }
    names.sort();
    Ok((Files::Bls(names), entries))
}

fn read_grub(loader: &Loader, id: &str) -> Result<(Files, Vec<BootEntry>), BootError> {
    let at = |name: &str| loader.grub().join(name);
    let path = at(grub::ENVIRONMENT);
    let counters = match fs::read(&path) {
        Ok(bytes) => GrubEnv::parse(&bytes).map_err(|source| BootError::GrubEnv { path, source })?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => GrubEnv::default(),
        Err(error) => return Err(io_error("read", &path)(error)),
    };
    let config = read(&at(grub::CONFIG))?;
    if !config.as_deref().is_some_and(grub::is_ours) {
        // Whatever entries there are, the loader does not read them (yet, or any more).
        return Ok((Files::Grub { config, entries: None, counters }, Vec::new()));
    }
    let parsed = |text: &Option<String>| text.as_deref().and_then(|text| grub::parse(id, text, &counters));
    let text = read(&at(grub::ENTRIES))?;
    let (entries, found) = match parsed(&text) {
        Some(found) => (text, found),
        // Torn, or not there yet. What the loader reads then is not written over.
        None => (None, parsed(&read(&at(grub::ENTRIES_OLD))?).unwrap_or_default()),
    };
    Ok((Files::Grub { config, entries, counters }, found))
}

#[cfg(test)]
mod tests {
    use super::super::entry::examples::{entry, target};
    use super::super::entry::{WantedEntry, arrange};
    use super::*;

    const ID: &str = "0123abcd";

    struct Scene {
        directory: tempfile::TempDir,
        loader: Loader,
    }

    impl Scene {
        fn new(kind: LoaderKind) -> Self {
            let directory = tempfile::tempdir().expect("a temporary directory");
            let loader = Loader { kind, directory: directory.path().to_owned(), prefix: String::new() };
            fs::create_dir_all(loader.kernels(ID)).expect("made");
            Self { directory, loader }
        }

        fn menu(&self) -> Menu {
            Menu::read(&self.loader, ID).expect("readable")
        }

        fn orders(&self) -> Vec<u32> {
            self.menu().entries().iter().map(|entry| entry.order).collect()
        }
    }

    const KINDS: [LoaderKind; 4] = [LoaderKind::SystemdBoot, LoaderKind::Grub, LoaderKind::Extlinux, LoaderKind::None];

    fn wanted(names: &[&str], tries: Option<u32>) -> Vec<WantedEntry> {
        names.iter().map(|name| WantedEntry { target: target(name), tries }).collect()
    }

    #[test]
    fn after_every_step_the_old_or_the_new_menu_is_there() {
        for kind in KINDS {
            let changes: [&[&str]; 5] = [&["a"], &["b", "a"], &["a", "b"], &["c", "a"], &["c"]];
            let scene = Scene::new(kind);
            for change in changes {
                let menu = scene.menu();
                let before = menu.entries().to_vec();
                let arranged = arrange(&before, &wanted(change, Some(3).filter(|_| menu.can_count())));
                let steps = menu.swap(&arranged).expect("plannable");
                for step in &steps {
                    menu.carry_out(std::slice::from_ref(step)).expect("writable");
                    let now = scene.menu().entries().to_vec();
                    let top = now.first();
                    assert!(top == before.first() || top == arranged.first(), "{kind:?} {change:?} {step:?}: {now:?}");
                    let all: Vec<_> = before.iter().chain(&arranged).collect();
                    assert!(now.iter().all(|entry| all.contains(&entry)), "{kind:?} {change:?} {step:?}");
                }
                assert_eq!(scene.menu().entries(), arranged, "{kind:?} {change:?}");
                assert_eq!(scene.menu().swap(&arranged).expect("plannable"), [], "{kind:?}: nothing left to do");
                assert!(steps.is_empty() || steps.last() == Some(&Step::Settle), "{kind:?}");
            }
        }
    }

    #[test]
    fn what_is_removed_was_replaced_and_settled_before() {
        let scene = Scene::new(LoaderKind::SystemdBoot);
        let menu = scene.menu();
        menu.carry_out(&menu.swap(&[entry(1, "a", None)]).expect("plannable")).expect("writable");
        let steps = scene.menu().swap(&[entry(2, "b", Some(3))]).expect("plannable");
        let place = |wanted: fn(&Step) -> bool| steps.iter().position(wanted);
        let (write, remove) = (place(|s| matches!(s, Step::Write { .. })), place(|s| matches!(s, Step::Remove(_))));
        let settle = place(|step| *step == Step::Settle);
        assert!(write < settle && settle < remove, "{steps:?}");
    }

    #[test]
    fn a_blessed_entry_is_counted_no_more() {
        for kind in [LoaderKind::SystemdBoot, LoaderKind::Grub] {
            let scene = Scene::new(kind);
            let menu = scene.menu();
            let entries = [entry(2, "b", Some(3)), entry(1, "a", None)];
            menu.carry_out(&menu.swap(&entries).expect("plannable")).expect("writable");
            let menu = scene.menu();
            assert_eq!(menu.entries()[0].tries.map(|tries| tries.left), Some(3), "{kind:?}");
            menu.carry_out(&menu.bless(2).expect("plannable")).expect("writable");
            assert_eq!(scene.menu().entries(), [entry(2, "b", None), entry(1, "a", None)], "{kind:?}");
            assert_eq!(scene.menu().bless(2).expect("plannable"), []);
        }
    }

    #[test]
    fn entries_and_files_of_others_stay() {
        let scene = Scene::new(LoaderKind::SystemdBoot);
        let other = scene.loader.entries().join("debian.conf");
        disk::make_directories(&scene.loader.entries()).expect("made");
        disk::replace(&other, b"title Debian\nlinux /x\n").expect("written");
        let menu = scene.menu();
        menu.carry_out(&menu.swap(&[entry(1, "a", None)]).expect("plannable")).expect("writable");
        assert!(other.exists());
        assert_eq!(scene.orders(), [1]);

        let scene = Scene::new(LoaderKind::Grub);
        let config = scene.directory.path().join("grub/grub.cfg");
        disk::make_directories(config.parent().expect("inside")).expect("made");
        disk::replace(&config, b"menuentry 'Debian' { }\n").expect("written");
        let menu = scene.menu();
        menu.carry_out(&menu.swap(&[entry(1, "a", None)]).expect("plannable")).expect("writable");
        let kept = fs::read_to_string(config.with_file_name("grub.cfg.before-sapwood")).expect("kept");
        assert_eq!(kept, "menuentry 'Debian' { }\n");
        assert!(grub::is_ours(&fs::read_to_string(config).expect("written")));
    }

    #[test]
    fn a_torn_file_of_entries_is_replaced_by_the_one_before() {
        let scene = Scene::new(LoaderKind::Grub);
        for entries in [[entry(1, "a", None)], [entry(2, "b", None)]] {
            let menu = scene.menu();
            menu.carry_out(&menu.swap(&entries).expect("plannable")).expect("writable");
        }
        let path = scene.directory.path().join("grub/sapwood/entries.cfg");
        let text = fs::read_to_string(&path).expect("written");
        disk::replace(&path, &text.as_bytes()[..text.len() / 2]).expect("torn");
        assert_eq!(scene.orders(), [1]);
    }

    #[test]
    fn a_partition_that_is_not_mounted_is_noticed() {
        let scene = Scene::new(LoaderKind::SystemdBoot);
        disk::remove_directory(&scene.loader.kernels(ID)).expect("removed");
        assert!(matches!(Menu::read(&scene.loader, ID), Err(BootError::NotMounted(_))));
    }
}
