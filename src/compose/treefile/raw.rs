//! The keys of one treefile as written, before includes and substitution.
//!
//! *Not here*: the values that follow from them (`decide`).
//!
//! *Invariants*: a parsed file has passed `forms`: only keys that are known, each at most once, with a value of the right form.
//!
//! *Used by* `load` and `decide`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::{Place, Problem};
use super::forms;
use super::variables::VariableValue;

/// One value or a list of values.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum OneOrMany {
    /// A single one.
    One(String),
    /// A list.
    Many(Vec<String>),
}

impl OneOrMany {
    /// Returns all values.
    pub(crate) fn as_slice(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts,
        }
    }
}

/// Files that are included if all conditions hold.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConditionalInclude {
    #[serde(rename = "if")]
    pub(crate) conditions: OneOrMany,
    /// The files or keys.
    pub(crate) include: Include,
}

/// What is included: files, or keys that stand in the including file itself.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum Include {
    /// The name of a file.
    File(String),
    /// Several.
    Several(Vec<Include>),
    /// Keys of a treefile.
    Inline(Box<RawTreefile>),
}

/// Packages that come from one repository.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct RawRepoPackages {
    /// The repository.
    pub(crate) repo: String,
    /// The packages, several in an entry.
    pub(crate) packages: Vec<String>,
}

/// What users or groups are checked against, as written.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum RawCheck {
    /// Nothing.
    None,
    /// The parent commit.
    Previous,
    /// A file in the format of `/etc/passwd` or `/etc/group`.
    File {
        /// Its name, relative to the treefile.
        filename: String,
    },
    /// Numbers given in the treefile.
    Data {
        /// The number for each name; for users also `[uid, gid]`.
        entries: BTreeMap<String, RawIds>,
    },
}

/// One number, or those of a user and its group.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum RawIds {
    /// The number.
    One(u32),
    /// A uid, or a uid and a gid.
    Several(Vec<u32>),
}

/// All keys of a treefile as written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct RawTreefile {
    pub(crate) add_commit_metadata: BTreeMap<String, serde_json::Value>,
    pub(crate) add_files: Vec<(String, String)>,
    pub(crate) apt_sources: Option<OneOrMany>,
    pub(crate) arch_include: BTreeMap<String, Include>,
    pub(crate) automatic_version_prefix: Option<String>,
    pub(crate) automatic_version_suffix: Option<String>,
    pub(crate) base: Option<String>,
    pub(crate) bootstrap_packages: Vec<String>,
    pub(crate) check_groups: Option<RawCheck>,
    pub(crate) check_passwd: Option<RawCheck>,
    pub(crate) conditional_include: Vec<ConditionalInclude>,
    pub(crate) container: Option<bool>,
    pub(crate) default_target: Option<String>,
    pub(crate) distribution: Option<String>,
    pub(crate) documentation: Option<bool>,
    pub(crate) engine: Option<String>,
    pub(crate) exclude_packages: Vec<String>,
    pub(crate) ignore_devices: Option<bool>,
    pub(crate) ignore_removed_groups: Vec<String>,
    pub(crate) ignore_removed_users: Vec<String>,
    pub(crate) include: Option<Include>,
    pub(crate) initramfs: Option<String>,
    pub(crate) initramfs_args: Vec<String>,
    pub(crate) install_langs: Vec<String>,
    pub(crate) keep_identities: Vec<String>,
    pub(crate) kernel: Option<String>,
    pub(crate) machineid_compat: Option<bool>,
    pub(crate) mutate_os_release: Option<String>,
    pub(crate) no_initramfs: Option<bool>,
    pub(crate) opt_usrlocal: Option<String>,
    pub(crate) packages: Vec<String>,
    /// `packages-ARCH`, by architecture.
    pub(crate) packages_by_arch: BTreeMap<String, Vec<String>>,
    pub(crate) postprocess: Vec<String>,
    pub(crate) postprocess_script: Option<String>,
    pub(crate) preserve_passwd: Option<bool>,
    pub(crate) readonly_executables: Option<bool>,
    pub(crate) recommends: Option<bool>,
    #[serde(rename = "ref")]
    pub(crate) reference: Option<String>,
    pub(crate) releasever: Option<String>,
    pub(crate) remove_files: Vec<String>,
    pub(crate) remove_from_packages: Vec<Vec<String>>,
    pub(crate) repo_packages: Vec<RawRepoPackages>,
    pub(crate) repos: Vec<String>,
    pub(crate) selinux: Option<bool>,
    pub(crate) tmp_is_dir: Option<bool>,
    pub(crate) units: Vec<String>,
    pub(crate) unsigned_repos: Vec<String>,
    pub(crate) variables: BTreeMap<String, VariableValue>,
    pub(crate) variant: Option<String>,
    /// Where each key stands; of a key in several files, in the outermost one.
    #[serde(skip)]
    pub(crate) places: BTreeMap<String, (PathBuf, Place)>,
    /// Keys without an effect, each with the reason.
    #[serde(skip)]
    pub(crate) notes: BTreeMap<String, &'static str>,
}

