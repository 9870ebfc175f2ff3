//! The system that the machines of these tests run: a Debian that `sapwood compose` made from `examples/debian-bootable.yaml`
//! with the package of this very source, published, and deployed by `sapwood deploy` on a disk.
//!
//! What takes long is kept from one run to the next, under a name made of everything it was made from.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use crate::common::sandbox::{Repository, finish_within, remove_tree, run};

/// Compiling everything anew, composing on a slow network.
const PATIENCE: Duration = Duration::from_secs(2400);

/// The ref of the system.
pub const REF: &str = "debian/12/x86_64/bootable";

/// To be changed together with what is kept.
const LAYOUT: &str = "2";

/// Bytes of the root partition. The image is sparse.
const ROOT_SIZE: u64 = 2 << 30;

/// Bytes of the boot partition.
const BOOT_SIZE: u64 = 260 << 20;

/// Where the first partition begins.
const FIRST: u64 = 1 << 20;

/// The id that all sysroots here have.
const ID: &str = "0123abcd";

/// What is published at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The composed commit.
    First,
    /// One with a few changes.
    Next,
    /// One whose init does nothing.
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

/// What starts the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loader {
    /// systemd-boot, by UEFI.
    SystemdBoot,
    /// GRUB, by UEFI.
    GrubEfi,
    /// GRUB, by a BIOS.
    GrubBios,
}

/// Where a machine gets its system from: seen from here, and seen from the machine.
pub struct Remote {
    /// From here.
    pub url: String,
    /// From the machine.
    pub inside: String,
}

/// A published system and the repository it was composed in.
pub struct System {
    /// All of it.
    pub directory: PathBuf,
    /// The repository.
    pub publisher: Repository,
    /// The package it has.
    pub package: PathBuf,
}

/// The system, made by whoever asks first.
pub fn system() -> &'static System {
    static SYSTEM: OnceLock<System> = OnceLock::new();
    SYSTEM.get_or_init(System::make)
}

/// Below the source: the one that the system is made from.
pub const TREEFILE: &str = "examples/debian-bootable.yaml";

/// A file of the source.
pub fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn within(program: impl Into<PathBuf>, arguments: &[&Path]) -> String {
    let mut command = Command::new(program.into());
    command.args(arguments);
    // Cargo's own variables are about the build of this test.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CARGO_")) {
        command.env_remove(name);
    }
    // Equal sources give an equal package.
    command.env("SOURCE_DATE_EPOCH", "1700000000");
    finish_within(command, PATIENCE).success()
}

/// Installs what these tests need of the distribution; says where the kernels are that it fetched.
pub fn tools() -> PathBuf {
    PathBuf::from(within(source("tests/boot/tools"), &[]))
}

impl System {
    fn make() -> Self {
        tools();
        let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
        // One that was built elsewhere may be tried, too.
        let package = std::env::var_os("SAPWOOD_BOOT_PACKAGE").map_or_else(
            || {
                // The one that is soon built, or what is shipped.
                let profile = std::env::var("SAPWOOD_BOOT_PROFILE").unwrap_or_else(|_| "release".to_owned());
                let place = temporary.join("package");
                let words = ["--profile".as_ref(), Path::new(&profile), &place];
                PathBuf::from(within(source("mount-helpers/debian/package"), &words))
            },
            PathBuf::from,
        );
        let inputs = [package.clone(), source(TREEFILE)];
        let sums = run("sha256sum", &inputs).success();
        let sums = format!("{LAYOUT} - {sums}");
        let key: String =
            sums.split_whitespace().step_by(2).map(|sum| &sum[..sum.len().min(12)]).collect::<Vec<_>>().join("-");
        let cache =
            std::env::var_os("SAPWOOD_BOOT_CACHE").map_or_else(|| "/var/tmp/sapwood-boot-cache".into(), PathBuf::from);
        let directory = cache.join(&key);
        let system = Self { publisher: Repository::at(directory.join("publisher")), directory, package };
        if !system.directory.join("made").exists() {
            remove_tree(&cache);
            system.compose(&fs::read_to_string(source(TREEFILE)).expect("ours"));
            system.publish(&system.publisher, Version::First);
            system.deploy();
            system.commit_others();
            fs::write(system.directory.join("made"), "").expect("writable");
        }
        system
    }

