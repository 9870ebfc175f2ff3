//! From a file name to a [`Treefile`]: includes, variables, decisions.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::raw::{OneOrMany, Raw, RawCheck, RawIds, SyntaxError};
use super::variables::{Value, VariableError, Variables};
use super::{AddFile, AptSource, EngineKind, InitramfsKind, OptUsrLocal, Treefile, UserCheck, Variant};
use crate::model::RefNameError;

/// Longest text that a treefile may name, in bytes. Scripts are some kilobytes.
const TEXT_MAX: u64 = 4 << 20;

/// How deep files may include each other.
const DEPTH_MAX: usize = 32;

/// Why a treefile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is wrong.
    #[error("{}", .path.display())]
    Syntax {
        /// Which.
        path: PathBuf,
        /// What and where.
        source: SyntaxError,
    },
    /// A file is included twice, or files include each other.
    #[error("{} is included twice", .0.display())]
    Twice(PathBuf),
    /// Includes that go too deep.
    #[error("{} is included more than {DEPTH_MAX} levels deep", .0.display())]
    Deep(PathBuf),
    /// A kickstart file.
    #[error("{} is a kickstart file, which is not supported: write a treefile", .0.display())]
    Kickstart(PathBuf),
    /// A variable or a condition.
    #[error("'{key}'")]
    Variable {
        /// The key it stands at.
        key: &'static str,
        /// What is wrong.
        source: VariableError,
    },
    /// No `ref`.
    #[error("'ref' is missing: it names the commits, as in 'ref: debian/12/${{basearch}}/server'")]
    NoRef,
    /// A `ref` that is no name.
    #[error("'ref'")]
    Ref(#[source] RefNameError),
    /// Neither `distribution` nor `engine`.
    #[error(
        "say which packages are meant: 'distribution: debian' (or ubuntu, fedora, centos, …) or 'engine: apt' or dnf"
    )]
    NoEngine,
    /// A value that is none of those there are.
    #[error("'{key}: {found}' is none of: {expected}")]
    Choice {
        /// The key.
        key: &'static str,
        /// What stands there.
        found: String,
        /// What may.
        expected: &'static str,
    },
    /// A value that makes no sense.
    #[error("'{key}': {what}")]
    Value {
        /// The key.
        key: &'static str,
        /// What is wrong.
        what: String,
    },
}

/// Reads the treefile at `path` for machines of `arch` (as rpm calls it).
///
/// # Errors
/// [`LoadError`].
pub fn load(path: &Path, arch: &str) -> Result<Treefile, LoadError> {
    let path = path.canonicalize().map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
    let mut loader = Loader { arch, seen: BTreeSet::new() };
    let raw = loader.read(&path, &Variables::new(arch), 0)?;
    let directory = path.parent().unwrap_or(Path::new("/")).to_owned();
    Decision { variables: variables_of(&raw, &Variables::new(arch)), raw, directory, arch }.treefile()
}

struct Loader<'a> {
    arch: &'a str,
    seen: BTreeSet<PathBuf>,
}

impl Loader<'_> {
    /// One file with all it includes. `outer` are the variables of the files that include it.
    fn read(&mut self, path: &Path, outer: &Variables, depth: usize) -> Result<Raw, LoadError> {
        if depth > DEPTH_MAX {
            return Err(LoadError::Deep(path.to_owned()));
        }
        if path.extension().is_some_and(|extension| extension == "ks") {
            return Err(LoadError::Kickstart(path.to_owned()));
        }
        if !self.seen.insert(path.to_owned()) {
            return Err(LoadError::Twice(path.to_owned()));
        }
        let text = read_text(path)?;
        let mut raw = Raw::parse(&text).map_err(|source| LoadError::Syntax { path: path.to_owned(), source })?;
        let directory = path.parent().unwrap_or(Path::new("/"));
        absolute(&mut raw, directory)?;
        let variables = variables_of(&raw, outer);
        for file in self.includes(&raw, &variables)? {
            let file = directory.join(&file);
            let file = file.canonicalize().map_err(|source| LoadError::Read { path: file, source })?;
            let included = self.read(&file, &variables, depth + 1)?;
            raw = raw.over(included);
        }
        Ok(raw)
    }

    fn includes(&self, raw: &Raw, variables: &Variables) -> Result<Vec<String>, LoadError> {
        let mut files: Vec<String> = Vec::new();
        let mut add = |more: &OneOrMany| files.extend(more.as_slice().iter().cloned());
        raw.include.iter().for_each(&mut add);
        raw.arch_include.get(self.arch).into_iter().for_each(&mut add);
        for conditional in &raw.conditional_include {
            let mut holds = true;
            for condition in conditional.conditions.as_slice() {
                holds &= variables
                    .holds(condition)
                    .map_err(|source| LoadError::Variable { key: "conditional-include", source })?;
            }
            if holds {
                add(&conditional.include);
            }
        }
        Ok(files)
    }
}

