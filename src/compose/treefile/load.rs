//! Reads a treefile and the files it includes, and merges them into a [`Treefile`].
//!
//! *Not here*: the meaning of the keys (`decide`) and the syntax of one file (`raw`).
//!
//! *Used by* `cli::compose`.

use std::collections::BTreeSet;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::Treefile;
use super::decide::{UndecidedTreefile, is_package_file};
use super::error::{FileProblem, INCLUDE_DEPTH_MAX, Place, Problem, TreefileError};
use super::raw::{Include, OneOrMany, RawCheck, RawTreefile};
use super::variables::{VariableValue, Variables};
use crate::disk;

/// Largest file in bytes that is read as a treefile or named by one. Scripts have some kilobytes.
const TEXT_MAX: u64 = 4 << 20;

/// Most files that `add-files` may copy.
const ADDED_FILES_MAX: usize = 100_000;

/// Reads the treefile at `path` for machines of the architecture `arch`, as rpm names it.
///
/// # Errors
/// [`TreefileError`].
pub fn load(path: &Path, arch: &str) -> Result<Treefile, TreefileError> {
    let path = path.canonicalize().map_err(|source| TreefileError::Read { path: path.to_owned(), source })?;
    let mut loader = TreefileLoader { arch, seen: BTreeSet::new(), problems: Vec::new() };
    let raw = loader.read(&path, &Variables::new(arch), 0)?;
    if !loader.problems.is_empty() {
        return Err(TreefileError::Problems(loader.problems));
    }
    let directory = path.parent().unwrap_or(Path::new("/")).to_owned();
    let places = raw.places.clone();
    let undecided = UndecidedTreefile { variables: variables_of(&raw, &Variables::new(arch)), raw, directory, arch };
    undecided.decide().map_err(|error| match error.key().and_then(|key| places.get(key)) {
        Some((path, place)) => {
            let problem = Problem { place: *place, what: error.describe() };
            TreefileError::Problems(vec![FileProblem { path: path.clone(), problem }])
        }
        None => error,
    })
}

struct TreefileLoader<'a> {
    arch: &'a str,
    seen: BTreeSet<PathBuf>,
    /// The problems of the files read so far.
    problems: Vec<FileProblem>,
}