impl RawTreefile {
    /// Parses the YAML or JSON of the file `path`.
    ///
    /// # Errors
    /// All problems of the text.
    pub(crate) fn parse(text: &str, path: &Path) -> Result<Self, Vec<Problem>> {
        let checked = forms::check(text, path.extension().is_some_and(|extension| extension == "json"))?;
        let mut raw: Self = serde_json::from_value(checked.object).map_err(|error| {
            let place = Place { line: 1, column: 1 };
            vec![Problem { place, what: format!("the values do not fit together: {error}") }]
        })?;
        raw.places = checked.places.into_iter().map(|(key, place)| (key, (path.to_owned(), place))).collect();
        raw.notes = checked.notes.into_iter().collect();
        Ok(raw)
    }

    /// Merges this file with one that it includes. Of single values this file's wins; of lists the included file's
    /// elements come first.
    pub(crate) fn merge_included(mut self, included: Self) -> Self {
        macro_rules! single { ($($name:ident),*) => { $( self.$name = self.$name.or(included.$name); )* } }
        macro_rules! list { ($($name:ident),*) => { $(
            let own = std::mem::replace(&mut self.$name, included.$name);
            self.$name.extend(own);
        )* } }
        single!(apt_sources, automatic_version_prefix, automatic_version_suffix, base, check_groups, check_passwd);
        single!(container, default_target, distribution, documentation, engine, ignore_devices, initramfs, kernel);
        single!(machineid_compat, mutate_os_release, no_initramfs, opt_usrlocal, postprocess_script, preserve_passwd);
        single!(readonly_executables, recommends, reference, releasever, selinux, tmp_is_dir, variant);
        list!(add_files, bootstrap_packages, exclude_packages, ignore_removed_groups, ignore_removed_users);
        list!(initramfs_args, install_langs, keep_identities, packages, postprocess, remove_files);
        list!(remove_from_packages, repo_packages, repos, units, unsigned_repos);
        for (arch, packages) in included.packages_by_arch {
            let own = std::mem::replace(self.packages_by_arch.entry(arch.clone()).or_default(), packages);
            self.packages_by_arch.entry(arch).or_default().extend(own);
        }
        for (key, place) in included.places {
            self.places.entry(key).or_insert(place);
        }
        self.notes.extend(included.notes);
        for (key, value) in included.add_commit_metadata {
            self.add_commit_metadata.entry(key).or_insert(value);
        }
        for (key, value) in included.variables {
            self.variables.entry(key).or_insert(value);
        }
        self
    }

