//! Reads the boot menu of one sysroot from the boot partition, and plans and applies the steps that change it.
//!
//! The loader's own files are the only record of what boots, so that this program and the loader cannot disagree.
//!
//! *Not here*: the file formats (`bls`, `grub`, `extlinux`), and which entries are wanted (`deploy::boot_menu`).
//!
//! *Invariants*: a change is planned as a list of [`MenuStep`]s without writing anything. Their order makes the change safe,
//! since there may be neither links nor a journal (FAT): new files are written and synced before old ones are removed, and at
//! every moment the loader finds a menu with an entry that boots.
//!
//! *Used by* `deploy::sysroot`, `deploy::boot_menu` and `deploy::health`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::entry::{BootEntry, EntryError, sort_as_loader};
use super::forecast::with_default;
use super::grubenv::{GrubEnv, GrubEnvError};
use super::loader::{BootLoader, LoaderKind};
use super::{bls, extlinux, grub};
use crate::disk;
use crate::sys::{Freeze, empty_journal};

/// Why the boot menu cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    /// The directory that `sysroot init` creates is missing.
    #[error("{} is missing: is the boot partition mounted?", .0.display())]
    NotMounted(PathBuf),
    /// GRUB's environment block is malformed, or the counters do not fit into it.
    #[error("cannot use {}", .path.display())]
    GrubEnv { path: PathBuf, source: GrubEnvError },
    /// A menu cannot hold an entry.
    #[error(transparent)]
    Entry(#[from] EntryError),
    #[error("cannot {action} {}", .path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

/// One step of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MenuStep {
    /// Create a file, or replace it as a whole.
    Write {
        path: PathBuf,
        /// The new content.
        bytes: Vec<u8>,
    },
    /// Remove a file.
    Remove(PathBuf),
    /// Sync the boot partition, so that the loader sees everything that was written before.
    Sync,
}

/// The contents of a loader's files.
#[derive(Debug, Clone)]
enum LoaderFiles {
    /// The names of all entry files of the sysroot, with or without valid entries.
    Bls(Vec<String>),
    Grub {
        config: Option<String>,
        entries: Option<String>,
        counters: GrubEnv,
    },
    Extlinux(String),
}

/// The boot menu of one sysroot, as it was read.
#[derive(Debug, Clone)]
pub(crate) struct Menu {
    loader: BootLoader,
    id: String,
    files: LoaderFiles,
    entries: Vec<BootEntry>,
}

impl Menu {
    /// Reads the entries of the sysroot `id`.
    pub(crate) fn read(loader: &BootLoader, id: &str) -> Result<Self, BootError> {
        let marker = loader.kernels_directory(id);
        if !marker.is_dir() {
            return Err(BootError::NotMounted(marker));
        }
        let (files, mut entries) = match loader.kind {
            LoaderKind::Grub => read_grub(loader, id)?,
            LoaderKind::Extlinux => {
                let text = read_text(&loader.extlinux_directory().join(extlinux::CONFIG))?.unwrap_or_default();
                let entries = extlinux::parse(id, &text);
                (LoaderFiles::Extlinux(text), entries)
            }
            LoaderKind::SystemdBoot | LoaderKind::None | LoaderKind::Auto => read_bls(loader, id)?,
        };
        sort_as_loader(&mut entries);
        Ok(Self { loader: loader.clone(), id: id.to_owned(), files, entries })
    }

    /// Returns the entries; the first one boots.
    pub(crate) fn entries(&self) -> &[BootEntry] {
        &self.entries
    }

    pub(crate) const fn loader(&self) -> &BootLoader {
        &self.loader
    }

    /// Returns whether another program wrote the loader's configuration, so that the loader does not read the entries.
    pub(crate) fn is_replaced(&self) -> bool {
        match &self.files {
            LoaderFiles::Grub { config, entries, .. } => {
                let is_read = config.as_deref().is_some_and(grub::reads_entries);
                !is_read && (entries.is_some() || !self.entries.is_empty())
            }
            LoaderFiles::Bls(_) | LoaderFiles::Extlinux(_) => false,
        }
    }

    /// Returns whether the loader counts tries.
    pub(crate) const fn counts_tries(&self) -> bool {
        matches!(self.loader.kind, LoaderKind::SystemdBoot | LoaderKind::Grub)
    }