impl TreefileLoader<'_> {
    /// Reads one file and all it includes. `outer` are the variables of the files that include it.
    fn read(&mut self, path: &Path, outer: &Variables, depth: usize) -> Result<RawTreefile, TreefileError> {
        if depth > INCLUDE_DEPTH_MAX {
            return Err(TreefileError::Deep(path.to_owned()));
        }
        if path.extension().is_some_and(|extension| extension == "ks") {
            return Err(TreefileError::Kickstart(path.to_owned()));
        }
        if !self.seen.insert(path.to_owned()) {
            return Err(TreefileError::Twice(path.to_owned()));
        }
        let text = read_text(path)?;
        let raw = match RawTreefile::parse(&text, path) {
            Ok(raw) => raw,
            Err(problems) => {
                self.problems
                    .extend(problems.into_iter().map(|problem| FileProblem { path: path.to_owned(), problem }));
                return Ok(RawTreefile::default());
            }
        };
        self.merge_includes(raw, path, outer, depth)
    }

    /// Merges the keys of the file `path`, or those of an inline include in it, with all that they include.
    fn merge_includes(
        &mut self,
        mut raw: RawTreefile,
        path: &Path,
        outer: &Variables,
        depth: usize,
    ) -> Result<RawTreefile, TreefileError> {
        let directory = path.parent().unwrap_or(Path::new("/"));
        resolve_file_names(&mut raw, directory)?;
        let variables = variables_of(&raw, outer);
        for include in self.includes(&raw, &variables, path) {
            let included = match include {
                Include::Inline(_) | Include::Several(_) if depth >= INCLUDE_DEPTH_MAX => {
                    return Err(TreefileError::Deep(path.to_owned()));
                }
                Include::File(file) => {
                    let file = directory.join(&file);
                    let file = file.canonicalize().map_err(|source| TreefileError::Read { path: file, source })?;
                    self.read(&file, &variables, depth + 1)?
                }
                Include::Inline(inline) => self.merge_includes(*inline, path, &variables, depth + 1)?,
                Include::Several(include) => {
                    let raw = RawTreefile { include: Some(Include::Several(include)), ..RawTreefile::default() };
                    self.merge_includes(raw, path, &variables, depth + 1)?
                }
            };
            raw = raw.merge_included(included);
        }
        Ok(raw)
    }

    /// Returns the files and keys to include. A condition that cannot be evaluated is a problem.
    fn includes(&mut self, raw: &RawTreefile, variables: &Variables, path: &Path) -> Vec<Include> {
        let mut includes: Vec<Include> = Vec::new();
        let mut add = |more: &Include| match more {
            Include::Several(several) => includes.extend(several.iter().cloned()),
            single => includes.push(single.clone()),
        };
        raw.include.iter().for_each(&mut add);
        raw.arch_include.get(self.arch).into_iter().for_each(&mut add);
        let key = "conditional-include";
        for conditional in &raw.conditional_include {
            let held: Result<Vec<bool>, _> =
                conditional.conditions.as_slice().iter().map(|condition| variables.evaluate(condition)).collect();
            match held {
                Ok(held) if held.iter().all(|holds| *holds) => add(&conditional.include),
                Ok(_) => {}
                Err(source) => {
                    let place = raw.places.get(key).map_or(Place { line: 1, column: 1 }, |(_, place)| *place);
                    let problem = Problem { place, what: TreefileError::Variable { key, source }.describe() };
                    self.problems.push(FileProblem { path: path.to_owned(), problem });
                }
            }
        }
        includes
    }
}

/// Reads a text file of limited size. A treefile may come from an untrusted place, so this neither blocks on the files it
/// names (such as a fifo) nor reads ones without an end (such as a device).
fn read_text(path: &Path) -> Result<String, TreefileError> {
    let failed = |source| TreefileError::Read { path: path.to_owned(), source };
    let file = disk::open_regular_file(path).map_err(failed)?;
    let mut text = String::new();
    file.take(TEXT_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > TEXT_MAX {
        return Err(failed(io::Error::from(io::ErrorKind::FileTooLarge)));
    }
    Ok(text)
}

fn variables_of(raw: &RawTreefile, outer: &Variables) -> Variables {
    let mut variables = outer.clone();
    for (name, value) in &raw.variables {
        variables.set_default(name, value.clone());
    }
    if let Some(release) = &raw.releasever {
        variables.set_default("releasever", VariableValue::Text(release.clone()));
    }
    variables
}

/// Adds a file, or each file below a directory, with its destination. Links are followed to files only.
fn add_files_below(source: &Path, destination: &str, added: &mut Vec<(String, String)>) -> Result<(), TreefileError> {
    if added.len() >= ADDED_FILES_MAX {
        let what = format!("more than {ADDED_FILES_MAX} files, the last one below {}", source.display());
        return Err(TreefileError::Value { key: "add-files", what });
    }
    if !source.is_dir() {
        added.push((source.to_string_lossy().into_owned(), destination.to_owned()));
        return Ok(());
    }
    let failed = |error| TreefileError::Read { path: source.to_owned(), source: error };
    let mut entries = source.read_dir().map_err(failed)?.collect::<io::Result<Vec<_>>>().map_err(failed)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if path.is_symlink() && path.is_dir() {
            let what = format!("{} is a link to a directory", path.display());
            return Err(TreefileError::Value { key: "add-files", what });
        }
        let below = format!("{}/{}", destination.trim_end_matches('/'), entry.file_name().to_string_lossy());
        add_files_below(&path, &below, added)?;
    }
    Ok(())
}

