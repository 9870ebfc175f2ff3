//! The system that the boot tests run: `sapwood compose` makes a Debian from `examples/debian-bootable.yaml` with the package
//! of this source; it is published, and deployed on a disk by `sapwood deploy`.
//!
//! The result is kept from one run to the next, under a name made from the digests of its inputs.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use crate::common::sandbox::{Repository, finish_within, remove_tree, run};

/// Longest time for a full build, or for a compose on a slow network.
const COMPOSE_TIMEOUT: Duration = Duration::from_secs(2400);

/// The ref of the system.
pub const REF: &str = "debian/12/x86_64/bootable";

/// Version of what is kept in the cache; changes whenever that does.
const CACHE_LAYOUT: &str = "2";

/// Bytes of the root partition. The image is sparse.
const ROOT_SIZE: u64 = 2 << 30;

/// Bytes of the boot partition.
const BOOT_SIZE: u64 = 260 << 20;

/// Offset of the first partition in bytes.
const FIRST_PARTITION_OFFSET: u64 = 1 << 20;

/// The id of all sysroots of these tests.
const SYSROOT_ID: &str = "0123abcd";

/// The commits of the system, each published in a directory of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The composed commit.
    First,
    /// A commit with a few changes.
    Next,
    /// A commit whose init hangs.
    Hanging,
}

impl Version {
    const fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Next => "next",
            Self::Hanging => "hanging",
        }
    }
}

/// A boot loader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loader {
    /// systemd-boot, by UEFI.
    SystemdBoot,
    /// GRUB, by UEFI.
    GrubEfi,
    /// GRUB, by a BIOS.
    GrubBios,
}

/// The URLs of a remote, from the host and from the machine.
pub struct Remote {
    /// URL on the host.
    pub url: String,
    /// URL in the machine.
    pub inside: String,
}

/// A published system and the repository in which it was composed.
pub struct System {
    /// Directory of everything.
    pub directory: PathBuf,
    /// The publisher's repository.
    pub publisher: Repository,
    /// The Debian package that it contains.
    pub package: PathBuf,
}

/// Returns the system; the first caller makes it.
pub fn system() -> &'static System {
    static SYSTEM: OnceLock<System> = OnceLock::new();
    SYSTEM.get_or_init(System::make)
}

/// Path of the treefile in the source.
pub const TREEFILE: &str = "examples/debian-bootable.yaml";

/// Returns the path of a file of the source.
pub fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn within(program: impl Into<PathBuf>, arguments: &[&Path]) -> String {
    let mut command = Command::new(program.into());
    command.args(arguments);
    // Cargo's variables describe the build of this test program.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CARGO_")) {
        command.env_remove(name);
    }
    // Makes the package reproducible.
    command.env("SOURCE_DATE_EPOCH", "1700000000");
    finish_within(command, COMPOSE_TIMEOUT).success()
}

/// Installs the tools that these tests need from the distribution. Returns the directory of the fetched kernels.
pub fn tools() -> PathBuf {
    PathBuf::from(within(source("tests/boot/tools"), &[]))
}