    /// Returns the steps to a menu of exactly these entries, the first of which is to boot.
    pub(crate) fn plan_change(&self, wanted: &[BootEntry]) -> Result<Vec<MenuStep>, BootError> {
        match &self.files {
            LoaderFiles::Bls(names) => self.plan_bls_change(names, wanted),
            LoaderFiles::Grub { config, entries, counters } => {
                self.plan_grub_change(config.as_deref(), entries.as_deref(), counters, wanted)
            }
            LoaderFiles::Extlinux(before) => {
                let text = extlinux::render(&self.id, before, wanted)?;
                let path = self.loader.extlinux_directory().join(extlinux::CONFIG);
                let write = MenuStep::Write { path, bytes: text.clone().into_bytes() };
                Ok(if text == *before { Vec::new() } else { vec![write, MenuStep::Sync] })
            }
        }
    }

    fn plan_bls_change(&self, names: &[String], wanted: &[BootEntry]) -> Result<Vec<MenuStep>, BootError> {
        let directory = self.loader.entries_directory();
        let name = |entry: &BootEntry| bls::file_name(&self.id, entry.order, entry.tries);
        let mut steps = Vec::new();
        // The lowest number is written first: after an interruption, the entry with the highest number is the old default or
        // the new one. An entry in a file with an equivalent but different name is written again, since that file is removed
        // below.
        let is_written = |entry: &&BootEntry| self.entries.contains(entry) && names.contains(&name(entry));
        for entry in wanted.iter().rev().filter(|entry| !is_written(entry)) {
            let bytes = bls::render(&self.id, entry)?.into_bytes();
            steps.push(MenuStep::Write { path: directory.join(name(entry)), bytes });
        }
        push_sync(&mut steps);
        let kept: Vec<String> = wanted.iter().map(name).collect();
        let removed = names.iter().filter(|name| !kept.contains(name));
        let before = steps.len();
        steps.extend(removed.map(|name| MenuStep::Remove(directory.join(name))));
        if steps.len() > before {
            steps.push(MenuStep::Sync);
        }
        Ok(steps)
    }

    fn plan_grub_change(
        &self,
        config: Option<&str>,
        entries: Option<&str>,
        counters: &GrubEnv,
        wanted: &[BootEntry],
    ) -> Result<Vec<MenuStep>, BootError> {
        let at = |name: &str| self.loader.grub_directory().join(name);
        let write = |name: &str, text: &str| MenuStep::Write { path: at(name), bytes: text.as_bytes().to_vec() };
        let mut steps = Vec::new();
        let mut counted = counters.clone();
        for entry in wanted {
            counted.set(&grub::tries_variable(entry.order), entry.tries.map(|tries| tries.left.to_string()));
        }
        self.push_counter_steps(counters, &counted, &mut steps)?;
        if self.entries != wanted || entries.is_none() {
            if let Some(entries) = entries {
                steps.push(write(grub::ENTRIES_OLD, entries));
                steps.push(MenuStep::Sync);
            }
            steps.push(write(grub::ENTRIES, &grub::render(&self.id, wanted)?));
        }
        push_sync(&mut steps);
        match config {
            Some(config) if grub::reads_entries(config) => {
                if grub::is_static_config(config) && config != grub::static_config() {
                    steps.push(write(grub::CONFIG, &grub::static_config()));
                    steps.push(MenuStep::Sync);
                }
            }
            config => {
                steps.extend(config.map(|before| write(grub::CONFIG_BEFORE, before)));
                push_sync(&mut steps);
                // Written last, since it makes the loader read the entries above.
                steps.push(write(grub::CONFIG, &grub::static_config()));
                steps.push(MenuStep::Sync);
            }
        }
        let mut cleaned = counted.clone();
        let is_wanted = |order| wanted.iter().any(|entry| entry.order == order);
        let stale = |name: &&str| grub::order_of_variable(name).is_some_and(|order| !is_wanted(order));
        counted.names().filter(stale).for_each(|name| cleaned.set(name, None));
        self.push_counter_steps(&counted, &cleaned, &mut steps)?;
        push_sync(&mut steps);
        Ok(steps)
    }

