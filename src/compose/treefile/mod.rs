//! The treefile: what a commit is to be made of, in YAML or JSON.
//!
//! [`load`] reads the file and those it includes, substitutes variables, and gives a [`Treefile`] in which everything is
//! decided and every file name absolute. It installs nothing and knows no package manager. Keys and their meaning are
//! rpm-ostree's wherever the concept is the same; [`keys`] lists them.

mod decide;
mod error;
pub mod keys;
mod load;
mod raw;
mod variables;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use error::LoadError;
pub use load::load;
pub use raw::SyntaxError;
pub use variables::{Value, VariableError};

use crate::model::RefName;

/// Which package manager installs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// apt, through mmdebstrap.
    Apt,
    /// dnf, into an installroot.
    Dnf,
}

impl EngineKind {
    /// As in the treefile.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Apt => "apt",
            Self::Dnf => "dnf",
        }
    }
}

/// Which of Debian's packages are there without being named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Variant {
    /// Those marked essential.
    Essential,
    /// Also those of priority required: what debootstrap calls minbase.
    #[default]
    Required,
    /// Also those of priority important.
    Important,
    /// Also those of priority standard.
    Standard,
}

/// Where `/opt` and `/usr/local` are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OptUsrLocal {
    /// On the machine: links into `/var`.
    #[default]
    Var,
    /// In the commit.
    Root,
}

/// What makes the initramfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum InitramfsKind {
    /// Whichever is installed.
    #[default]
    Auto,
    /// dracut.
    Dracut,
    /// initramfs-tools.
    InitramfsTools,
    /// Nothing: the commit has none.
    None,
}

/// What the new users or groups are compared with.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum UserCheck {
    /// With nothing. Numbers are the parent's all the same.
    #[default]
    None,
    /// With the parent: whoever is missing is an error.
    Previous,
    /// With these lines of `/etc/passwd` or `/etc/group`.
    File(String),
    /// With these numbers: uid or gid, and for users the group's.
    Data(BTreeMap<String, (u32, Option<u32>)>),
}

/// A file to be copied into the root.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct AddFile {
    /// Where it is on this machine.
    pub source: PathBuf,
    /// Where it goes.
    pub destination: String,
}

/// A source of apt.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub enum AptSource {
    /// Stanzas in deb822 form.
    Stanzas(String),
    /// Lines in the form of sources.list.
    Lines(String),
}

/// A decided treefile.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Treefile {
    /// `ref`: the name of the commits.
    pub ref_name: RefName,
    /// The directory of the treefile, where `.repo` files are.
    #[serde(skip)]
    pub directory: PathBuf,
    /// `distribution`.
    pub distribution: String,
    /// `engine`, or what suits the distribution.
    pub engine: EngineKind,
    /// `variant`, for apt.
    pub variant: Variant,
    /// The architecture, as rpm calls it.
    pub arch: String,
    /// `releasever`: the suite for apt.
    pub releasever: Option<String>,
    /// `apt-sources`; none means those of this machine.
    pub apt_sources: Vec<AptSource>,
    /// `repos`: names of repositories for dnf.
    pub repos: Vec<String>,
    /// `unsigned-repos`: repositories whose packages need no signature.
    pub unsigned_repos: Vec<String>,
    /// `packages`, those for this architecture too. Names as the package manager takes them.
    pub packages: Vec<String>,
    /// `.deb` and `.rpm` files named in `packages`.
    pub local_packages: Vec<PathBuf>,
    /// `exclude-packages`.
    pub exclude_packages: Vec<String>,
    /// `recommends`.
    pub recommends: bool,
    /// `documentation`.
    pub documentation: bool,
    /// `install-langs`; none means all.
    pub install_langs: Vec<String>,
    /// `units`.
    pub units: Vec<String>,
    /// `default-target`.
    pub default_target: Option<String>,
    /// `add-files`.
    pub add_files: Vec<AddFile>,
    /// `remove-files`.
    pub remove_files: Vec<String>,
    /// `remove-from-packages`: a package and expressions for its files.
    pub remove_from_packages: Vec<(String, Vec<String>)>,
    /// `postprocess` and then `postprocess-script`.
    pub scripts: Vec<String>,
    /// `container`: no kernel, no initramfs, no labels.
    pub container: bool,
    /// `kernel`: the version to boot where several are installed.
    pub kernel: Option<String>,
    /// `initramfs` and `no-initramfs`.
    pub initramfs: InitramfsKind,
    /// `initramfs-args`.
    pub initramfs_args: Vec<String>,
    /// `selinux`.
    pub selinux: bool,
    /// `machineid-compat`.
    pub machineid_compat: bool,
    /// `tmp-is-dir`.
    pub tmp_is_dir: bool,
    /// `opt-usrlocal`.
    pub opt_usrlocal: OptUsrLocal,
    /// `readonly-executables`.
    pub readonly_executables: bool,
    /// `ignore-devices`.
    pub ignore_devices: bool,
    /// `preserve-passwd`: numbers of users and groups stay those of the parent.
    pub preserve_passwd: bool,
    /// `check-passwd`.
    pub check_passwd: UserCheck,
    /// `check-groups`.
    pub check_groups: UserCheck,
    /// `ignore-removed-users`.
    pub ignore_removed_users: Vec<String>,
    /// `ignore-removed-groups`.
    pub ignore_removed_groups: Vec<String>,
    /// `automatic-version-prefix`.
    pub version_prefix: Option<String>,
    /// `automatic-version-suffix`.
    pub version_suffix: char,
    /// `mutate-os-release`.
    pub mutate_os_release: Option<String>,
    /// `add-commit-metadata`.
    pub commit_metadata: BTreeMap<String, String>,
}

impl Treefile {
    /// The treefile that says nothing but a name, for a root that is there already.
    #[must_use]
    pub fn bare(ref_name: RefName, arch: &str) -> Self {
        Self {
            ref_name,
            directory: PathBuf::new(),
            distribution: "debian".to_owned(),
            engine: EngineKind::Apt,
            variant: Variant::default(),
            arch: arch.to_owned(),
            releasever: None,
            apt_sources: Vec::new(),
            repos: Vec::new(),
            unsigned_repos: Vec::new(),
            packages: Vec::new(),
            local_packages: Vec::new(),
            exclude_packages: Vec::new(),
            recommends: true,
            documentation: true,
            install_langs: Vec::new(),
            units: Vec::new(),
            default_target: None,
            add_files: Vec::new(),
            remove_files: Vec::new(),
            remove_from_packages: Vec::new(),
            scripts: Vec::new(),
            container: false,
            kernel: None,
            initramfs: InitramfsKind::default(),
            initramfs_args: Vec::new(),
            selinux: false,
            machineid_compat: true,
            tmp_is_dir: true,
            opt_usrlocal: OptUsrLocal::default(),
            readonly_executables: false,
            ignore_devices: true,
            preserve_passwd: true,
            check_passwd: UserCheck::default(),
            check_groups: UserCheck::default(),
            ignore_removed_users: Vec::new(),
            ignore_removed_groups: Vec::new(),
            version_prefix: None,
            version_suffix: '.',
            mutate_os_release: None,
            commit_metadata: BTreeMap::new(),
        }
    }
}
