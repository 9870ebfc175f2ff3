//! The treefile, in YAML or JSON: what a compose installs and how it changes the result.
//!
//! [`load()`] reads the file and those it includes, substitutes variables, and returns a [`Treefile`]. Keys and their
//! meaning are rpm-ostree's wherever the concept is the same; `keys` lists them.
//!
//! *Not here*: installing anything, and the package managers (`engine`).
//!
//! *Invariants*: in a [`Treefile`] every key has its final value and every file name is absolute.
//!
//! *Used by* the rest of `compose` and by `cli::compose`.

mod decide;
mod document;
mod error;
mod forms;
mod keys;
mod load;
mod package_form;
mod raw;
mod value_form;
mod variables;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use load::load;

use crate::model::RefName;

/// Returns the architecture under Debian's name.
pub(crate) fn debian_arch(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "armhfp" => "armhf",
        "ppc64le" => "ppc64el",
        other => other,
    }
}

/// The package manager that installs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EngineKind {
    /// apt, through mmdebstrap.
    Apt,
    /// dnf, into an installroot.
    Dnf,
}

impl EngineKind {
    /// Returns the name that the treefile uses.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Apt => "apt",
            Self::Dnf => "dnf",
        }
    }
}

/// Which of Debian's packages are installed without being named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Variant {
    /// The packages marked essential.
    Essential,
    /// Also the packages of priority required, which debootstrap calls minbase.
    #[default]
    Required,
    /// Also the packages of priority important.
    Important,
    /// Also the packages of priority standard.
    Standard,
}

/// Where the contents of `/opt` and `/usr/local` are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OptUsrLocal {
    /// Both are links into `/var`, and what the commit has for them is in `/usr`, with links to it.
    #[default]
    Var,
    /// Both are links into `/var`, where each machine gets a copy of what the commit has, once.
    Machine,
    /// In the commit.
    Root,
}

/// The program that makes the initramfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum InitramfsKind {
    /// The one that is installed.
    #[default]
    Auto,
    Dracut,
    InitramfsTools,
    /// None; the commit has no initramfs.
    None,
}

/// What the new users or groups are checked against.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum UserCheck {
    /// Nothing. This does not affect whether numbers are kept from the parent.
    #[default]
    None,
    /// The parent commit; a user or group that is missing is an error.
    Previous,
    /// These lines of `/etc/passwd` or `/etc/group`.
    File(String),
    /// These numbers: the uid or gid, and for users optionally the gid of their group.
    Data(BTreeMap<String, (u32, Option<u32>)>),
}

/// A file to be copied into the root.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct AddFile {
    /// The path on this machine.
    pub(crate) source: PathBuf,
    /// The path in the root.
    pub(crate) destination: String,
}

/// Package sources for apt.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) enum AptSource {
    /// Stanzas in deb822 form.
    Stanzas(String),
    /// Lines in the form of sources.list.
    Lines(String),
}

