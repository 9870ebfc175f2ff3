//! A published repository with two commits and a delta, and its clients, by the library alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use sapwood::cache::{LazyOptions, LazyTree, Patience, ResolvedCommit};
use sapwood::image::{Image, ImageError, ObjectRef};
use sapwood::model::RefName;
use sapwood::remote::fetch::FetchProgress;
use sapwood::remote::pull::{PullOptions, RefReport, pull};
use sapwood::remote::transport::TransportOptions;
use sapwood::remote::{Remote, RemoteConfig};
use sapwood::store::{Absent, Config, Fetch as _, ObjectSource as _, ReadError, Store};
use tempfile::TempDir;

use crate::common::trees::noise;

fn file(directory: &Path, name: impl AsRef<Path>, content: Vec<u8>) {
    fs::write(directory.join(name), content).expect("writable");
}

/// Publications before and after a change, and a directory for clients.
pub struct Fixture {
    directory: TempDir,
    publisher: PathBuf,
}

impl Fixture {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let publisher = directory.path().join("publisher");
        let fixture = Self { publisher, directory };
        let tree = fixture.join("tree");
        fs::create_dir_all(tree.join("sub")).expect("writable");
        // Shared frames, frames of single objects, blocks, and enough entries that some digests are not fetched with the names.
        (0..150_u64).for_each(|number| file(&tree, format!("small-{number}"), noise(number, 400)));
        (0..2_u64).for_each(|number| file(&tree.join("sub"), format!("middle-{number}"), noise(1000 + number, 90_000)));
        file(&tree.join("sub"), "large", noise(2000, 1_100_000));
        fixture.sapwood(&["init"]);
        fixture.publish("before");
        file(&tree.join("sub"), "middle-1", [noise(1001, 90_000), noise(1, 10)].concat());
        fixture.publish("after");
        fixture
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Returns the publication before the change, which has no delta.
    pub fn before(&self) -> PathBuf {
        self.join("before")
    }

    /// Returns the publication after the change.
    pub fn after(&self) -> PathBuf {
        self.join("after")
    }

    fn publish(&self, name: &str) {
        let (tree, after) = (self.join("tree"), self.after());
        self.sapwood(&["commit", "--ref", "main", tree.to_str().expect("UTF-8")]);
        self.sapwood(&["publish", &format!("file://{}", after.display()), "main"]);
        if name != "after" {
            let copied = Command::new("cp").arg("-a").args([&after, &self.join(name)]).status().expect("cp runs");
            assert!(copied.success());
        }
    }

    fn sapwood(&self, arguments: &[&str]) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sapwood"));
        command.arg("--repo").arg(&self.publisher).args(arguments);
        let output = command.output().expect("it can be started");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Makes an empty client.
    pub fn client(&self, name: &str) -> Client {
        Client::new(&self.join(&format!("client-{name}")))
    }

    /// Returns the publisher's repository.
    pub fn publisher(&self) -> Store {
        Store::open(&self.publisher).expect("a repository")
    }
}

/// A repository that pulls and reads lazily.
pub struct Client {
    pub store: Store,
    path: PathBuf,
}

pub fn name() -> RefName {
    "main".parse().expect("legal")
}

impl Client {
    /// Makes an empty client.
    pub fn new(path: &Path) -> Self {
        Self { store: Store::init(path, &Config::default()).expect("empty"), path: path.to_owned() }
    }

    /// Empties the client.
    pub fn again(self) -> Self {
        let path = self.path.clone();
        self.remove();
        Self::new(&path)
    }

    /// Removes the repository.
    pub fn remove(self) {
        fs::remove_dir_all(&self.path).expect("writable");
    }

    /// Copies another client.
    pub fn of(fixture: &Fixture, name: &str, other: &Path) -> Self {
        let path = fixture.join(&format!("client-{name}"));
        assert!(Command::new("cp").arg("-a").arg(other).arg(&path).status().expect("cp runs").success());
        Self { store: Store::open(&path).expect("a repository"), path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the remote with these URLs and a patience in seconds.
    pub fn remote(&self, urls: &[String], patience: u64) -> Remote {
        let transport = TransportOptions {
            mirrors: urls[1..].to_vec(),
            patience,
            connect_timeout: 5,
            stall_timeout: 5,
            ..TransportOptions::default()
        };
        let url = urls[0].clone();
        let config = RemoteConfig { url, insecure_unsigned: true, transport, ..RemoteConfig::default() };
        Remote::open(&self.store, "os".parse().expect("legal"), &config).expect("a URL")
    }

    pub fn pull(&self, urls: &[String], patience: u64) -> Result<RefReport, String> {
        let writer = self.store.writer(sapwood::disk::Wait::No).expect("no other writer");
        let remote = self.remote(urls, patience);
        let pulled = pull(&writer, &remote, &name(), &PullOptions::default(), &FetchProgress::default());
        pulled.map_err(|error| chain(&error))
    }

    /// Opens the newest commit lazily.
    pub fn open_lazily(&self, urls: &[String], patience: u64) -> Result<std::sync::Arc<LazyTree>, String> {
        let resolved = ResolvedCommit::from_remote(&self.store, &self.remote(urls, patience), &name())
            .map_err(|error| chain(&error))?;
        let patience = Patience::Within(Duration::from_secs(patience));
        resolved.open(&self.store, LazyOptions { patience, ..LazyOptions::default() }).map_err(|error| chain(&error))
    }

    /// Opens the newest commit lazily and reads all of it.
    pub fn read(&self, fixture: &Fixture, urls: &[String], patience: u64) -> Result<(), String> {
        let tree = self.open_lazily(urls, patience)?;
        read_all(&tree, &fixture.publisher(), Duration::from_secs(patience))
    }
}

/// Reads everything once and compares it with the objects in `origin`.
pub fn read_all(tree: &LazyTree, origin: &Store, patience: Duration) -> Result<(), String> {
    let objects = with_blocks(tree, patience, |image| image.object_uses().collect::<Result<Vec<_>, _>>())?;
    for found in objects {
        let object = ObjectRef { id: found.id, index: found.index, size: found.size };
        read_object(tree, &object, origin, patience)?;
    }
    Ok(())
}

/// Reads one object and compares it.
pub fn read_object(tree: &LazyTree, object: &ObjectRef, origin: &Store, patience: Duration) -> Result<(), String> {
    let mut offset = 0;
    while offset < object.size {
        let mut buffer = vec![0; 128 << 10];
        match tree.read_object(object, offset, &mut buffer) {
            Ok(length) => {
                let mut right = vec![0; length];
                assert_eq!(origin.read_at(object.id, offset, &mut right).expect("published"), length);
                assert!(buffer[..length] == right, "wrong bytes of {} at {offset}", object.id);
                offset += length as u64;
            }
            Err(ReadError::Absent(absent)) => fetch(tree, &absent, patience)?,
            Err(error) => return Err(chain(&error)),
        }
    }
    Ok(())
}

pub fn with_blocks<T>(
    tree: &LazyTree,
    patience: Duration,
    question: impl Fn(&Image) -> Result<T, ImageError>,
) -> Result<T, String> {
    loop {
        match question(tree.image()) {
            Err(ImageError::Absent { block }) => fetch(tree, &Absent::ImageBlock(block), patience)?,
            other => return other.map_err(|error| chain(&error)),
        }
    }
}

pub fn fetch(tree: &LazyTree, absent: &Absent, patience: Duration) -> Result<(), String> {
    tree.fetch(absent, Instant::now() + patience).map_err(|error| chain(&error))
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