    /// One made from another treefile, deployed in `directory`. It is not kept.
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
        fs::write(&treefile, text).expect("room");
        fs::copy(&self.package, self.directory.join(self.package.file_name().expect("a file"))).expect("room");
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
        finish_within(self.publisher.command(words), PATIENCE).success();
        self.keyed(&["key", "generate", "release"]);
    }

    /// Runs `sapwood` with the keys of the publisher.
    fn keyed(&self, arguments: &[&str]) -> String {
        let mut command = self.publisher.command(arguments);
        command.env("SAPWOOD_KEYS", self.directory.join("keys"));
        finish_within(command, PATIENCE).success()
    }

    /// Where it is published, as it was when this was the newest.
    pub fn published(&self, version: Version) -> PathBuf {
        self.directory.join(format!("published-{}", version.name()))
    }

    /// Publishes the newest commit of a repository, and keeps a copy of what was published.
    fn publish(&self, repository: &Repository, version: Version) {
        let published = self.directory.join("published");
        let mut command = repository.command(["publish", "--sign", "release"]);
        command
            .arg(format!("file://{}", published.display()))
            .arg(REF)
            .env("SAPWOOD_KEYS", self.directory.join("keys"));
        finish_within(command, PATIENCE).success();
        // What is published is never written to, only replaced. Its locks, whose names begin with a dot, are written to, and one
        // with two names is not taken.
        let kept = self.published(version);
        run("cp", ["-al".as_ref(), published.as_os_str(), kept.as_os_str()]).success();
        let locks = ["-maxdepth", "1", "-type", "f", "-name", ".*", "-delete"].map(AsRef::as_ref);
        run("find", [kept.as_os_str()].into_iter().chain(locks)).success();
    }

    /// Commits what comes after the first, to a copy of the repository.
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
        fs::remove_file(&init).expect("there");
        let script = "#!/bin/sh\necho this one hangs > /dev/console\nexec sleep infinity\n";
        fs::write(&init, script).expect("writable");
        fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).expect("ours");
        commit(Version::Hanging);
        remove_tree(&tree);
        remove_tree(repository.path());
    }

    /// The same system without Sapwood: its files on a disk of their own, to compare times with.
    fn make_plain_disk(&self, tree: &Path) {
        let root = self.directory.join("plain");
        run("cp", ["-a".as_ref(), tree.as_os_str(), root.as_os_str()]).success();
        run("rm", ["-rf".as_ref(), root.join("etc").as_os_str()]).success();
        run("cp", ["-a".as_ref(), root.join("usr/etc").as_os_str(), root.join("etc").as_os_str()]).success();
        crate::disk::add_shell(&root.join("etc"));
        let boot = self.directory.join("boot");
        crate::disk::make(&self.plain_disk(), &boot, &root, (FIRST, BOOT_SIZE, ROOT_SIZE));
        remove_tree(&root);
    }

    /// Where that disk is.
    pub fn plain_disk(&self) -> PathBuf {
        self.directory.join("plain.img")
    }

    /// The key that signs.
    pub fn key(&self) -> PathBuf {
        self.directory.join("keys/release.pub")
    }

    /// A key that signs nothing, in `place`.
    pub fn stranger(&self, place: &Path) -> PathBuf {
        let mut command = self.publisher.command(["key", "generate", "stranger"]);
        command.env("SAPWOOD_KEYS", place);
        finish_within(command, PATIENCE).success();
        place.join("stranger.pub")
    }

    /// Its digits.
    pub fn key_digits(&self) -> String {
        let text = fs::read_to_string(self.key()).expect("generated");
        let is_key = |word: &&str| word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        text.split_whitespace().find(is_key).expect("64 digits").to_owned()
    }

    /// Deploys the system onto a disk that all tests begin with.
    fn deploy(&self) {
        let url = format!("file://{}", self.published(Version::First).display());
        let remote = Remote { inside: url.clone(), url };
        let name = self.deploy_on(&self.directory, &remote, &[], Loader::SystemdBoot);
        fs::write(self.directory.join("deployment"), name).expect("writable");
    }

    /// Makes `disk.img` in `place` with next to nothing of the system on it; gives the deployment. What would fetch the rest by
    /// itself is masked in its `/etc`.
    pub fn deploy_lazily(&self, place: &Path, remote: &Remote) -> String {
        self.deploy_on(place, remote, &["--lazy"], Loader::SystemdBoot)
    }

    /// Makes `disk.img` in `place` with another loader; gives the deployment.
    pub fn deploy_with(&self, place: &Path, loader: Loader) -> String {
        let url = format!("file://{}", self.published(Version::First).display());
        self.deploy_on(place, &Remote { inside: url.clone(), url }, &[], loader)
    }

    /// Makes `disk.img` in `place`, with a boot partition and a root, onto which the system was deployed with a shell for the
    /// test. What is on the boot partition is left in `boot`.
    fn deploy_on(&self, place: &Path, remote: &Remote, how: &[&str], loader: Loader) -> String {
        let root = place.join("sysroot");
        fs::create_dir_all(root.join("boot")).expect("writable");
        // A filesystem of its own, as it will be: GRUB's paths begin there.
        run("mount", ["-t".as_ref(), "tmpfs".as_ref(), "boot".as_ref(), root.join("boot").as_os_str()]).success();
        let (sysroot, repository) = (root.display().to_string(), Repository::at(root.join("sapwood/repo")));
        let kind = if loader == Loader::SystemdBoot { "systemd-boot" } else { "grub" };
        self.keyed(&["sysroot", "init", &sysroot, "--bootloader", kind, "--boot", "boot", "--id", ID]);
        let name_remote = |url: &str| {
            let words = ["remote", "add", "--replace", "os", url, "--key", &self.key_digits()];
            repository.run(words).success();
        };
        name_remote(&remote.url);
        let kargs = ["root=LABEL=root", "rw", "console=ttyS0", "panic=5"].map(|karg| ["--karg", karg]).concat();
        let source = format!("os:{REF}");
        let words = [&["deploy", "--sysroot", &sysroot], &kargs[..], how, &[&source]].concat();
        let name = finish_within(repository.command(words), PATIENCE).success();
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
        crate::disk::make(&disk, &boot, &root, (FIRST, BOOT_SIZE, ROOT_SIZE));
        if loader == Loader::GrubBios {
            crate::loader::embed(&disk);
        }
        remove_tree(&root);
        name
    }

    /// Publishes the first commit with a boot profile, elsewhere.
    pub fn publish_with_profile(&self, profile: &Path, to: &Path) -> PathBuf {
        let mut command = self.publisher.command(["publish", "--sign", "release", "--profile"]);
        command.arg(profile).arg(format!("file://{}", to.display())).arg(REF);
        command.env("SAPWOOD_KEYS", self.directory.join("keys"));
        finish_within(command, PATIENCE).success();
        to.to_owned()
    }

    /// A copy of the disk.
    pub fn disk(&self, at: &Path) -> PathBuf {
        let arguments = ["--sparse=always", "--reflink=auto"].map(OsString::from).into_iter();
        let disk = self.directory.join("disk.img");
        run("cp", arguments.chain([disk.into(), at.as_os_str().to_owned()])).success();
        at.to_owned()
    }

    /// What is on its boot partition.
    pub fn boot(&self) -> PathBuf {
        self.directory.join("boot")
    }

    /// What was deployed on it.
    pub fn deployment(&self) -> String {
        fs::read_to_string(self.directory.join("deployment")).expect("written").trim().to_owned()
    }

    /// The kernel and the initramfs that boot it, in files.
    pub fn kernel(&self) -> (PathBuf, PathBuf) {
        let find = |name: &str| {
            let found = run("find", [self.directory.join("boot/sapwood").as_os_str(), "-name".as_ref(), name.as_ref()]);
            PathBuf::from(found.success().lines().next().expect("deployed"))
        };
        (find("vmlinuz"), find("initramfs.img"))
    }
}

/// Makes a file of this size, all of it a hole.
pub fn sparse(path: &Path, bytes: u64) {
    File::create(path).and_then(|file| file.set_len(bytes)).expect("writable");
}
