//! Turns the merged raw keys of all files into a [`Treefile`], with a default for every key that is not set.
//!
//! *Not here*: reading and merging files (`load`, `raw`).
//!
//! *Used by* `load`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::error::TreefileError;
use super::package_form::package_argument;
use super::raw::{OneOrMany, RawCheck, RawIds, RawTreefile};
use super::variables::Variables;
use super::{AddFile, AptSource, EngineKind, InitramfsKind, OptUsrLocal, Treefile, UserCheck, Variant, debian_arch};

/// The input of the last step, which gives every key one value.
pub(super) struct UndecidedTreefile<'a> {
    /// The merged keys of all files.
    pub(crate) raw: RawTreefile,
    /// The values of `${NAME}`.
    pub(crate) variables: Variables,
    /// The directory of the first file.
    pub(crate) directory: PathBuf,
    /// The architecture, as rpm names it.
    pub(crate) arch: &'a str,
}

impl UndecidedTreefile<'_> {
    pub(crate) fn decide(self) -> Result<Treefile, TreefileError> {
        let raw = &self.raw;
        let reference = self.substituted("ref", raw.reference.as_deref())?.ok_or(TreefileError::NoRef)?;
        let (distribution, engine) = self.engine()?;
        let container = raw.container.unwrap_or(false);
        let (local, named) = self.packages(engine)?;
        check_words("install-langs", &raw.install_langs)?;
        check_words("repos", &raw.repos)?;
        check_words("releasever", raw.releasever.as_slice())?;
        Ok(Treefile {
            ref_name: reference.parse().map_err(TreefileError::Ref)?,
            directory: self.directory.clone(),
            base: self.base()?,
            distribution,
            engine,
            variant: self.variant()?,
            arch: self.arch.to_owned(),
            releasever: raw.releasever.clone(),
            apt_sources: self.apt_sources()?,
            repos: raw.repos.clone(),
            unsigned_repos: raw.unsigned_repos.clone(),
            packages: named,
            repo_packages: self.repo_packages(engine)?,
            local_packages: local,
            exclude_packages: raw.exclude_packages.clone(),
            recommends: raw.recommends.unwrap_or(true),
            documentation: raw.documentation.unwrap_or(true),
            install_langs: raw.install_langs.clone(),
            keep_identities: raw.keep_identities.clone(),
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
            version_prefix: self.substituted("automatic-version-prefix", raw.automatic_version_prefix.as_deref())?,
            version_suffix: self.version_suffix()?,
            mutate_os_release: self.substituted("mutate-os-release", raw.mutate_os_release.as_deref())?,
            commit_metadata: self.commit_metadata()?,
            notes: raw.notes.clone(),
        })
    }

    fn substituted(&self, key: &'static str, text: Option<&str>) -> Result<Option<String>, TreefileError> {
        let substitute =
            |text| self.variables.substitute(text).map_err(|source| TreefileError::Variable { key, source });
        text.map(substitute).transpose()
    }

    /// Returns `base`, without what would only have a meaning for an empty root.
    fn base(&self) -> Result<Option<String>, TreefileError> {
        let base = self.substituted("base", self.raw.base.as_deref())?;
        if base.is_some() && self.raw.variant.is_some() {
            let what = "with 'base', the base says which packages are there; leave 'variant' out".to_owned();
            return Err(TreefileError::Value { key: "variant", what });
        }
        Ok(base)
    }

    fn engine(&self) -> Result<(String, EngineKind), TreefileError> {
        let engine = match self.raw.engine.as_deref() {
            None => None,
            Some("apt") => Some(EngineKind::Apt),
            Some("dnf") => Some(EngineKind::Dnf),
            Some(found) => return Err(choice_error("engine", found, "apt, dnf")),
        };
        let distribution = self.raw.distribution.as_deref().map(str::to_lowercase);
        let usual = match distribution.as_deref() {
            Some("debian" | "ubuntu" | "devuan" | "kali" | "raspbian") => Some(EngineKind::Apt),
            Some("fedora" | "centos" | "rhel" | "almalinux" | "rocky" | "opensuse" | "mageia") => Some(EngineKind::Dnf),
            // A treefile of rpm-ostree has neither key, but always `repos`.
            None if !self.raw.repos.is_empty() => Some(EngineKind::Dnf),
            _ => None,
        };
        let engine = engine.or(usual).ok_or_else(|| match &distribution {
            Some(name) => TreefileError::Value {
                key: "distribution",
                what: format!(
                    "'{name}' is not known; where its packages are .deb or .rpm files, set 'engine: apt' or 'engine: dnf' as \
                     well, and packages of another format cannot be installed"
                ),
            },
            None => TreefileError::NoEngine,
        })?;
        let fallback = match engine {
            EngineKind::Apt => "debian",
            EngineKind::Dnf => "rpm",
        };
        Ok((distribution.unwrap_or_else(|| fallback.to_owned()), engine))
    }

    fn variant(&self) -> Result<Variant, TreefileError> {
        match self.raw.variant.as_deref() {
            None | Some("required" | "minbase") => Ok(Variant::Required),
            Some("essential") => Ok(Variant::Essential),
            Some("important") => Ok(Variant::Important),
            Some("standard") => Ok(Variant::Standard),
            Some(found) => Err(choice_error("variant", found, "essential, required (minbase), important, standard")),
        }
    }

    fn apt_sources(&self) -> Result<Vec<AptSource>, TreefileError> {
        let texts = self.raw.apt_sources.as_ref().map_or(&[][..], OneOrMany::as_slice);
        let mut sources = Vec::new();
        for text in texts {
            let text = self.substituted("apt-sources", Some(text))?.unwrap_or_default();
            let is_line = |line: &str| line.starts_with("deb ") || line.starts_with("deb-src ");
            if text.lines().any(|line| is_line(line.trim_start())) {
                sources.push(AptSource::Lines(text));
            } else if text.lines().any(|line| line.to_lowercase().starts_with("types:")) {
                sources.push(AptSource::Stanzas(text));
            } else {
                let what = "neither a deb822 stanza with 'Types:' nor a line that starts with 'deb '".to_owned();
                return Err(TreefileError::Value { key: "apt-sources", what });
            }
        }
        Ok(sources)
    }

    /// Returns the local files and the words of the other entries. An entry in single quotes is one word.
    ///
    /// # Errors
    /// [`TreefileError::Value`] for a name that a package manager would take for an option.
    fn packages(&self, engine: EngineKind) -> Result<(Vec<PathBuf>, Vec<String>), TreefileError> {
        let (mut local, mut named) = (Vec::new(), Vec::new());
        for entry in self.raw.packages_for(self.arch) {
            let quoted = entry.strip_prefix('\'').and_then(|entry| entry.strip_suffix('\''));
            match quoted {
                _ if is_package_file(&entry) => local.push(PathBuf::from(entry)),
                Some(query) => named.push(query.to_owned()),
                None => named.extend(entry.split_whitespace().map(str::to_owned)),
            }
        }
        let mut seen = BTreeSet::new();
        named.retain(|name| seen.insert(name.clone()));
        let arch = [debian_arch(self.arch), self.arch];
        let argument = |name: &String| {
            let refused = |what| TreefileError::Value { key: "packages", what };
            package_argument(name, engine, arch).map_err(refused)
        };
        let named = named.iter().map(argument).collect::<Result<_, _>>()?;
        check_package_names("exclude-packages", &self.raw.exclude_packages)?;
        Ok((local, named))
    }

    /// Returns the packages of each repository that `repo-packages` names.
    fn repo_packages(&self, engine: EngineKind) -> Result<Vec<(String, Vec<String>)>, TreefileError> {
        let key = "repo-packages";
        if engine == EngineKind::Apt && !self.raw.repo_packages.is_empty() {
            let what = "apt's repositories have no names; write 'PACKAGE/SUITE' in 'packages'".to_owned();
            return Err(TreefileError::Value { key, what });
        }
        let mut of_repositories = Vec::new();
        for entry in &self.raw.repo_packages {
            let names: Vec<String> =
                entry.packages.iter().flat_map(|entry| entry.split_whitespace()).map(str::to_owned).collect();
            check_package_names(key, &names)?;
            if !self.raw.repos.is_empty() && !self.raw.repos.contains(&entry.repo) {
                let what = format!("'{}' is not in 'repos'", entry.repo);
                return Err(TreefileError::Value { key, what });
            }
            of_repositories.push((entry.repo.clone(), names));
        }
        Ok(of_repositories)
    }

    fn remove_from_packages(&self) -> Result<Vec<(String, Vec<String>)>, TreefileError> {
        let key = "remove-from-packages";
        let split = |entry: &Vec<String>| match &entry[..] {
            [package, expressions @ ..] if !expressions.is_empty() => Ok((package.clone(), expressions.to_vec())),
            _ => Err(TreefileError::Value {
                key,
                what: "each entry is a package and at least one expression".to_owned(),
            }),
        };
        self.raw.remove_from_packages.iter().map(split).collect()
    }

    fn initramfs(&self, container: bool) -> Result<InitramfsKind, TreefileError> {
        match self.raw.initramfs.as_deref() {
            _ if container || self.raw.no_initramfs == Some(true) => Ok(InitramfsKind::None),
            None | Some("auto") => Ok(InitramfsKind::Auto),
            Some("dracut") => Ok(InitramfsKind::Dracut),
            Some("initramfs-tools") => Ok(InitramfsKind::InitramfsTools),
            Some("none") => Ok(InitramfsKind::None),
            Some(found) => Err(choice_error("initramfs", found, "auto, dracut, initramfs-tools, none")),
        }
    }

    fn opt_usrlocal(&self) -> Result<OptUsrLocal, TreefileError> {
        match self.raw.opt_usrlocal.as_deref() {
            None | Some("var") => Ok(OptUsrLocal::Var),
            Some("machine") => Ok(OptUsrLocal::Machine),
            Some("root") => Ok(OptUsrLocal::Root),
            Some(found) => Err(choice_error("opt-usrlocal", found, "var, machine, root")),
        }
    }

    fn version_suffix(&self) -> Result<char, TreefileError> {
        let text = self.raw.automatic_version_suffix.as_deref().unwrap_or(".");
        let mut characters = text.chars();
        match (characters.next(), characters.next()) {
            (Some(suffix), None) if suffix.is_ascii() => Ok(suffix),
            _ => Err(TreefileError::Value {
                key: "automatic-version-suffix",
                what: format!("'{text}' is not one ASCII character"),
            }),
        }
    }

    fn commit_metadata(&self) -> Result<BTreeMap<String, String>, TreefileError> {
        let mut metadata = BTreeMap::new();
        for (key, value) in &self.raw.add_commit_metadata {
            let value = match value {
                serde_json::Value::String(text) => {
                    self.substituted("add-commit-metadata", Some(text))?.unwrap_or_default()
                }
                other => other.to_string(),
            };
            if key.contains('\0') || key.starts_with("compose.") {
                let what = format!("'{key}' is not free to be set");
                return Err(TreefileError::Value { key: "add-commit-metadata", what });
            }
            metadata.insert(key.clone(), value);
        }
        Ok(metadata)
    }
}

