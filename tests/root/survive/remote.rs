//! A client of a web server with a tree that was not read yet, at the other end of a link.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::load::md5sums;
use super::mount::Subject;
use crate::common::link::{Link, Shape};
use crate::common::published::Published;
use crate::common::sandbox::{Repository, Sandbox};
use crate::common::trees;
use crate::common::web::Web;

/// A link to a server in the same network.
pub const NEAR: Shape = Shape { round_trip: Duration::from_millis(1), bits_per_second: 1_000_000_000 };

pub struct Remote {
    pub sandbox: Sandbox,
    pub tree: PathBuf,
    pub client: Repository,
    pub link: Link,
    _web: Web,
}

impl Remote {
    /// Publishes a tree with this number of files.
    pub fn new(name: &str, files: usize, shape: Shape) -> Self {
        Self::on(name, files, shape, |sandbox| sandbox.path().to_owned())
    }

    /// Publishes a tree; the client's repository is on a disk that `make` makes.
    pub fn on(name: &str, files: usize, shape: Shape, make: impl FnOnce(&Sandbox) -> PathBuf) -> Self {
        let sandbox = Sandbox::new(name);
        let disk = make(&sandbox);
        let tree = sandbox.join("tree");
        trees::medium(&tree, files);
        let publisher = sandbox.repository("publisher");
        publisher.commit("main", &tree);
        let published = sandbox.join("published");
        Published::default().add(publisher.path(), "main", &published);
        let web = Web::serve(&published);
        let link = Link::to(web.address(), shape);
        let client = Repository::init(disk.join("client"));
        let remote = Self { sandbox, tree, client, link, _web: web };
        remote.add(&[]);
        remote
    }

    /// Adds the remote to the client, with these options.
    pub fn add(&self, options: &[&str]) {
        let url = format!("http://{}", self.link.address());
        let words = ["remote", "add", "--replace", "os", &url, "--insecure-unsigned"];
        self.client.run(words.iter().copied().chain(options.iter().copied())).success();
    }

    pub fn mount(&self, options: &[&str]) -> Subject {
        Subject::new(&self.client, "os:main", &self.sandbox.join("m"), options)
    }

    #[track_caller]
    pub fn assert_all_right(&self, subject: &Subject) {
        let mut pass = md5sums(&self.tree, subject.mounted.path(), &self.sandbox.directory("scratch"));
        assert_eq!(pass(&AtomicBool::new(false)), Ok(()));
        assert_eq!(subject.status()["figures"]["errors"], 0, "{}", subject.status());
    }
}
