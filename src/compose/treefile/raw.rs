//! One treefile as it is written, before anything is included or substituted.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_saphyr::{Location, Spanned};

use super::keys;
use super::variables::Value;

/// Why a text is no treefile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {what}")]
pub struct SyntaxError {
    /// Line from 1.
    pub line: u64,
    /// Column from 1.
    pub column: u64,
    /// What is wrong there.
    pub what: String,
}

/// One or several of the same.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// A single one.
    One(String),
    /// A list.
    Many(Vec<String>),
}

impl OneOrMany {
    /// All of them.
    pub fn as_slice(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts,
        }
    }
}

/// Files that are included if conditions hold.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConditionalInclude {
    /// The conditions.
    #[serde(rename = "if")]
    pub conditions: OneOrMany,
    /// The files.
    pub include: OneOrMany,
}

/// What users or groups are compared with.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum RawCheck {
    /// With nothing.
    None,
    /// With the parent commit.
    Previous,
    /// With a file in the format of `/etc/passwd` or `/etc/group`.
    File {
        /// Beside the treefile.
        filename: String,
    },
    /// With numbers given here.
    Data {
        /// Name to number, for users also `[uid, gid]`.
        entries: BTreeMap<String, RawIds>,
    },
}

/// A number, or a user's and a group's.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum RawIds {
    /// The number.
    One(u32),
    /// uid, or uid and gid.
    Several(Vec<u32>),
}

/// All keys, each as it is written. Lists of included files come before those of the including one.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Raw {
    pub add_commit_metadata: BTreeMap<String, serde_json::Value>,
    pub add_files: Vec<(String, String)>,
    pub apt_sources: Option<OneOrMany>,
    pub arch_include: BTreeMap<String, OneOrMany>,
    #[serde(alias = "automatic_version_prefix")]
    pub automatic_version_prefix: Option<String>,
    #[serde(alias = "automatic_version_suffix")]
    pub automatic_version_suffix: Option<String>,
    #[serde(alias = "boot_location")]
    pub boot_location: Option<String>,
    pub check_groups: Option<RawCheck>,
    pub check_passwd: Option<RawCheck>,
    pub conditional_include: Vec<ConditionalInclude>,
    pub container: Option<bool>,
    #[serde(alias = "default_target")]
    pub default_target: Option<String>,
    pub distribution: Option<String>,
    pub documentation: Option<bool>,
    pub edition: Option<String>,
    pub engine: Option<String>,
    pub etc_group_members: Vec<String>,
    pub exclude_packages: Vec<String>,
    pub ignore_devices: Option<bool>,
    pub ignore_removed_groups: Vec<String>,
    pub ignore_removed_users: Vec<String>,
    pub include: Option<OneOrMany>,
    pub initramfs: Option<String>,
    pub initramfs_args: Vec<String>,
    pub install_langs: Vec<String>,
    pub kernel: Option<String>,
    pub machineid_compat: Option<bool>,
    pub metadata: Option<IgnoredAny>,
    pub mutate_os_release: Option<String>,
    pub no_initramfs: Option<bool>,
    pub opt_usrlocal: Option<String>,
    pub packages: Vec<String>,
    pub packages_aarch64: Vec<String>,
    pub packages_armhfp: Vec<String>,
    pub packages_i386: Vec<String>,
    pub packages_ppc64le: Vec<String>,
    pub packages_riscv64: Vec<String>,
    pub packages_s390x: Vec<String>,
    #[serde(rename = "packages-x86_64")]
    pub packages_x86_64: Vec<String>,
    pub postprocess: Vec<String>,
    pub postprocess_script: Option<String>,
    pub preserve_passwd: Option<bool>,
    pub readonly_executables: Option<bool>,
    pub recommends: Option<bool>,
    #[serde(rename = "ref")]
    pub reference: Option<String>,
    pub releasever: Option<String>,
    pub remove_files: Vec<String>,
    pub remove_from_packages: Vec<Vec<String>>,
    pub repos: Vec<String>,
    pub rpmdb: Option<String>,
    pub rpmdb_normalize: Option<bool>,
    pub selinux: Option<bool>,
    pub selinux_label_version: Option<u32>,
    pub tmp_is_dir: Option<bool>,
    pub units: Vec<String>,
    pub unsigned_repos: Vec<String>,
    pub variables: BTreeMap<String, Value>,
    pub variant: Option<String>,
}