/// Refuses names that a package manager would take for an option or for more than one line.
fn check_package_names(key: &'static str, names: &[String]) -> Result<(), TreefileError> {
    let is_bad = |name: &&String| name.starts_with('-') || name.is_empty() || name.contains(char::is_control);
    match names.iter().find(is_bad) {
        None => Ok(()),
        Some(name) => {
            let what = format!("'{}' is not the name of a package: it would be an option", name.escape_debug());
            Err(TreefileError::Value { key, what })
        }
    }
}

/// Refuses texts that would be more than one word in the configuration of a package manager. rpm runs what is between `%(` and
/// `)` there, outside of the sandbox.
fn check_words(key: &'static str, words: &[String]) -> Result<(), TreefileError> {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "_.:@+~-".contains(character);
    let is_bad = |word: &&String| word.is_empty() || word.starts_with('-') || !word.chars().all(is_plain);
    match words.iter().find(is_bad) {
        None => Ok(()),
        Some(word) => {
            let what = format!("'{}' is not one word of letters, digits and _.:@+~-", word.escape_debug());
            Err(TreefileError::Value { key, what })
        }
    }
}

/// Returns whether an entry of `packages` names a file.
pub(super) fn is_package_file(package: &str) -> bool {
    package.contains('/') && (package.ends_with(".deb") || package.ends_with(".rpm"))
}

fn choice_error(key: &'static str, found: &str, expected: &'static str) -> TreefileError {
    TreefileError::Choice { key, found: found.to_owned(), expected }
}

fn user_check(key: &'static str, check: Option<&RawCheck>) -> Result<UserCheck, TreefileError> {
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
                            return Err(TreefileError::Value {
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