/// A treefile in which every key has its final value.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Treefile {
    /// `ref`: the name of the commits.
    pub(crate) ref_name: RefName,
    /// The directory of the treefile, where `.repo` files are.
    #[serde(skip)]
    pub(crate) directory: PathBuf,
    /// `base`: the commit on top of which the packages are installed.
    pub(crate) base: Option<String>,
    /// `distribution`.
    pub(crate) distribution: String,
    /// `engine`, or the one that the distribution uses.
    pub(crate) engine: EngineKind,
    /// `variant`, for apt.
    pub(crate) variant: Variant,
    /// The architecture, as rpm names it.
    pub(crate) arch: String,
    /// `releasever`: the suite for apt.
    pub(crate) releasever: Option<String>,
    /// `apt-sources`; empty means the sources of this machine.
    pub(crate) apt_sources: Vec<AptSource>,
    /// `repos`: names of repositories for dnf.
    pub(crate) repos: Vec<String>,
    /// `unsigned-repos`: repositories whose packages need no signature.
    pub(crate) unsigned_repos: Vec<String>,
    /// `packages` and those for this architecture: names as the package manager accepts them.
    pub packages: Vec<String>,
    /// `repo-packages`: packages that come from the repository named first.
    pub(crate) repo_packages: Vec<(String, Vec<String>)>,
    /// `.deb` and `.rpm` files named in `packages`.
    pub(crate) local_packages: Vec<PathBuf>,
    /// `exclude-packages`.
    pub(crate) exclude_packages: Vec<String>,
    /// `recommends`.
    pub(crate) recommends: bool,
    /// `documentation`.
    pub(crate) documentation: bool,
    /// `install-langs`; empty means all.
    pub(crate) install_langs: Vec<String>,
    /// `units`.
    pub(crate) units: Vec<String>,
    /// `default-target`.
    pub(crate) default_target: Option<String>,
    /// `add-files`.
    pub(crate) add_files: Vec<AddFile>,
    /// `keep-identities`: private keys and identities that are kept.
    pub(crate) keep_identities: Vec<String>,
    /// `remove-files`.
    pub(crate) remove_files: Vec<String>,
    /// `remove-from-packages`: a package and expressions for its files.
    pub(crate) remove_from_packages: Vec<(String, Vec<String>)>,
    /// `postprocess`, then `postprocess-script`.
    pub(crate) scripts: Vec<String>,
    /// `container`: a root that runs as it is; no kernel, no initramfs, no labels.
    pub(crate) container: bool,
    /// `kernel`: the version to boot where several are installed.
    pub(crate) kernel: Option<String>,
    /// `initramfs` and `no-initramfs`.
    pub(crate) initramfs: InitramfsKind,
    /// `initramfs-args`.
    pub(crate) initramfs_args: Vec<String>,
    /// `selinux`.
    pub(crate) selinux: bool,
    /// `machineid-compat`.
    pub(crate) machineid_compat: bool,
    /// `tmp-is-dir`.
    pub(crate) tmp_is_dir: bool,
    /// `opt-usrlocal`.
    pub(crate) opt_usrlocal: OptUsrLocal,
    /// `readonly-executables`.
    pub(crate) readonly_executables: bool,
    /// `ignore-devices`.
    pub(crate) ignore_devices: bool,
    /// `preserve-passwd`: numbers of users and groups stay those of the parent.
    pub(crate) preserve_passwd: bool,
    /// `check-passwd`.
    pub(crate) check_passwd: UserCheck,
    /// `check-groups`.
    pub(crate) check_groups: UserCheck,
    /// `ignore-removed-users`.
    pub(crate) ignore_removed_users: Vec<String>,
    /// `ignore-removed-groups`.
    pub(crate) ignore_removed_groups: Vec<String>,
    /// `automatic-version-prefix`.
    pub(crate) version_prefix: Option<String>,
    /// `automatic-version-suffix`.
    pub(crate) version_suffix: char,
    /// `mutate-os-release`.
    pub(crate) mutate_os_release: Option<String>,
    /// `add-commit-metadata`.
    pub(crate) commit_metadata: BTreeMap<String, String>,
    /// Keys without an effect, each with the reason.
    #[serde(skip)]
    pub(crate) notes: BTreeMap<String, &'static str>,
}

impl Treefile {
    /// Returns a treefile that sets only the ref, for a root that exists already.
    pub(crate) fn bare(ref_name: RefName, arch: &str) -> Self {
        Self {
            ref_name,
            directory: PathBuf::new(),
            base: None,
            distribution: "debian".to_owned(),
            engine: EngineKind::Apt,
            variant: Variant::default(),
            arch: arch.to_owned(),
            releasever: None,
            apt_sources: Vec::new(),
            repos: Vec::new(),
            unsigned_repos: Vec::new(),
            packages: Vec::new(),
            repo_packages: Vec::new(),
            local_packages: Vec::new(),
            exclude_packages: Vec::new(),
            recommends: true,
            documentation: true,
            install_langs: Vec::new(),
            keep_identities: Vec::new(),
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
            notes: BTreeMap::new(),
        }
    }
}