impl System {
    fn make() -> Self {
        tools();
        let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
        // SAPWOOD_BOOT_PACKAGE names a package that was built elsewhere.
        let package = std::env::var_os("SAPWOOD_BOOT_PACKAGE").map_or_else(
            || {
                // Otherwise the package is built, by default with the profile that is quick to build.
                let profile = std::env::var("SAPWOOD_BOOT_PROFILE").unwrap_or_else(|_| "release".to_owned());
                let place = temporary.join("package");
                let words = ["--profile".as_ref(), Path::new(&profile), &place];
                PathBuf::from(within(source("mount-helpers/debian/package"), &words))
            },
            PathBuf::from,
        );
        let inputs = [package.clone(), source(TREEFILE)];
        let sums = run("sha256sum", &inputs).success();
        let sums = format!("{CACHE_LAYOUT} - {sums}");
        let key: String =
            sums.split_whitespace().step_by(2).map(|sum| &sum[..sum.len().min(12)]).collect::<Vec<_>>().join("-");
        let cache =
            std::env::var_os("SAPWOOD_BOOT_CACHE").map_or_else(|| "/var/tmp/sapwood-boot-cache".into(), PathBuf::from);
        let directory = cache.join(&key);
        let system = Self { publisher: Repository::at(directory.join("publisher")), directory, package };
        if !system.directory.join("made").exists() {
            remove_tree(&cache);
            system.compose(&fs::read_to_string(source(TREEFILE)).expect("owned by the test"));
            system.publish(&system.publisher, Version::First);
            system.deploy();
            system.commit_others();
            fs::write(system.directory.join("made"), "").expect("writable");
        }
        system
    }

    /// Makes a system from another treefile, deployed in `directory`. It is not kept.
    pub fn variant(&self, directory: PathBuf, treefile: &str) -> Self {
        let package = self.package.clone();
        let system = Self { publisher: Repository::at(directory.join("publisher")), directory, package };
        system.compose(treefile);
        system.publish(&system.publisher, Version::First);
        system.deploy();
        system
    }

    fn compose(&self, text: &str) {
        fs::create_dir_all(&self.directory).expect("the cache is writable");
        let treefile = self.directory.join("bootable.yaml");
        fs::write(&treefile, text).expect("there is room");
        fs::copy(&self.package, self.directory.join(self.package.file_name().expect("a file"))).expect("there is room");
        self.publisher.run(["init"]).success();
        let cache =
            std::env::var_os("SAPWOOD_COMPOSE_CACHE").unwrap_or_else(|| "/var/tmp/sapwood-compose-cache".into());
        let words: [OsString; 6] = [
            "compose".into(),
            "--cachedir".into(),
            cache,
            "--workdir".into(),
            self.directory.join("work").into(),
            treefile.into(),
        ];
        finish_within(self.publisher.command(words), COMPOSE_TIMEOUT).success();
        self.keyed(&["key", "generate", "release"]);
    }

    /// Runs `sapwood` with the publisher's keys.
    fn keyed(&self, arguments: &[&str]) -> String {
        let mut command = self.publisher.command(arguments);
        command.env("SAPWOOD_KEYS", self.directory.join("keys"));
        finish_within(command, COMPOSE_TIMEOUT).success()
    }

    /// Returns the directory in which a version is published.
    pub fn published(&self, version: Version) -> PathBuf {
        self.directory.join(format!("published-{}", version.name()))
    }

    /// Publishes the newest commit of a repository, and keeps a copy of the publication.
    fn publish(&self, repository: &Repository, version: Version) {
        let published = self.directory.join("published");
        let mut command = repository.command(["publish", "--sign", "release"]);
        command
            .arg(format!("file://{}", published.display()))
            .arg(REF)
            .env("SAPWOOD_KEYS", self.directory.join("keys"));
        finish_within(command, COMPOSE_TIMEOUT).success();
        // Published files are never written to, only replaced, so hard links are enough. Lock files, whose names begin with a
        // dot, are written to, and one with two names is refused.
        let kept = self.published(version);
        run("cp", ["-al".as_ref(), published.as_os_str(), kept.as_os_str()]).success();
        let locks = ["-maxdepth", "1", "-type", "f", "-name", ".*", "-delete"].map(AsRef::as_ref);
        run("find", [kept.as_os_str()].into_iter().chain(locks)).success();
    }

