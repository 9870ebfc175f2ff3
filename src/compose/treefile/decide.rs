//! From the raw keys of all files to a [`Treefile`]: one value for each question, with the usual one where nothing is said.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::error::LoadError;
use super::raw::{OneOrMany, Raw, RawCheck, RawIds};
use super::variables::Variables;
use super::{AddFile, AptSource, EngineKind, InitramfsKind, OptUsrLocal, Treefile, UserCheck, Variant};

/// The last step: one value for each question.
pub(super) struct Decision<'a> {
    /// What all files say together.
    pub raw: Raw,
    /// What `${NAME}` stands for.
    pub variables: Variables,
    /// Where the first file is.
    pub directory: PathBuf,
    /// As rpm calls it.
    pub arch: &'a str,
}

impl Decision<'_> {
    /// The treefile.
    pub fn treefile(self) -> Result<Treefile, LoadError> {
        let raw = &self.raw;
        let reference = self.text("ref", raw.reference.as_deref())?.ok_or(LoadError::NoRef)?;
        let (distribution, engine) = self.engine()?;
        let container = raw.container.unwrap_or(false);
        let (local, named) = self.packages()?;
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
    ///
    /// # Errors
    /// [`LoadError::Value`] for a name that a package manager would take for an option.
    fn packages(&self) -> Result<(Vec<PathBuf>, Vec<String>), LoadError> {
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
        check_names("packages", &named)?;
        check_names("exclude-packages", &self.raw.exclude_packages)?;
        Ok((local, named))
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

/// Refuses names that would be options, or more than one line, for a package manager.
fn check_names(key: &'static str, names: &[String]) -> Result<(), LoadError> {
    let is_bad = |name: &&String| name.starts_with('-') || name.is_empty() || name.contains(char::is_control);
    match names.iter().find(is_bad) {
        None => Ok(()),
        Some(name) => {
            let what = format!("'{}' is not the name of a package: it would be an option", name.escape_debug());
            Err(LoadError::Value { key, what })
        }
    }
}

/// Whether an entry of `packages` is a file.
pub(super) fn is_file(package: &str) -> bool {
    package.contains('/') && (package.ends_with(".deb") || package.ends_with(".rpm"))
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
