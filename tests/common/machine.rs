//! A machine in a directory: a publisher, its publication, and a sysroot that follows it.
//!
//! The operating system is a small tree of files; how a machine deploys it does not depend on its size.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::sandbox::{Repository, Run, Sandbox, finish, remove_tree, run};

/// The id of all sysroots of the tests.
pub const ID: &str = "0123abcd";

/// The tree of an operating system, by path; a content that begins with `-> ` is a symbolic link, a path that ends with `/` a
/// directory.
#[derive(Clone)]
pub struct Os {
    /// The version, which is in many of its files.
    pub version: String,
    /// Contents by path.
    pub files: BTreeMap<String, String>,
    /// Files of this machine that are copied, by path.
    pub copies: BTreeMap<String, PathBuf>,
}

impl Os {
    /// Returns the system in a version, with a kernel of its own.
    pub fn new(version: &str) -> Self {
        let mut os = Self { version: version.to_owned(), files: BTreeMap::new(), copies: BTreeMap::new() };
        for (path, content) in [
            ("bin", "-> usr/bin"),
            ("home/", ""),
            ("root/", ""),
            ("usr/bin/prog", "program"),
            ("usr/lib/os-release", "NAME=Test\nPRETTY_NAME=\"Test OS\"\n"),
            ("usr/lib/sapwood/kargs.d/10-quiet.toml", "kargs = ['quiet']\n"),
            ("usr/lib/systemd/system/prog.service", "[Service]\nExecStart=/usr/bin/prog\n"),
            ("usr/etc/hosts", "127.0.0.1 localhost\n"),
            ("usr/etc/passwd", "root:x:0:0::/root:/bin/sh\n"),
            ("usr/etc/prog/prog.conf", "a = 1\nb = 2\nc = 3\nd = 4\n"),
            ("usr/etc/prog/conf.d/", ""),
            ("usr/etc/localtime", "-> ../usr/share/zoneinfo/UTC"),
            ("var/lib/prog/state", "first\n"),
        ] {
            os.set(path, content);
        }
        os.set("usr/etc/issue", &format!("Test OS {version}\n"));
        os.kernel(version)
    }

    /// Returns the system with another kernel.
    pub fn kernel(mut self, version: &str) -> Self {
        self.files.retain(|path, _| !path.starts_with("usr/lib/modules/"));
        let directory = format!("usr/lib/modules/6.1.0-{version}");
        self.set(&format!("{directory}/vmlinuz"), &format!("kernel {version}"));
        self.set(&format!("{directory}/initramfs.img"), &format!("initramfs {version} ").repeat(400));
        self
    }

    /// Sets a file.
    pub fn set(&mut self, path: &str, content: &str) {
        self.files.insert(path.to_owned(), content.to_owned());
    }

    /// Removes a file.
    pub fn remove(&mut self, path: &str) {
        assert!(self.files.remove(path).is_some(), "there is no {path}");
    }

    /// Returns the system with a file set.
    pub fn with(mut self, path: &str, content: &str) -> Self {
        self.set(path, content);
        self
    }

    /// Makes the tree in a directory.
    pub fn write(&self, root: &Path) {
        remove_tree(root);
        for (path, content) in &self.files {
            let target = root.join(path);
            fs::create_dir_all(target.parent().expect("inside")).expect("writable");
            if path.ends_with('/') {
                fs::create_dir_all(&target).expect("writable");
            } else if let Some(link) = content.strip_prefix("-> ") {
                symlink(link, &target).expect("writable");
            } else {
                fs::write(&target, content).expect("writable");
                fs::set_permissions(&target, fs::Permissions::from_mode(0o644)).expect("owned by the test");
            }
        }
        for (path, from) in &self.copies {
            let target = root.join(path);
            fs::create_dir_all(target.parent().expect("inside")).expect("writable");
            fs::copy(from, target).expect("readable");
        }
        // As a reproducible build sets the times of its files.
        let touch = ["-exec", "touch", "-h", "-d", "@1700000000", "{}", "+"].map(OsStr::new);
        run("find", [root.as_os_str()].into_iter().chain(touch)).success();
    }
}

/// A machine and the publisher that it follows.
pub struct Machine {
    /// Directory of everything.
    pub directory: PathBuf,
    /// The publisher's repository.
    pub publisher: Repository,
    /// Directory of the sysroot.
    pub sysroot: PathBuf,
}

impl Machine {
    /// Makes a machine with a boot loader and no deployment, in a directory of the sandbox.
    pub fn new(sandbox: &Sandbox, loader: &str) -> Self {
        Self::at(sandbox.directory(&format!("machine-{loader}")), loader)
    }