/// A treefile may come from anywhere: nothing that it names is waited for, and nothing without an end is read.
fn read_text(path: &Path) -> Result<String, LoadError> {
    let failed = |source| LoadError::Read { path: path.to_owned(), source };
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(failed(io::Error::other("not a regular file")));
    }
    let mut text = String::new();
    file.take(TEXT_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > TEXT_MAX {
        return Err(failed(io::Error::from(io::ErrorKind::FileTooLarge)));
    }
    Ok(text)
}

fn variables_of(raw: &Raw, outer: &Variables) -> Variables {
    let mut variables = outer.clone();
    for (name, value) in &raw.variables {
        variables.set_default(name, value.clone());
    }
    if let Some(release) = &raw.releasever {
        variables.set_default("releasever", Value::Text(release.clone()));
    }
    variables
}

/// Makes the file names in `raw` independent of where they were written, and reads those that are short.
fn absolute(raw: &mut Raw, directory: &Path) -> Result<(), LoadError> {
    let place = |name: &str| directory.join(name).to_string_lossy().into_owned();
    for (source, _) in &mut raw.add_files {
        *source = place(source);
    }
    let packages = [&mut raw.packages, &mut raw.packages_x86_64, &mut raw.packages_aarch64];
    for package in packages.into_iter().flatten().filter(|package| is_file(package)) {
        *package = place(package);
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

/// Whether an entry of `packages` is a file.
fn is_file(package: &str) -> bool {
    package.contains('/') && (package.ends_with(".deb") || package.ends_with(".rpm"))
}

/// The last step: one value for each question.
struct Decision<'a> {
    raw: Raw,
    variables: Variables,
    directory: PathBuf,
    arch: &'a str,
}

impl Decision<'_> {
    fn treefile(self) -> Result<Treefile, LoadError> {
        let raw = &self.raw;
        let reference = self.text("ref", raw.reference.as_deref())?.ok_or(LoadError::NoRef)?;
        let (distribution, engine) = self.engine()?;
        let container = raw.container.unwrap_or(false);
        let (local, named) = self.packages();
        Ok(Treefile {
            ref_name: reference.parse().map_err(LoadError::Ref)?,
            directory: self.directory.clone(),
            distribution,
            engine,
            variant: self.variant()?,
            arch: self.arch.to_owned(),
            releasever: raw.releasever.clone(),
            apt_sources: self.apt_sources()?,
            repos: raw.repos.clone(),
            unsigned_repos: raw.unsigned_repos.clone(),
            packages: named,
            local_packages: local,
            exclude_packages: raw.exclude_packages.clone(),
            recommends: raw.recommends.unwrap_or(true),
            documentation: raw.documentation.unwrap_or(true),
            install_langs: raw.install_langs.clone(),
            units: raw.units.clone(),
            default_target: raw.default_target.clone(),
            add_files: raw
                .add_files
                .iter()
                .map(|(source, destination)| AddFile { source: source.into(), destination: destination.clone() })
                .collect(),
            remove_files: raw.remove_files.clone(),
            remove_from_packages: self.remove_from_packages()?,
            scripts: raw.postprocess.iter().chain(&raw.postprocess_script).cloned().collect(),
            container,
            kernel: raw.kernel.clone(),
            initramfs: self.initramfs(container)?,
            initramfs_args: raw.initramfs_args.clone(),
            selinux: raw.selinux.unwrap_or(engine == EngineKind::Dnf) && !container,
            machineid_compat: raw.machineid_compat.unwrap_or(true),
            tmp_is_dir: raw.tmp_is_dir.unwrap_or(true),
            opt_usrlocal: self.opt_usrlocal()?,
            readonly_executables: raw.readonly_executables.unwrap_or(false),
            ignore_devices: raw.ignore_devices.unwrap_or(true),
            preserve_passwd: raw.preserve_passwd.unwrap_or(true),
            check_passwd: user_check("check-passwd", raw.check_passwd.as_ref())?,
            check_groups: user_check("check-groups", raw.check_groups.as_ref())?,
            ignore_removed_users: raw.ignore_removed_users.clone(),
            ignore_removed_groups: raw.ignore_removed_groups.clone(),
            version_prefix: self.text("automatic-version-prefix", raw.automatic_version_prefix.as_deref())?,
            version_suffix: self.suffix()?,
            mutate_os_release: self.text("mutate-os-release", raw.mutate_os_release.as_deref())?,
            commit_metadata: self.commit_metadata()?,
        })
    }

    fn text(&self, key: &'static str, text: Option<&str>) -> Result<Option<String>, LoadError> {
        let substitute = |text| self.variables.substitute(text).map_err(|source| LoadError::Variable { key, source });
        text.map(substitute).transpose()
    }

    fn engine(&self) -> Result<(String, EngineKind), LoadError> {
        let engine = match self.raw.engine.as_deref() {
            None => None,
            Some("apt") => Some(EngineKind::Apt),
            Some("dnf") => Some(EngineKind::Dnf),
            Some(found) => return Err(choice("engine", found, "apt, dnf")),
        };
        let distribution = self.raw.distribution.as_deref().map(str::to_lowercase);
        let usual = match distribution.as_deref() {
            Some("debian" | "ubuntu" | "devuan" | "kali" | "raspbian") => Some(EngineKind::Apt),
            Some("fedora" | "centos" | "rhel" | "almalinux" | "rocky" | "opensuse" | "mageia") => Some(EngineKind::Dnf),
            // A treefile of rpm-ostree says nothing else.
            None if !self.raw.repos.is_empty() => Some(EngineKind::Dnf),
            _ => None,
        };
        let engine = engine.or(usual).ok_or(LoadError::NoEngine)?;
        let fallback = match engine {
            EngineKind::Apt => "debian",
            EngineKind::Dnf => "rpm",
        };
        Ok((distribution.unwrap_or_else(|| fallback.to_owned()), engine))
    }

    fn variant(&self) -> Result<Variant, LoadError> {
        match self.raw.variant.as_deref() {
            None | Some("required" | "minbase") => Ok(Variant::Required),
            Some("essential") => Ok(Variant::Essential),
            Some("important") => Ok(Variant::Important),
            Some("standard") => Ok(Variant::Standard),
            Some(found) => Err(choice("variant", found, "essential, required (minbase), important, standard")),
        }
    }

    fn apt_sources(&self) -> Result<Vec<AptSource>, LoadError> {
        let texts = self.raw.apt_sources.as_ref().map_or(&[][..], OneOrMany::as_slice);
        let mut sources = Vec::new();
        for text in texts {
            let text = self.text("apt-sources", Some(text))?.unwrap_or_default();
            let is_line = |line: &str| line.starts_with("deb ") || line.starts_with("deb-src ");
            if text.lines().any(|line| is_line(line.trim_start())) {
                sources.push(AptSource::Lines(text));
            } else if text.lines().any(|line| line.to_lowercase().starts_with("types:")) {
                sources.push(AptSource::Stanzas(text));
            } else {
                let what = "neither a deb822 stanza with 'Types:' nor a line that starts with 'deb '".to_owned();
                return Err(LoadError::Value { key: "apt-sources", what });
            }
        }
        Ok(sources)
    }

    /// Local files, and the words of the other entries. An entry in single quotes is one word.
    fn packages(&self) -> (Vec<PathBuf>, Vec<String>) {
        let (mut local, mut named) = (Vec::new(), Vec::new());
        for entry in self.raw.packages_for(self.arch) {
            let quoted = entry.strip_prefix('\'').and_then(|entry| entry.strip_suffix('\''));
            match quoted {
                _ if is_file(&entry) => local.push(PathBuf::from(entry)),
                Some(query) => named.push(query.to_owned()),
                None => named.extend(entry.split_whitespace().map(str::to_owned)),
            }
        }
        let mut seen = BTreeSet::new();
        named.retain(|name| seen.insert(name.clone()));
        (local, named)
    }

    fn remove_from_packages(&self) -> Result<Vec<(String, Vec<String>)>, LoadError> {
        let key = "remove-from-packages";
        let split = |entry: &Vec<String>| match &entry[..] {
            [package, expressions @ ..] if !expressions.is_empty() => Ok((package.clone(), expressions.to_vec())),
            _ => Err(LoadError::Value { key, what: "each entry is a package and at least one expression".to_owned() }),
        };
        self.raw.remove_from_packages.iter().map(split).collect()
    }

    fn initramfs(&self, container: bool) -> Result<InitramfsKind, LoadError> {
        match self.raw.initramfs.as_deref() {
            _ if container || self.raw.no_initramfs == Some(true) => Ok(InitramfsKind::None),
            None | Some("auto") => Ok(InitramfsKind::Auto),
            Some("dracut") => Ok(InitramfsKind::Dracut),
            Some("initramfs-tools") => Ok(InitramfsKind::InitramfsTools),
            Some("none") => Ok(InitramfsKind::None),
            Some(found) => Err(choice("initramfs", found, "auto, dracut, initramfs-tools, none")),
        }
    }

    fn opt_usrlocal(&self) -> Result<OptUsrLocal, LoadError> {
        match self.raw.opt_usrlocal.as_deref() {
            None | Some("var") => Ok(OptUsrLocal::Var),
            Some("root") => Ok(OptUsrLocal::Root),
            Some(found) => Err(choice("opt-usrlocal", found, "var, root")),
        }
    }

    fn suffix(&self) -> Result<char, LoadError> {
        let text = self.raw.automatic_version_suffix.as_deref().unwrap_or(".");
        let mut characters = text.chars();
        match (characters.next(), characters.next()) {
            (Some(suffix), None) if suffix.is_ascii() => Ok(suffix),
            _ => Err(LoadError::Value {
                key: "automatic-version-suffix",
                what: format!("'{text}' is not one ASCII character"),
            }),
        }
    }

    fn commit_metadata(&self) -> Result<BTreeMap<String, String>, LoadError> {
        let mut metadata = BTreeMap::new();
        for (key, value) in &self.raw.add_commit_metadata {
            let value = match value {
                serde_json::Value::String(text) => self.text("add-commit-metadata", Some(text))?.unwrap_or_default(),
                other => other.to_string(),
            };
            if key.contains('\0') || key.starts_with("compose.") {
                let what = format!("'{key}' is not free to be set");
                return Err(LoadError::Value { key: "add-commit-metadata", what });
            }
            metadata.insert(key.clone(), value);
        }
        Ok(metadata)
    }
}