    /// Commits and publishes the other versions from a copy of the repository.
    fn commit_others(&self) {
        let (tree, repository) = (self.directory.join("tree"), Repository::at(self.directory.join("others")));
        run("cp", ["-a".as_ref(), self.publisher.path().as_os_str(), repository.path().as_os_str()]).success();
        repository.run(["export", REF, &tree.display().to_string()]).success();
        self.make_plain_disk(&tree);
        let commit = |version: Version| {
            let words = ["commit", "--ref", REF, "--version", version.name(), &tree.display().to_string()];
            repository.run(words).success();
            self.publish(&repository, version);
        };
        for path in ["usr/share/version", "usr/etc/version"] {
            fs::write(tree.join(path), "next\n").expect("writable");
        }
        commit(Version::Next);
        let init = tree.join("usr/lib/systemd/systemd");
        fs::remove_file(&init).expect("it exists");
        let script = "#!/bin/sh\necho this one hangs > /dev/console\nexec sleep infinity\n";
        fs::write(&init, script).expect("writable");
        fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).expect("owned by the test");
        commit(Version::Hanging);
        remove_tree(&tree);
        remove_tree(repository.path());
    }

    /// Makes a disk with the files of the system on plain ext4, to compare times with.
    fn make_plain_disk(&self, tree: &Path) {
        let root = self.directory.join("plain");
        run("cp", ["-a".as_ref(), tree.as_os_str(), root.as_os_str()]).success();
        run("rm", ["-rf".as_ref(), root.join("etc").as_os_str()]).success();
        run("cp", ["-a".as_ref(), root.join("usr/etc").as_os_str(), root.join("etc").as_os_str()]).success();
        crate::disk::add_shell(&root.join("etc"));
        let boot = self.directory.join("boot");
        crate::disk::make(&self.plain_disk(), &boot, &root, (FIRST_PARTITION_OFFSET, BOOT_SIZE, ROOT_SIZE));
        remove_tree(&root);
    }

    /// Returns the path of the disk with plain ext4.
    pub fn plain_disk(&self) -> PathBuf {
        self.directory.join("plain.img")
    }

    /// Returns the file of the public key that signs commits.
    pub fn key(&self) -> PathBuf {
        self.directory.join("keys/release.pub")
    }

    /// Makes a key in `place` that signs nothing.
    pub fn stranger(&self, place: &Path) -> PathBuf {
        let mut command = self.publisher.command(["key", "generate", "stranger"]);
        command.env("SAPWOOD_KEYS", place);
        finish_within(command, COMPOSE_TIMEOUT).success();
        place.join("stranger.pub")
    }

    /// Returns the signing key as hexadecimal digits.
    pub fn key_digits(&self) -> String {
        let text = fs::read_to_string(self.key()).expect("generated");
        let is_key = |word: &&str| word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        text.split_whitespace().find(is_key).expect("64 digits").to_owned()
    }

    /// Makes the disk with which all tests begin.
    fn deploy(&self) {
        let url = format!("file://{}", self.published(Version::First).display());
        let remote = Remote { inside: url.clone(), url };
        let name = self.deploy_on(&self.directory, &remote, &[], Loader::SystemdBoot);
        fs::write(self.directory.join("deployment"), name).expect("writable");
    }

    /// Makes `disk.img` in `place` with a lazy deployment. Returns the deployment. The unit that would fetch the rest is masked
    /// in its `/etc`.
    pub fn deploy_lazily(&self, place: &Path, remote: &Remote) -> String {
        self.deploy_on(place, remote, &["--lazy"], Loader::SystemdBoot)
    }

    /// Makes `disk.img` in `place` with another loader. Returns the deployment.
    pub fn deploy_with(&self, place: &Path, loader: Loader) -> String {
        let url = format!("file://{}", self.published(Version::First).display());
        self.deploy_on(place, &Remote { inside: url.clone(), url }, &[], loader)
    }

    /// Makes `disk.img` in `place`, with a boot partition and a root on which the system is deployed together with the test's
    /// shell. The directory `boot` keeps the files of the boot partition.
    fn deploy_on(&self, place: &Path, remote: &Remote, how: &[&str], loader: Loader) -> String {
        let root = place.join("sysroot");
        fs::create_dir_all(root.join("boot")).expect("writable");
        // A mount of its own, as on a machine: GRUB's paths begin there.
        run("mount", ["-t".as_ref(), "tmpfs".as_ref(), "boot".as_ref(), root.join("boot").as_os_str()]).success();
        let (sysroot, repository) = (root.display().to_string(), Repository::at(root.join("sapwood/repo")));
        let kind = if loader == Loader::SystemdBoot { "systemd-boot" } else { "grub" };
        self.keyed(&["sysroot", "init", &sysroot, "--bootloader", kind, "--boot", "boot", "--id", SYSROOT_ID]);
        let name_remote = |url: &str| {
            let words = ["remote", "add", "--replace", "os", url, "--key", &self.key_digits()];
            repository.run(words).success();
        };
        name_remote(&remote.url);
        let kargs = ["root=LABEL=root", "rw", "console=ttyS0", "panic=5"].map(|karg| ["--karg", karg]).concat();
        let source = format!("os:{REF}");
        let words = [&["deploy", "--sysroot", &sysroot], &kargs[..], how, &[&source]].concat();
        let name = finish_within(repository.command(words), COMPOSE_TIMEOUT).success();
        let name = name.lines().last().expect("its name").to_owned();
        name_remote(&remote.inside);
        let etc = root.join("sapwood/deploy").join(&name).join("etc");
        crate::disk::add_shell(&etc);
        if how.contains(&"--lazy") {
            crate::disk::mask(&etc, "sapwood-fill.service");
        }
        let boot = place.join("boot");
        run("cp", ["-a".as_ref(), root.join("boot").as_os_str(), boot.as_os_str()]).success();
        run("umount", [root.join("boot")]).success();
        let disk = place.join("disk.img");
        crate::loader::add(loader, &boot);
        crate::disk::make(&disk, &boot, &root, (FIRST_PARTITION_OFFSET, BOOT_SIZE, ROOT_SIZE));
        if loader == Loader::GrubBios {
            crate::loader::embed(&disk);
        }
        remove_tree(&root);
        name
    }

    /// Publishes the first commit with a boot profile in the directory `to`.
    pub fn publish_with_profile(&self, profile: &Path, to: &Path) -> PathBuf {
        let mut command = self.publisher.command(["publish", "--sign", "release", "--profile"]);
        command.arg(profile).arg(format!("file://{}", to.display())).arg(REF);
        command.env("SAPWOOD_KEYS", self.directory.join("keys"));
        finish_within(command, COMPOSE_TIMEOUT).success();
        to.to_owned()
    }

    /// Copies the disk.
    pub fn disk(&self, at: &Path) -> PathBuf {
        let arguments = ["--sparse=always", "--reflink=auto"].map(OsString::from).into_iter();
        let disk = self.directory.join("disk.img");
        run("cp", arguments.chain([disk.into(), at.as_os_str().to_owned()])).success();
        at.to_owned()
    }

    /// Returns the directory with the files of its boot partition.
    pub fn boot(&self) -> PathBuf {
        self.directory.join("boot")
    }

    /// Returns the deployment on the disk.
    pub fn deployment(&self) -> String {
        fs::read_to_string(self.directory.join("deployment")).expect("written").trim().to_owned()
    }

    /// Returns the files of the kernel and the initramfs that boot it.
    pub fn kernel(&self) -> (PathBuf, PathBuf) {
        let find = |name: &str| {
            let found = run("find", [self.directory.join("boot/sapwood").as_os_str(), "-name".as_ref(), name.as_ref()]);
            PathBuf::from(found.success().lines().next().expect("deployed"))
        };
        (find("vmlinuz"), find("initramfs.img"))
    }
}

/// Makes a sparse file of this size.
pub fn sparse(path: &Path, bytes: u64) {
    File::create(path).and_then(|file| file.set_len(bytes)).expect("writable");
}
