//! The keys of one treefile as written, before includes and substitution.
//!
//! *Not here*: the values that follow from them (`decide`).
//!
//! *Invariants*: a parsed file has only supported keys, each at most once.
//!
//! *Used by* `load` and `decide`.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_saphyr::{Location, Spanned};

use super::keys;
use super::variables::VariableValue;

/// A syntax error in a treefile, with its position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {what}")]
pub struct SyntaxError {
    /// The line, from 1.
    pub(crate) line: u64,
    /// The column, from 1.
    pub(crate) column: u64,
    /// Description of the error.
    pub(crate) what: String,
}

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
    /// The files.
    pub(crate) include: OneOrMany,
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
    pub(crate) arch_include: BTreeMap<String, OneOrMany>,
    #[serde(alias = "automatic_version_prefix")]
    pub(crate) automatic_version_prefix: Option<String>,
    #[serde(alias = "automatic_version_suffix")]
    pub(crate) automatic_version_suffix: Option<String>,
    #[serde(alias = "boot_location")]
    pub(crate) boot_location: Option<String>,
    pub(crate) check_groups: Option<RawCheck>,
    pub(crate) check_passwd: Option<RawCheck>,
    pub(crate) conditional_include: Vec<ConditionalInclude>,
    pub(crate) container: Option<bool>,
    #[serde(alias = "default_target")]
    pub(crate) default_target: Option<String>,
    pub(crate) distribution: Option<String>,
    pub(crate) documentation: Option<bool>,
    pub(crate) edition: Option<String>,
    pub(crate) engine: Option<String>,
    pub(crate) etc_group_members: Vec<String>,
    pub(crate) exclude_packages: Vec<String>,
    pub(crate) ignore_devices: Option<bool>,
    pub(crate) ignore_removed_groups: Vec<String>,
    pub(crate) ignore_removed_users: Vec<String>,
    pub(crate) include: Option<OneOrMany>,
    pub(crate) initramfs: Option<String>,
    pub(crate) initramfs_args: Vec<String>,
    pub(crate) install_langs: Vec<String>,
    pub(crate) keep_identities: Vec<String>,
    pub(crate) kernel: Option<String>,
    pub(crate) machineid_compat: Option<bool>,
    pub(crate) metadata: Option<IgnoredAny>,
    pub(crate) mutate_os_release: Option<String>,
    pub(crate) no_initramfs: Option<bool>,
    pub(crate) opt_usrlocal: Option<String>,
    pub(crate) packages: Vec<String>,
    pub(crate) packages_aarch64: Vec<String>,
    pub(crate) packages_armhfp: Vec<String>,
    pub(crate) packages_i386: Vec<String>,
    pub(crate) packages_ppc64le: Vec<String>,
    pub(crate) packages_riscv64: Vec<String>,
    pub(crate) packages_s390x: Vec<String>,
    #[serde(rename = "packages-x86_64")]
    pub(crate) packages_x86_64: Vec<String>,
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
    pub(crate) repos: Vec<String>,
    pub(crate) rpmdb: Option<String>,
    pub(crate) rpmdb_normalize: Option<bool>,
    pub(crate) selinux: Option<bool>,
    pub(crate) selinux_label_version: Option<u32>,
    pub(crate) tmp_is_dir: Option<bool>,
    pub(crate) units: Vec<String>,
    pub(crate) unsigned_repos: Vec<String>,
    pub(crate) variables: BTreeMap<String, VariableValue>,
    pub(crate) variant: Option<String>,
}

impl RawTreefile {
    /// Parses YAML or JSON.
    ///
    /// # Errors
    /// [`SyntaxError`] with the position.
    pub(crate) fn parse(text: &str) -> Result<Self, SyntaxError> {
        let keys: LocatedKeys = serde_saphyr::from_str(text).map_err(|error| syntax_error(&error))?;
        keys.check()?;
        serde_saphyr::from_str(text).map_err(|error| syntax_error(&error))
    }

    /// Merges this file with one that it includes. Of single values this file's wins; of lists the included file's
    /// elements come first.
    pub(crate) fn merge_included(mut self, included: Self) -> Self {
        macro_rules! single { ($($name:ident),*) => { $( self.$name = self.$name.or(included.$name); )* } }
        macro_rules! list { ($($name:ident),*) => { $(
            let own = std::mem::replace(&mut self.$name, included.$name);
            self.$name.extend(own);
        )* } }
        single!(apt_sources, automatic_version_prefix, automatic_version_suffix, boot_location, check_groups);
        single!(check_passwd, container, default_target, distribution, documentation, edition, engine);
        single!(ignore_devices, initramfs, kernel, machineid_compat, metadata, mutate_os_release, no_initramfs);
        single!(opt_usrlocal, postprocess_script, preserve_passwd, readonly_executables, recommends, reference);
        single!(releasever, rpmdb, rpmdb_normalize, selinux, selinux_label_version, tmp_is_dir, variant);
        list!(add_files, etc_group_members, exclude_packages, ignore_removed_groups, ignore_removed_users);
        list!(
            initramfs_args,
            install_langs,
            keep_identities,
            packages,
            packages_aarch64,
            packages_armhfp,
            packages_i386
        );
        list!(packages_ppc64le, packages_riscv64, packages_s390x, packages_x86_64, postprocess, remove_files);
        list!(remove_from_packages, repos, units, unsigned_repos);
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
        let own = match arch {
            "aarch64" => &self.packages_aarch64,
            "armhfp" => &self.packages_armhfp,
            "i386" => &self.packages_i386,
            "ppc64le" => &self.packages_ppc64le,
            "riscv64" => &self.packages_riscv64,
            "s390x" => &self.packages_s390x,
            "x86_64" => &self.packages_x86_64,
            _ => return self.packages.clone(),
        };
        self.packages.iter().chain(own).cloned().collect()
    }
}