fn choice(key: &'static str, found: &str, expected: &'static str) -> LoadError {
    LoadError::Choice { key, found: found.to_owned(), expected }
}

fn user_check(key: &'static str, check: Option<&RawCheck>) -> Result<UserCheck, LoadError> {
    Ok(match check {
        None | Some(RawCheck::None) => UserCheck::None,
        Some(RawCheck::Previous) => UserCheck::Previous,
        Some(RawCheck::File { filename }) => UserCheck::File(filename.clone()),
        Some(RawCheck::Data { entries }) => {
            let mut ids = BTreeMap::new();
            for (name, value) in entries {
                let pair = match value {
                    RawIds::One(id) => (*id, None),
                    RawIds::Several(list) => match list[..] {
                        [id] => (id, None),
                        [uid, gid] => (uid, Some(gid)),
                        _ => {
                            return Err(LoadError::Value {
                                key,
                                what: format!("'{name}' has neither one number nor two"),
                            });
                        }
                    },
                };
                ids.insert(name.clone(), pair);
            }
            UserCheck::Data(ids)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(directory: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            crate::disk::replace(&directory.join(name), text.as_bytes()).expect("writable");
        }
    }

    #[test]
    fn includes_conditions_and_variables_add_up() {
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
                    "packages: [a, 'x y', \"'z >= 4'\", ./local.deb]\npostprocess: [echo a]\nrecommends: false\n",
                ),
                ("b.yaml", "packages: [b]\npostprocess: [echo b]\nrecommends: true\n"),
                ("x86.yaml", "packages-x86_64: [grub]\npackages-aarch64: [uboot]\n"),
                ("dev.yaml", "packages: [gdb]\nadd-files: [[motd, /etc/motd]]\n"),
            ],
        );
        let tree = load(&directory.path().join("main.yaml"), "x86_64").expect("legal");
        assert_eq!(tree.ref_name.as_str(), "os/x86_64/devel");
        assert_eq!(tree.engine, EngineKind::Apt);
        assert_eq!(tree.packages, ["gdb", "b", "a", "x", "y", "z >= 4", "main", "grub"]);
        assert_eq!(tree.scripts, ["echo b", "echo a", "echo main"]);
        assert!(!tree.recommends, "the first included file wins over the second");
        let directory = directory.path().canonicalize().expect("there");
        assert_eq!(tree.local_packages, [directory.join("./local.deb")]);
        assert_eq!(tree.add_files[0].source, directory.join("motd"));
        assert_eq!(tree.commit_metadata["a.b"], "true");
        assert_eq!(tree.commit_metadata["c"], "devel");
    }

    #[test]
    fn what_cannot_be_used_says_why() {
        let cases = [
            ("distribution: debian\n", "'ref' is missing"),
            ("ref: a b\ndistribution: debian\n", "'ref'"),
            ("ref: a\n", "say which packages are meant"),
            ("ref: '${x}'\nengine: apt\n", "'ref'"),
            ("ref: a\nengine: yum\n", "'engine: yum' is none of: apt, dnf"),
            ("ref: a\nengine: apt\ninclude: none.yaml\n", "cannot read"),
            ("ref: a\nengine: apt\ninclude: [main.yaml]\n", "is included twice"),
            ("ref: a\nengine: apt\napt-sources: 'nonsense: here'\n", "neither a deb822 stanza"),
            ("ref: a\nengine: apt\nremove-from-packages: [[x]]\n", "each entry is a package"),
            ("ref: a\nengine: apt\ninclude: a.ks\n", "cannot read"),
            ("ref: a\nengine: apt\npackage: [b]\n", "main.yaml"),
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
    fn a_treefile_of_rpm_ostree_is_read() {
        let text = "ref: fedora/${basearch}/iot\nreleasever: 42\nrepos: [fedora, updates]\nselinux: true\n\
            documentation: false\nboot-location: modules\ntmp-is-dir: true\nmachineid-compat: false\n\
            automatic_version_prefix: '${releasever}.<date:%Y%m%d>'\nmutate-os-release: '${releasever}'\n\
            check-passwd: {type: data, entries: {bin: 1, adm: [3, 4]}}\ncheck-groups: {type: previous}\n\
            etc-group-members: [wheel]\ninstall-langs: [en_US]\npackages: [kernel, systemd]\n\
            remove-from-packages: [[cpio, '/usr/share/.*']]\ninitramfs-args: [--no-hostonly]\n";
        let directory = tempfile::tempdir().expect("a temporary directory");
        write(directory.path(), &[("fedora.yaml", text)]);
        let tree = load(&directory.path().join("fedora.yaml"), "aarch64").expect("legal");
        assert_eq!((tree.engine, tree.selinux, tree.machineid_compat), (EngineKind::Dnf, true, false));
        assert_eq!(tree.version_prefix.as_deref(), Some("42.<date:%Y%m%d>"));
        assert_eq!(tree.check_groups, UserCheck::Previous);
        let UserCheck::Data(entries) = tree.check_passwd else { panic!("data") };
        assert_eq!(entries["adm"], (3, Some(4)));
    }
}