    /// Makes a machine with a boot loader and no deployment in `directory`.
    pub fn at(directory: PathBuf, loader: &str) -> Self {
        let publisher = Repository::init(directory.join("publisher"));
        let sysroot = directory.join("sysroot");
        fs::create_dir_all(sysroot.join("boot")).expect("writable");
        let machine = Self { directory, publisher, sysroot };
        machine.publisher_run(&["key", "generate", "release"]).success();
        machine.init(&["--bootloader", loader]).success();
        let url = format!("file://{}", machine.published().display());
        machine.repository().run(["remote", "add", "os", &url, "--key", &machine.key("pub")]).success();
        machine
    }

    /// Runs `sysroot init`.
    pub fn init(&self, arguments: &[&str]) -> Run {
        let mut command = self.publisher.command(["sysroot", "init"]);
        command.arg(&self.sysroot).args(["--id", ID]).args(arguments);
        finish(command)
    }

    /// Returns a machine whose directory was copied from another one.
    pub fn copied(directory: PathBuf, publisher: &Repository) -> Self {
        let sysroot = directory.join("sysroot");
        Self { directory, publisher: publisher.clone(), sysroot }
    }

    /// Returns the file of the signing key: its public or its secret half, by the suffix.
    pub fn key(&self, suffix: &str) -> String {
        self.directory.join("keys/release").with_extension(suffix).display().to_string()
    }

    /// Returns the directory of the publication.
    pub fn published(&self) -> PathBuf {
        self.directory.join("published")
    }

    /// Returns the machine's own repository.
    pub fn repository(&self) -> Repository {
        Repository::at(self.sysroot.join("sapwood/repo"))
    }

    fn publisher_run(&self, arguments: &[&str]) -> Run {
        let mut command = self.publisher.command(arguments);
        command.env("SAPWOOD_KEYS", self.directory.join("keys"));
        finish(command)
    }

    /// Commits a system to the publisher's repository.
    pub fn commit(&self, os: &Os) -> String {
        let tree = self.directory.join("tree");
        os.write(&tree);
        let arguments = ["commit", "--ref", "test", "--version", &os.version].map(OsString::from);
        self.publisher.run(arguments.into_iter().chain([tree.into()])).success()
    }

    /// Commits and publishes a system. Returns the commit.
    #[track_caller]
    pub fn publish(&self, os: &Os) -> String {
        let id = self.commit(os);
        let url = format!("file://{}", self.published().display());
        self.publisher_run(&["publish", "--sign", "release", &url, "test"]).success();
        id
    }

    /// Runs a command on the sysroot.
    pub fn run(&self, arguments: &[&str]) -> Run {
        finish(self.command(arguments))
    }

    /// Runs a command on the sysroot as if a deployment was running.
    pub fn run_booted(&self, booted: &str, arguments: &[&str]) -> Run {
        let mut command = self.command(arguments);
        command.args(["--running", &format!("quiet sapwood={booted}")]);
        finish(command)
    }

    /// Returns a command on the sysroot, not started yet.
    pub fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = std::process::Command::new(super::programs::sapwood());
        command.args(arguments).arg("--sysroot").arg(&self.sysroot).env_remove("SAPWOOD_SYSROOT");
        command
    }

    /// Returns what `status --json` prints.
    #[track_caller]
    pub fn status(&self) -> Value {
        serde_json::from_str(&self.run(&["status", "--json"]).success()).expect("JSON")
    }

    /// Returns the names of the deployments, in the order of `status`.
    #[track_caller]
    pub fn deployments(&self) -> Vec<String> {
        let status = self.status();
        let all = status["deployments"].as_array().expect("a list").clone();
        all.iter().map(|found| found["id"].as_str().expect("a name").to_owned()).collect()
    }

    /// Returns the versions of the deployments, in the order of `status`.
    #[track_caller]
    pub fn versions(&self) -> Vec<String> {
        let status = self.status();
        let all = status["deployments"].as_array().expect("a list").clone();
        all.iter().map(|found| found["version"].as_str().expect("a version").to_owned()).collect()
    }

    /// Returns the directory of a deployment.
    pub fn deployment(&self, name: &str) -> PathBuf {
        self.sysroot.join("sapwood/deploy").join(name)
    }

    /// Returns a path in the `/etc` of the deployment that boots next.
    #[track_caller]
    pub fn etc(&self, path: &str) -> PathBuf {
        self.deployment(&self.deployments()[0]).join("etc").join(path)
    }
}