    /// Adds the steps that change the counters from `before` to `after`, if they differ or the file is missing.
    fn push_counter_steps(
        &self,
        before: &GrubEnv,
        after: &GrubEnv,
        steps: &mut Vec<MenuStep>,
    ) -> Result<(), BootError> {
        let path = self.loader.grub_directory().join(grub::ENVIRONMENT);
        if before == after && path.exists() {
            return Ok(());
        }
        let bytes = after.render().map_err(|source| BootError::GrubEnv { path: path.clone(), source })?;
        steps.push(MenuStep::Write { path, bytes });
        steps.push(MenuStep::Sync);
        Ok(())
    }

    /// Returns the steps after which systemd-boot prefers the entries of this sysroot to all others; none for other loaders, which
    /// do so anyway.
    pub(crate) fn plan_preference(&self) -> Result<Vec<MenuStep>, BootError> {
        if self.loader.kind != LoaderKind::SystemdBoot {
            return Ok(Vec::new());
        }
        let path = self.loader.configuration();
        let before = read_text(&path)?.unwrap_or_default();
        let after = with_default(&before, &bls::pattern(&self.id));
        let write = MenuStep::Write { path, bytes: after.clone().into_bytes() };
        Ok(if after == before { Vec::new() } else { vec![write, MenuStep::Sync] })
    }

    /// Returns the steps after which the boots of the entry with this number are not counted any more.
    pub(crate) fn plan_bless(&self, order: u32) -> Result<Vec<MenuStep>, BootError> {
        let counted = self.entries.iter().find(|entry| entry.order == order && entry.tries.is_some());
        let Some(entry) = counted else { return Ok(Vec::new()) };
        let trusted = BootEntry { tries: None, ..entry.clone() };
        match &self.files {
            LoaderFiles::Bls(_) => {
                // Not renamed: on FAT, a rename that a power cut interrupts may lose both names.
                let path = |entry: &BootEntry| {
                    self.loader.entries_directory().join(bls::file_name(&self.id, order, entry.tries))
                };
                let bytes = bls::render(&self.id, &trusted)?.into_bytes();
                let write = MenuStep::Write { path: path(&trusted), bytes };
                Ok(vec![write, MenuStep::Sync, MenuStep::Remove(path(entry)), MenuStep::Sync])
            }
            LoaderFiles::Grub { counters, .. } => {
                let mut trusted = counters.clone();
                trusted.set(&grub::tries_variable(order), None);
                let mut steps = Vec::new();
                self.push_counter_steps(counters, &trusted, &mut steps)?;
                Ok(steps)
            }
            LoaderFiles::Extlinux(_) => Ok(Vec::new()),
        }
    }

    /// Applies the steps. After an interruption, the change is planned again from the menu as it is on the disk.
    ///
    /// # Errors
    /// [`BootError::Io`]; the menu then still has an entry that boots.
    pub(crate) fn apply(&self, steps: &[MenuStep]) -> Result<(), BootError> {
        for step in steps {
            match step {
                MenuStep::Write { path, bytes } => {
                    let made = path.parent().map_or(Ok(()), disk::make_directories);
                    made.and_then(|()| disk::replace_on_fat(path, bytes)).map_err(io_error("write", path))?;
                }
                MenuStep::Remove(path) => disk::remove_file(path).map_err(io_error("remove", path))?,
                MenuStep::Sync => sync_boot_partition(&self.loader)?,
            }
        }
        Ok(())
    }
}

/// Syncs the boot partition, so that the loader sees everything that was written to it.
pub(crate) fn sync_boot_partition(loader: &BootLoader) -> Result<(), BootError> {
    let path = &loader.directory;
    // A separate filesystem, which this process does not need to continue, may be frozen.
    let device = |path: &Path| rustix::fs::stat(path).map(|stat| stat.st_dev).ok();
    let is_separate = device(path) != device(&path.join("..")) && device(path) != device(Path::new("/"));
    let freeze = if is_separate { Freeze::Allowed } else { Freeze::Never };
    let synced = disk::open_directory(path).and_then(|directory| {
        disk::sync_filesystem(&directory)?;
        empty_journal(&directory, freeze)
    });
    synced.map_err(io_error("sync", path))
}

/// Adds a sync unless the last step is one or there is no step.
fn push_sync(steps: &mut Vec<MenuStep>) {
    if !matches!(steps.last(), None | Some(MenuStep::Sync)) {
        steps.push(MenuStep::Sync);
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BootError + use<> {
    let path = path.to_owned();
    move |source| BootError::Io { action, path, source }
}

/// Reads a text file; `None` if it does not exist.
pub(super) fn read_text(path: &Path) -> Result<Option<String>, BootError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read", path)(error)),
    }
}

