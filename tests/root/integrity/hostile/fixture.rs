//! A signed repository on a server that may misbehave, and clients that trust its key.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::server::Server;
use crate::common::sandbox::{Repository, Run, Sandbox, finish};
use crate::common::trees;

/// Most memory of a process, whatever it is sent: far more than these small trees need, far less than malformed files announce.
pub const MEMORY_MAX: u64 = 80 << 20;

/// Longest time of a request with the clients' patience, also on a busy machine.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

pub struct Fixture {
    pub sandbox: Sandbox,
    pub publisher: Repository,
    pub published: PathBuf,
    pub tree: PathBuf,
}

impl Fixture {
    pub fn new(name: &str) -> Self {
        Self::with(name, |tree| trees::medium(tree, 60))
    }

    /// Makes a fixture with another tree.
    pub fn with(name: &str, make: impl FnOnce(&Path)) -> Self {
        let sandbox = Sandbox::new(name);
        let publisher = sandbox.repository("publisher");
        let tree = sandbox.join("tree");
        make(&tree);
        let fixture = Self { publisher, published: sandbox.join("published"), tree, sandbox };
        fixture.as_publisher(["key", "generate", "release"]).success();
        fixture.publisher.commit("main", &fixture.tree);
        fixture.publish();
        fixture
    }

    pub fn as_publisher<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Run {
        let mut command = self.publisher.command(arguments);
        command.env("SAPWOOD_KEYS", self.sandbox.join("keys"));
        finish(command)
    }

    pub fn publish(&self) {
        let url = format!("file://{}", self.published.display());
        self.as_publisher(["publish", "--sign", "release", &url, "main"]).success();
    }

    /// Changes a file a little and publishes again, with a delta from the previous commit.
    pub fn update(&self) {
        let path = self.tree.join("01/file-1");
        let mut content = fs::read(&path).expect("made");
        content[1000] ^= 1;
        fs::write(&path, content).expect("writable");
        self.publisher.commit("main", &self.tree);
        self.publish();
    }

    /// Makes a client that trusts the publisher and has a short patience.
    pub fn client(&self, name: &str, server: &Server) -> Client {
        let repository = self.sandbox.repository(&format!("client-{name}"));
        let client = Client { repository };
        client.point_to(self, server);
        client
    }

    /// Returns the files of the sandbox outside of clients' repositories, with their lengths.
    pub fn outside(&self) -> BTreeMap<PathBuf, u64> {
        let is_client =
            |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("client-"));
        let (mut pending, mut found) = (vec![self.sandbox.path().to_owned()], BTreeMap::new());
        while let Some(directory) = pending.pop() {
            for path in fs::read_dir(directory).expect("listable").map(|entry| entry.expect("listed").path()) {
                if is_client(&path) {
                    continue;
                }
                let data = fs::symlink_metadata(&path).expect("it exists");
                if data.is_dir() {
                    pending.push(path.clone());
                }
                found.insert(path, data.len());
            }
        }
        found
    }
}

pub struct Client {
    pub repository: Repository,
}

impl Client {
    pub fn point_to(&self, fixture: &Fixture, server: &Server) {
        let key = fixture.sandbox.join("keys/release.pub");
        let impatient = ["--patience", "1", "--stall-timeout", "1", "--connect-timeout", "5"];
        let url = server.url();
        let fixed = ["remote", "add", "--replace", "os", &url, "--key", key.to_str().expect("UTF-8")];
        self.repository.run(fixed.iter().chain(&impatient)).success();
    }

    pub fn pull(&self) -> Run {
        self.repository.run(["pull", "os:main"])
    }

    /// Pulls, which must fail within the bounds. Returns the message.
    #[track_caller]
    pub fn pull_in_vain(&self) -> String {
        let run = self.pull();
        assert!(run.time < REQUEST_TIMEOUT, "{} took {:?}", run.command, run.time);
        assert!(run.memory < MEMORY_MAX, "{} held {} bytes", run.command, run.memory);
        let said = run.failure(1);
        assert!(said.chars().all(|c| c == '\n' || !c.is_control()), "a terminal would obey this: {said:?}");
        self.assert_has_nothing();
        said
    }

    /// Checks that the client has no ref and no damage, and little on the disk.
    #[track_caller]
    pub fn assert_has_nothing(&self) {
        assert_eq!(self.repository.run(["refs"]).success(), "", "a ref was named");
        assert_eq!(
            fs::read_dir(self.repository.path().join("commits")).expect("it exists").count(),
            0,
            "a commit is here"
        );
        self.repository.assert_clean();
        let disk = disk_usage(self.repository.path());
        assert!(disk < 8 << 20, "{disk} bytes on the disk");
    }
}

/// Returns the bytes that files below a directory take on the disk.
pub fn disk_usage(directory: &Path) -> u64 {
    let (mut pending, mut sum) = (vec![directory.to_owned()], 0);
    while let Some(directory) = pending.pop() {
        for path in fs::read_dir(directory).expect("listable").map(|entry| entry.expect("listed").path()) {
            let data = fs::symlink_metadata(&path).expect("it exists");
            sum += data.blocks() * 512;
            if data.is_dir() {
                pending.push(path);
            }
        }
    }
    sum
}
