//! A publisher with a commit, a client without it, and helpers to run them.

use std::fs;
use std::path::{Path, PathBuf};

use sapwood::remote::transport::{Transport, TransportError, TransportOptions};

use crate::common::facts::assert_same_tree;
use crate::common::sandbox::{Repository, Sandbox, finish};
use crate::common::trees;

pub struct Fixture {
    pub sandbox: Sandbox,
    pub publisher: Repository,
    pub client: Repository,
    pub tree: PathBuf,
}

impl Fixture {
    pub fn new(name: &str) -> Self {
        let sandbox = Sandbox::new(name);
        let (publisher, client) = (sandbox.repository("publisher"), sandbox.repository("client"));
        let tree = sandbox.join("tree");
        trees::medium(&tree, 120);
        publisher.commit("main", &tree);
        Self { sandbox, publisher, client, tree }
    }

    /// Publishes to a directory and returns it.
    pub fn published(&self) -> PathBuf {
        let directory = self.sandbox.directory("published");
        self.publisher.run(["publish", &format!("file://{}", directory.display()), "main"]).success();
        directory
    }

    pub fn add_remote(&self, url: &str, options: &[&str]) {
        let fixed = ["remote", "add", "--replace", "os", url, "--insecure-unsigned"];
        self.client.run(fixed.iter().chain(options)).success();
    }

    #[track_caller]
    pub fn assert_client_pulls(&self) {
        self.client.run(["pull", "os:main"]).success();
        self.assert_client_has_all();
    }

    #[track_caller]
    pub fn assert_client_has_all(&self) {
        self.client.assert_clean();
        self.assert_mounted_is_same(&self.client);
    }

    /// Checks that `os:main` can be mounted in a repository that may have nothing of it.
    #[track_caller]
    pub fn assert_mounted_is_same(&self, client: &Repository) {
        let mounted = client.mount("os:main", &self.sandbox.join("mounted"), &["suid", "dev"]);
        assert_same_tree(&self.tree, mounted.path());
        mounted.unmount();
    }

    /// Checks that a new repository can mount the commit without a pull.
    #[track_caller]
    pub fn assert_lazy_mount_is_same(&self, url: &str) {
        let lazy = self.sandbox.repository("lazy");
        lazy.run(["remote", "add", "--replace", "os", url, "--insecure-unsigned"]).success();
        self.assert_mounted_is_same(&lazy);
        lazy.assert_clean();
    }

    /// Commits one more file.
    pub fn grow(&self, name: &str) -> String {
        fs::write(self.tree.join(name), name).expect("writable");
        self.publisher.commit("main", &self.tree)
    }
}

/// Runs `sapwood` with further environment variables.
pub fn run_with(
    repository: &Repository,
    variables: &[(&str, String)],
    arguments: &[&str],
) -> crate::common::sandbox::Run {
    let mut command = repository.command(arguments);
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    finish(command)
}

/// Returns options with short timeouts.
pub fn impatient() -> TransportOptions {
    TransportOptions { connect_timeout: 5, stall_timeout: 5, patience: 0, ..TransportOptions::default() }
}

/// Fetches a small file through the transport. Returns its text, or the error and its causes in one line.
pub fn fetch(url: &str, options: &TransportOptions, path: &str) -> Result<String, String> {
    let told = |error: TransportError| chain(&error);
    let transport = Transport::open(url, options).map_err(told)?;
    match transport.get(path, 1 << 20).map_err(told)? {
        Some((bytes, _)) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        None => Err(format!("{path} is not there")),
    }
}

pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

pub fn write(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    fs::create_dir_all(path.parent().expect("it has one")).expect("writable");
    fs::write(&path, text).expect("writable");
    path
}