    /// Returns the packages for all architectures and those for `arch`.
    pub(crate) fn packages_for(&self, arch: &str) -> Vec<String> {
        let own = self.packages_by_arch.get(arch).into_iter().flatten();
        self.bootstrap_packages.iter().chain(&self.packages).chain(own).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<RawTreefile, Vec<Problem>> {
        RawTreefile::parse(text, Path::new("main.yaml"))
    }

    #[test]
    fn problems_have_place_key_and_what_is_expected() {
        let cases = [
            ("ref: x\npakages: [a]\n", 2, 1, "there is no key 'pakages'; did you mean 'packages'?"),
            ("ref: x\n\nima: true\n", 3, 1, "'ima' is not supported: IMA signatures are not copied"),
            ("{\n  \"ref\": \"x\",\n  \"unit\": []\n}", 3, 3, "there is no key 'unit'; did you mean 'units'?"),
            (
                "packages: [a]\nref: x\npackages: [b]\n",
                3,
                1,
                "'packages' stands here for the second time; the first is in line 1",
            ),
            (
                "default-target: a\ndefault_target: b\n",
                2,
                1,
                "'default_target' stands here for the second time; the first is in line 1",
            ),
            ("ref: x\nzzz: 1\n", 2, 1, "there is no key 'zzz'"),
            ("packages: nano\n", 1, 11, "'packages': expected a list, as in [a, b], and this is a text"),
            ("packages: [a, [b]]\n", 1, 15, "'packages': expected a text, and this is a list"),
            ("selinux: maybe\n", 1, 10, "'selinux': expected true or false, and this is a text"),
            (
                "check-passwd: previous\n",
                1,
                15,
                "'check-passwd': expected {type: none}, {type: previous}, {type: file, filename: FILE} or {type: data, entries: {NAME: NUMBER}}, and this is a text",
            ),
            ("add-files:\n- [a, /b]\n- [c]\n", 3, 3, "'add-files': expected [source, destination] in each entry"),
            ("- a\n", 1, 1, "a treefile is a mapping of keys to values, and this is a list"),
            ("conditional-include:\n- if: a == b\n", 2, 3, "'conditional-include': 'include' is missing in an entry"),
            (
                "variables: {a: [1]}\n",
                1,
                16,
                "'variables': expected a text, a whole number or a boolean as 'a', and this is a list",
            ),
        ];
        for (text, line, column, what) in cases {
            let problems = parse(text).expect_err(text);
            assert_eq!(problems, [Problem { place: Place { line, column }, what: what.to_owned() }], "{text}");
        }
        let all = parse("packages: a\nunits: b\nima: true\nconditional-include: [{if: x == 1, include: {repos: c}}]\n");
        assert_eq!(all.expect_err("four problems").len(), 4);
        for text in ["ref: [", "a: 'b", "packages: 5: 6"] {
            let problems = parse(text).expect_err(text);
            assert!(problems[0].what.starts_with("this is not YAML or JSON"), "{problems:?}");
        }
    }

    #[test]
    fn keys_without_a_value_are_not_set() {
        let raw = parse("ref:\npackages:\n# - nano\nselinux:\nima: false\nmodules:\n").expect("valid");
        assert!(raw.packages.is_empty() && raw.selinux.is_none() && raw.reference.is_none());
    }

    #[test]
    fn keys_without_an_effect_are_noted() {
        let text = "rojig: {name: n}\ncontainer-cmd: [/sbin/init]\npackages-ppc64: [x]\ncliwrap: true\ngpg_key: A\n";
        let raw = parse(text).expect("valid");
        assert_eq!(raw.notes.keys().collect::<Vec<_>>(), ["cliwrap", "container-cmd", "gpg_key", "rojig"]);
        let text = "{\"comment\": \"c\", \"osname\": \"o\", \"packages\": [\"a\"]}";
        assert!(parse(text).is_err());
        let raw = RawTreefile::parse(text, Path::new("host.json")).expect("valid");
        assert_eq!(raw.notes.keys().collect::<Vec<_>>(), ["comment", "osname"]);
    }

    #[test]
    fn texts_that_look_like_other_types_stay_texts() {
        let raw = parse("releasever: 42\npackages: [no, on, 1.10]\nmutate-os-release: 1.10\n").expect("valid");
        assert_eq!(raw.releasever.as_deref(), Some("42"));
        assert_eq!(raw.packages, ["no", "on", "1.10"]);
        assert_eq!(raw.mutate_os_release.as_deref(), Some("1.10"));
    }

    #[test]
    fn merging_joins_lists_and_overrides_single_values() {
        let base = parse("ref: base\nselinux: true\npackages: [a]\nvariables: {x: 1, y: 1}\n").expect("valid");
        let own = parse("ref: own\npackages: [b]\nvariables: {x: 2}\npackages-x86_64: [c]").expect("valid");
        let both = own.merge_included(base);
        assert_eq!(both.reference.as_deref(), Some("own"));
        assert_eq!(both.selinux, Some(true));
        assert_eq!(both.packages_for("x86_64"), ["a", "b", "c"]);
        assert_eq!(both.variables["x"], VariableValue::Number(2));
        assert_eq!(both.variables["y"], VariableValue::Number(1));
    }
}