/// Makes the file names in `raw` absolute, and replaces the names of files whose text is needed by that text.
fn resolve_file_names(raw: &mut RawTreefile, directory: &Path) -> Result<(), TreefileError> {
    let absolute_path = |name: &str| directory.join(name).to_string_lossy().into_owned();
    let mut added = Vec::new();
    for (source, destination) in std::mem::take(&mut raw.add_files) {
        let source = PathBuf::from(absolute_path(&source));
        add_files_below(&source, &destination, &mut added)?;
    }
    raw.add_files = added;
    let packages = raw.packages.iter_mut().chain(raw.packages_by_arch.values_mut().flatten());
    for package in packages.filter(|package| is_package_file(package)) {
        *package = absolute_path(package);
    }
    if let Some(script) = &mut raw.postprocess_script {
        *script = read_text(&directory.join(&*script))?;
    }
    for check in [&mut raw.check_passwd, &mut raw.check_groups].into_iter().flatten() {
        if let RawCheck::File { filename } = check {
            *filename = read_text(&directory.join(&*filename))?;
        }
    }
    if let Some(sources) = &mut raw.apt_sources {
        let mut texts = sources.as_slice().to_vec();
        for text in &mut texts {
            if !text.contains(':') || text.ends_with(".sources") || text.ends_with(".list") {
                *text = read_text(&directory.join(&*text))?;
            }
        }
        *sources = OneOrMany::Many(texts);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{EngineKind, UserCheck};
    use super::*;

    fn write(directory: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            crate::disk::replace(&directory.join(name), text.as_bytes()).expect("writable");
        }
    }

    #[test]
    fn includes_conditions_and_variables_are_merged() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        write(
            directory.path(),
            &[
                (
                    "main.yaml",
                    "ref: os/${basearch}/${stream}\ndistribution: debian\nvariables: {stream: devel, dev: true}\n\
                     include: [a.yaml, b.yaml]\narch-include: {x86_64: x86.yaml, s390x: missing.yaml}\n\
                     conditional-include:\n  - if: dev == true\n    include: dev.yaml\n  - if: [dev == true, stream == stable]\n    include: missing.yaml\n\
                     packages: [main]\npostprocess: [echo main]\nadd-commit-metadata: {a.b: true, c: '${stream}'}\n",
                ),
                (
                    "a.yaml",
                    "packages: [a, 'x y', \"'z = 4'\", ./local.deb]\npostprocess: [echo a]\nrecommends: false\n",
                ),
                ("b.yaml", "packages: [b]\npostprocess: [echo b]\nrecommends: true\n"),
                ("x86.yaml", "packages-x86_64: [grub]\npackages-aarch64: [uboot]\n"),
                ("dev.yaml", "packages: [gdb]\nadd-files: [[motd, /etc/motd]]\n"),
            ],
        );
        let tree = load(&directory.path().join("main.yaml"), "x86_64").expect("valid");
        assert_eq!(tree.ref_name.as_str(), "os/x86_64/devel");
        assert_eq!(tree.engine, EngineKind::Apt);
        assert_eq!(tree.packages, ["gdb", "b", "a", "x", "y", "z=4", "main", "grub"]);
        assert_eq!(tree.scripts, ["echo b", "echo a", "echo main"]);
        assert!(!tree.recommends, "the first included file wins over the second");
        let directory = directory.path().canonicalize().expect("the directory exists");
        assert_eq!(tree.local_packages, [directory.join("./local.deb")]);
        assert_eq!(tree.add_files[0].source, directory.join("motd"));
        assert_eq!(tree.commit_metadata["a.b"], "true");
        assert_eq!(tree.commit_metadata["c"], "devel");
    }

    #[test]
    fn directories_in_add_files_stand_for_their_files() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let tree = directory.path().join("etc/conf.d");
        std::fs::create_dir_all(&tree).expect("writable");
        write(&tree, &[("b", "b"), ("a", "a")]);
        let main = directory.path().join("main.yaml");
        write(directory.path(), &[("main.yaml", "ref: a\nengine: apt\nadd-files: [[etc, /usr/etc/]]\n")]);
        let read = load(&main, "x86_64").expect("valid");
        let destinations: Vec<&str> = read.add_files.iter().map(|file| file.destination.as_str()).collect();
        assert_eq!(destinations, ["/usr/etc/conf.d/a", "/usr/etc/conf.d/b"]);
        std::os::unix::fs::symlink("..", tree.join("up")).expect("writable");
        let message = load(&main, "x86_64").expect_err("a link to a directory").to_string();
        assert!(message.contains("is a link to a directory"), "{message}");
    }

    #[test]
    fn load_errors_say_what_is_wrong() {
        let cases = [
            ("distribution: debian\n", "'ref' is missing"),
            ("ref: a b\ndistribution: debian\n", "'ref'"),
            ("ref: a\n", "say which packages are meant"),
            ("ref: a\ndistribution: arch\n", "main.yaml: line 2, column 1: 'distribution': 'arch' is not known"),
            ("ref: a\nengine: apt\npackages: [nano, 'b >= 4']\n", "line 3, column 1: 'packages': '>='"),
            ("ref: '${x}'\nengine: apt\n", "'ref'"),
            ("ref: a\nengine: yum\n", "'engine: yum' is none of: apt, dnf"),
            ("ref: a\nengine: apt\ninclude: none.yaml\n", "cannot read"),
            ("ref: a\nengine: apt\ninclude: [main.yaml]\n", "is included twice"),
            ("ref: a\nengine: apt\napt-sources: 'nonsense: here'\n", "neither a deb822 stanza"),
            ("ref: a\nengine: apt\nremove-from-packages: [[x]]\n", "each entry is a package"),
            ("ref: a\nengine: apt\ninclude: a.ks\n", "cannot read"),
            ("ref: a\nengine: apt\npackage: [b]\n", "main.yaml"),
            ("ref: a\nengine: dnf\ninstall-langs: ['%(id)']\n", "'install-langs': '%(id)'"),
            ("ref: a\nengine: dnf\ninstall-langs: [\"C\\n%_dbpath x\"]\n", "'install-langs'"),
            ("ref: a\nengine: dnf\nrepos: ['--setopt=x']\n", "'repos': '--setopt=x'"),
            ("ref: a\nengine: dnf\nreleasever: '1 %(id)'\n", "'releasever'"),
        ];
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("main.yaml");
        for (text, expected) in cases {
            write(directory.path(), &[("main.yaml", text)]);
            let message = load(&path, "x86_64").expect_err(text).to_string();
            assert!(message.contains(expected), "{text:?}: {message}");
        }
    }

    #[test]
    fn rpm_ostree_treefile_is_read() {
        let text = "ref: fedora/${basearch}/iot\nreleasever: 42\nrepos: [fedora, updates]\nselinux: true\n\
            documentation: false\nboot-location: modules\ntmp-is-dir: true\nmachineid-compat: false\n\
            automatic_version_prefix: '${releasever}.<date:%Y%m%d>'\nmutate-os-release: '${releasever}'\n\
            check-passwd: {type: data, entries: {bin: 1, adm: [3, 4]}}\ncheck-groups: {type: previous}\n\
            etc-group-members: [wheel]\ninstall-langs: [en_US]\npackages: [kernel, systemd]\n\
            remove-from-packages: [[cpio, '/usr/share/.*']]\ninitramfs-args: [--no-hostonly]\n";
        let directory = tempfile::tempdir().expect("a temporary directory");
        write(directory.path(), &[("fedora.yaml", text)]);
        let tree = load(&directory.path().join("fedora.yaml"), "aarch64").expect("valid");
        assert_eq!((tree.engine, tree.selinux, tree.machineid_compat), (EngineKind::Dnf, true, false));
        assert_eq!(tree.version_prefix.as_deref(), Some("42.<date:%Y%m%d>"));
        assert_eq!(tree.check_groups, UserCheck::Previous);
        let UserCheck::Data(entries) = tree.check_passwd else { panic!("data") };
        assert_eq!(entries["adm"], (3, Some(4)));
    }
}