fn read_bls(loader: &BootLoader, id: &str) -> Result<(LoaderFiles, Vec<BootEntry>), BootError> {
    let directory = loader.entries_directory();
    let (mut names, mut entries) = (Vec::new(), Vec::new());
    let listed = match fs::read_dir(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((LoaderFiles::Bls(names), entries)),
        other => other.map_err(io_error("list", &directory))?,
    };
    for entry in listed {
        let name = entry.map_err(io_error("list", &directory))?.file_name();
        let Some(name) = name.to_str().filter(|name| bls::parse_name(id, name).is_some()) else { continue };
        let text = read_text(&directory.join(name))?.unwrap_or_default();
        entries.extend(bls::parse(id, name, &text));
        names.push(name.to_owned());
    }
    names.sort();
    Ok((LoaderFiles::Bls(names), entries))
}

fn read_grub(loader: &BootLoader, id: &str) -> Result<(LoaderFiles, Vec<BootEntry>), BootError> {
    let at = |name: &str| loader.grub_directory().join(name);
    let path = at(grub::ENVIRONMENT);
    let counters = match fs::read(&path) {
        Ok(bytes) => GrubEnv::parse(&bytes).map_err(|source| BootError::GrubEnv { path, source })?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => GrubEnv::default(),
        Err(error) => return Err(io_error("read", &path)(error)),
    };
    let config = read_text(&at(grub::CONFIG))?;
    let parsed = |text: &Option<String>| text.as_deref().and_then(|text| grub::parse(id, text, &counters));
    let text = read_text(&at(grub::ENTRIES))?;
    let (entries, found) = match parsed(&text) {
        Some(found) => (text, found),
        // The file is torn or missing: the loader then reads the previous file, which must not be overwritten.
        None => (None, parsed(&read_text(&at(grub::ENTRIES_OLD))?).unwrap_or_default()),
    };
    Ok((LoaderFiles::Grub { config, entries, counters }, found))
}

#[cfg(test)]
mod tests {
    use super::super::entry::examples::{entry, target};
    use super::super::entry::{WantedEntry, assign_orders};
    use super::*;

    const ID: &str = "0123abcd";

    struct TestPartition {
        directory: tempfile::TempDir,
        loader: BootLoader,
    }