impl Raw {
    /// Reads YAML or JSON.
    ///
    /// # Errors
    /// [`SyntaxError`] with the place.
    pub fn parse(text: &str) -> Result<Self, SyntaxError> {
        let keys: Keys = serde_saphyr::from_str(text).map_err(|error| syntax(&error))?;
        keys.check()?;
        serde_saphyr::from_str(text).map_err(|error| syntax(&error))
    }

    /// What this file and one that it includes say together: of single values this one's, of lists the included one's
    /// first.
    pub fn over(mut self, included: Self) -> Self {
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
        list!(initramfs_args, install_langs, packages, packages_aarch64, packages_armhfp, packages_i386);
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

    /// The packages for all architectures and for this one.
    pub fn packages_for(&self, arch: &str) -> Vec<String> {
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

/// The keys of a mapping and where they stand.
struct Keys(Vec<(String, Location)>);

impl Keys {
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

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeysVisitor;
        impl<'de> Visitor<'de> for KeysVisitor {
            type Value = Keys;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping of keys to values")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                let mut keys = Vec::new();
                while let Some((key, IgnoredAny)) = map.next_entry::<Spanned<String>, IgnoredAny>()? {
                    keys.push((key.value, key.referenced));
                }
                Ok(Keys(keys))
            }
        }
        deserializer.deserialize_map(KeysVisitor)
    }
}

/// An error of the parser in one line.
fn syntax(error: &serde_saphyr::Error) -> SyntaxError {
    let (line, column) = error.location().map_or((1, 1), |location| (location.line(), location.column()));
    let text = error.without_snippet().to_string();
    let first = text.lines().next().unwrap_or("not YAML");
    // The place is said before.
    let what = first.split(" at line ").next().unwrap_or(first);
    let what =
        what.split_once(": ").filter(|(start, _)| start.starts_with("error: line")).map_or(what, |(_, rest)| rest);
    SyntaxError { line, column, what: what.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let cases = [
            ("ref: x\npakages: [a]\n", 2, 1, "there is no key 'pakages'; did you mean 'packages'?"),
            ("ref: x\n\nima: true\n", 3, 1, "'ima' is not supported: IMA signatures are not copied"),
            ("{\n  \"ref\": \"x\",\n  \"unit\": []\n}", 3, 3, "there is no key 'unit'; did you mean 'units'?"),
            ("default-target: a\ndefault_target: b\n", 2, 1, "'default_target' stands here for the second time"),
            ("ref: x\nzzz: 1\n", 2, 1, "there is no key 'zzz'"),
        ];
        for (text, line, column, what) in cases {
            let error = Raw::parse(text).expect_err(text);
            assert_eq!((error.line, error.column, error.what.as_str()), (line, column, what));
        }
        for (text, line) in [("ref: x\nselinux: maybe\n", 2), ("ref: [", 1), ("a\nb", 1), ("packages: 5: 6", 1)] {
            let error = Raw::parse(text).expect_err(text);
            assert_eq!(error.line, line, "{error}");
            assert!(!error.what.is_empty() && !error.what.contains('\n'), "{error}");
        }
    }

    #[test]
    fn words_that_look_like_other_types_stay_words() {
        let raw = Raw::parse("releasever: 42\npackages: [no, on, 1.10]\nmutate-os-release: 1.10\n").expect("legal");
        assert_eq!(raw.releasever.as_deref(), Some("42"));
        assert_eq!(raw.packages, ["no", "on", "1.10"]);
        assert_eq!(raw.mutate_os_release.as_deref(), Some("1.10"));
    }

    #[test]
    fn lists_add_up_and_single_values_override() {
        let base = Raw::parse("ref: base\nselinux: true\npackages: [a]\nvariables: {x: 1, y: 1}\n").expect("legal");
        let own = Raw::parse("ref: own\npackages: [b]\nvariables: {x: 2}\npackages-x86_64: [c]").expect("legal");
        let both = own.over(base);
        assert_eq!(both.reference.as_deref(), Some("own"));
        assert_eq!(both.selinux, Some(true));
        assert_eq!(both.packages_for("x86_64"), ["a", "b", "c"]);
        assert_eq!(both.variables["x"], Value::Number(2));
        assert_eq!(both.variables["y"], Value::Number(1));
    }
}