/// The keys of a mapping with their positions.
struct LocatedKeys(Vec<(String, Location)>);

impl LocatedKeys {
    fn check(&self) -> Result<(), SyntaxError> {
        for (index, (key, location)) in self.0.iter().enumerate() {
            let at = |what: String| Err(SyntaxError { line: location.line(), column: location.column(), what });
            if let Some(instead) = keys::unsupported(key) {
                return at(format!("'{key}' is not supported: {instead}"));
            }
            if self.0[..index].iter().any(|(other, _)| keys::canonical(other) == keys::canonical(key)) {
                return at(format!("'{key}' stands here for the second time"));
            }
            if !keys::SUPPORTED.contains(&keys::canonical(key).as_str()) {
                let hint = keys::nearest(key).map_or_else(String::new, |near| format!("; did you mean '{near}'?"));
                return at(format!("there is no key '{key}'{hint}"));
            }
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for LocatedKeys {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeysVisitor;
        impl<'de> Visitor<'de> for KeysVisitor {
            type Value = LocatedKeys;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping of keys to values")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<LocatedKeys, A::Error> {
                let mut keys = Vec::new();
                while let Some((key, IgnoredAny)) = map.next_entry::<Spanned<String>, IgnoredAny>()? {
                    keys.push((key.value, key.referenced));
                }
                Ok(LocatedKeys(keys))
            }
        }
        deserializer.deserialize_map(KeysVisitor)
    }
}

/// Converts an error of the parser, shortened to one line.
fn syntax_error(error: &serde_saphyr::Error) -> SyntaxError {
    let (line, column) = error.location().map_or((1, 1), |location| (location.line(), location.column()));
    let text = error.without_snippet().to_string();
    let first = text.lines().next().unwrap_or("not YAML");
    // The position is in its own fields.
    let what = first.split(" at line ").next().unwrap_or(first);
    let what =
        what.split_once(": ").filter(|(start, _)| start.starts_with("error: line")).map_or(what, |(_, rest)| rest);
    SyntaxError { line, column, what: what.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syntax_errors_have_reason_and_place() {
        let cases = [
            ("ref: x\npakages: [a]\n", 2, 1, "there is no key 'pakages'; did you mean 'packages'?"),
            ("ref: x\n\nima: true\n", 3, 1, "'ima' is not supported: IMA signatures are not copied"),
            ("{\n  \"ref\": \"x\",\n  \"unit\": []\n}", 3, 3, "there is no key 'unit'; did you mean 'units'?"),
            ("default-target: a\ndefault_target: b\n", 2, 1, "'default_target' stands here for the second time"),
            ("ref: x\nzzz: 1\n", 2, 1, "there is no key 'zzz'"),
        ];
        for (text, line, column, what) in cases {
            let error = RawTreefile::parse(text).expect_err(text);
            assert_eq!((error.line, error.column, error.what.as_str()), (line, column, what));
        }
        for (text, line) in [("ref: x\nselinux: maybe\n", 2), ("ref: [", 1), ("a\nb", 1), ("packages: 5: 6", 1)] {
            let error = RawTreefile::parse(text).expect_err(text);
            assert_eq!(error.line, line, "{error}");
            assert!(!error.what.is_empty() && !error.what.contains('\n'), "{error}");
        }
    }

    #[test]
    fn texts_that_look_like_other_types_stay_texts() {
        let raw =
            RawTreefile::parse("releasever: 42\npackages: [no, on, 1.10]\nmutate-os-release: 1.10\n").expect("valid");
        assert_eq!(raw.releasever.as_deref(), Some("42"));
        assert_eq!(raw.packages, ["no", "on", "1.10"]);
        assert_eq!(raw.mutate_os_release.as_deref(), Some("1.10"));
    }

    #[test]
    fn merging_joins_lists_and_overrides_single_values() {
        let base =
            RawTreefile::parse("ref: base\nselinux: true\npackages: [a]\nvariables: {x: 1, y: 1}\n").expect("valid");
        let own =
            RawTreefile::parse("ref: own\npackages: [b]\nvariables: {x: 2}\npackages-x86_64: [c]").expect("valid");
        let both = own.merge_included(base);
        assert_eq!(both.reference.as_deref(), Some("own"));
        assert_eq!(both.selinux, Some(true));
        assert_eq!(both.packages_for("x86_64"), ["a", "b", "c"]);
        assert_eq!(both.variables["x"], VariableValue::Number(2));
        assert_eq!(both.variables["y"], VariableValue::Number(1));
    }
}