    impl TestPartition {
        fn new(kind: LoaderKind) -> Self {
            let directory = tempfile::tempdir().expect("a temporary directory");
            let loader = BootLoader::at(kind, directory.path());
            fs::create_dir_all(loader.kernels_directory(ID)).expect("made");
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
    fn every_step_leaves_the_old_or_the_new_menu() {
        for kind in KINDS {
            let changes: [&[&str]; 5] = [&["a"], &["b", "a"], &["a", "b"], &["c", "a"], &["c"]];
            let partition = TestPartition::new(kind);
            for change in changes {
                let menu = partition.menu();
                let before = menu.entries().to_vec();
                let assigned = assign_orders(&before, &wanted(change, Some(3).filter(|_| menu.counts_tries())));
                let steps = menu.plan_change(&assigned).expect("plannable");
                for step in &steps {
                    menu.apply(std::slice::from_ref(step)).expect("writable");
                    let now = partition.menu().entries().to_vec();
                    let top = now.first();
                    assert!(top == before.first() || top == assigned.first(), "{kind:?} {change:?} {step:?}: {now:?}");
                    let all: Vec<_> = before.iter().chain(&assigned).collect();
                    assert!(now.iter().all(|entry| all.contains(&entry)), "{kind:?} {change:?} {step:?}");
                }
                assert_eq!(partition.menu().entries(), assigned, "{kind:?} {change:?}");
                assert_eq!(
                    partition.menu().plan_change(&assigned).expect("plannable"),
                    [],
                    "{kind:?}: nothing left to do"
                );
                assert!(steps.is_empty() || steps.last() == Some(&MenuStep::Sync), "{kind:?}");
            }
        }
    }

    #[test]
    fn entries_are_removed_after_new_ones_are_synced() {
        let partition = TestPartition::new(LoaderKind::SystemdBoot);
        let menu = partition.menu();
        menu.apply(&menu.plan_change(&[entry(1, "a", None)]).expect("plannable")).expect("writable");
        let steps = partition.menu().plan_change(&[entry(2, "b", Some(3))]).expect("plannable");
        let position = |wanted: fn(&MenuStep) -> bool| steps.iter().position(wanted);
        let (write, remove) =
            (position(|s| matches!(s, MenuStep::Write { .. })), position(|s| matches!(s, MenuStep::Remove(_))));
        let sync = position(|step| *step == MenuStep::Sync);
        assert!(write < sync && sync < remove, "{steps:?}");
    }

    #[test]
    fn blessed_entry_is_not_counted() {
        for kind in [LoaderKind::SystemdBoot, LoaderKind::Grub] {
            let partition = TestPartition::new(kind);
            let menu = partition.menu();
            let entries = [entry(2, "b", Some(3)), entry(1, "a", None)];
            menu.apply(&menu.plan_change(&entries).expect("plannable")).expect("writable");
            let menu = partition.menu();
            assert_eq!(menu.entries()[0].tries.map(|tries| tries.left), Some(3), "{kind:?}");
            menu.apply(&menu.plan_bless(2).expect("plannable")).expect("writable");
            assert_eq!(partition.menu().entries(), [entry(2, "b", None), entry(1, "a", None)], "{kind:?}");
            assert_eq!(partition.menu().plan_bless(2).expect("plannable"), []);
        }
    }

    #[test]
    fn entries_and_files_of_other_systems_stay() {
        let partition = TestPartition::new(LoaderKind::SystemdBoot);
        let other = partition.loader.entries_directory().join("debian.conf");
        disk::make_directories(&partition.loader.entries_directory()).expect("made");
        disk::replace(&other, b"title Debian\nlinux /x\n").expect("written");
        let menu = partition.menu();
        menu.apply(&menu.plan_change(&[entry(1, "a", None)]).expect("plannable")).expect("writable");
        assert!(other.exists());
        assert_eq!(partition.orders(), [1]);

        let partition = TestPartition::new(LoaderKind::Grub);
        let config = partition.directory.path().join("grub/grub.cfg");
        disk::make_directories(config.parent().expect("inside")).expect("made");
        disk::replace(&config, b"menuentry 'Debian' { }\n").expect("written");
        let menu = partition.menu();
        menu.apply(&menu.plan_change(&[entry(1, "a", None)]).expect("plannable")).expect("writable");
        let kept = fs::read_to_string(config.with_file_name("grub.cfg.before-sapwood")).expect("kept");
        assert_eq!(kept, "menuentry 'Debian' { }\n");
        assert!(grub::is_static_config(&fs::read_to_string(&config).expect("written")));
        // Another program writes the configuration again: the entries are known, and the next change has them read again.
        assert!(!partition.menu().is_replaced());
        disk::replace(&config, b"menuentry 'Debian' { }\n").expect("written");
        let menu = partition.menu();
        assert!(menu.is_replaced());
        assert_eq!(partition.orders(), [1]);
        menu.apply(&menu.plan_change(menu.entries()).expect("plannable")).expect("writable");
        assert!(!partition.menu().is_replaced());
        // A configuration that grub-mkconfig made with the hook reads the entries, too.
        disk::replace(&config, format!("menuentry 'x' {{ }}\n{}", grub::hook_config()).as_bytes()).expect("written");
        let menu = partition.menu();
        assert!(!menu.is_replaced());
        assert_eq!(menu.plan_change(menu.entries()).expect("plannable"), []);
    }

    #[test]
    fn torn_grub_entries_fall_back_to_the_previous_file() {
        let partition = TestPartition::new(LoaderKind::Grub);
        for entries in [[entry(1, "a", None)], [entry(2, "b", None)]] {
            let menu = partition.menu();
            menu.apply(&menu.plan_change(&entries).expect("plannable")).expect("writable");
        }
        let path = partition.directory.path().join("grub/sapwood/entries.cfg");
        let text = fs::read_to_string(&path).expect("written");
        disk::replace(&path, &text.as_bytes()[..text.len() / 2]).expect("torn");
        assert_eq!(partition.orders(), [1]);
    }

    #[test]
    fn read_fails_if_the_partition_is_not_mounted() {
        let partition = TestPartition::new(LoaderKind::SystemdBoot);
        disk::remove_directory(&partition.loader.kernels_directory(ID)).expect("removed");
        assert!(matches!(Menu::read(&partition.loader, ID), Err(BootError::NotMounted(_))));
    }
}
