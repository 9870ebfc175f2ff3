//! Pulling: the result is the committed tree, whatever happens to the server or the link.
//!
//! The distribution's tools compare the mounted commit with the directory that was committed; `fsck` checks the rest. Faults of
//! servers are made by changing the published files, or by the link.
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::common::facts::assert_same_tree;
use crate::common::link::{Link, Shape};
use crate::common::sandbox::{Repository, Run, Sandbox};
use crate::common::trees;
use sapwood::remote::format::Placement;
use sapwood::remote::layout;
use sapwood::trust::Envelope;

/// A publisher's repository, its published directory, and a client.
struct Fixture {
    sandbox: Sandbox,
    publisher: Repository,
    client: Repository,
}

impl Fixture {
    fn new(name: &str) -> Self {
        let sandbox = Sandbox::new(name);
        let publisher = sandbox.repository("publisher");
        let client = sandbox.repository("client");
        let fixture = Self { sandbox, publisher, client };
        fixture.directory();
        fixture.add_remote(&fixture.client);
        fixture
    }

    fn directory(&self) -> PathBuf {
        self.sandbox.directory("published")
    }

    fn add_remote(&self, client: &Repository) {
        let url = format!("file://{}", self.directory().display());
        client.run(["remote", "add", "--replace", "os", &url, "--insecure-unsigned"]).success();
    }

    /// Commits a tree and publishes it.
    fn publish(&self, tree: &Path) -> String {
        let id = self.publisher.commit("main", tree);
        let url = format!("file://{}", self.directory().display());
        self.publisher.run(["publish", &url, "main"]).success();
        id
    }

    fn pull(&self, arguments: &[&str]) -> Run {
        self.client.run(["pull"].iter().chain(arguments).copied().chain(["os:main"]))
    }

    fn pull_json(&self, arguments: &[&str]) -> serde_json::Value {
        let arguments: Vec<&str> = ["--json"].iter().chain(arguments).copied().collect();
        json(&self.pull(&arguments).success())
    }

    #[track_caller]
    fn assert_client_has(&self, source: &str, tree: &Path) {
        self.client.assert_clean();
        let mounted = self.client.mount(source, &self.sandbox.join("mounted"), &["suid", "dev"]);
        assert_same_tree(tree, mounted.path());
        mounted.unmount();
    }
}

/// `sapwood serve` on a port of its own, ended when dropped.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn of(fixture: &Fixture) -> Self {
        let mut command = fixture.publisher.command(["serve", "--listen", "127.0.0.1:0"]);
        let mut child = command.arg(fixture.directory()).stdout(Stdio::piped()).spawn().expect("it can be started");
        let mut url = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut url).expect("it says where it is");
        let address = url.trim().trim_start_matches("http://").trim_end_matches('/').parse();
        Self { child, address: address.unwrap_or_else(|error| panic!("{error}: {url}")) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Points the client's remote to a link, with a short patience.
fn go_through(link: &Link, client: &Repository) {
    let url = format!("http://{}/", link.address());
    client.run(["remote", "add", "--replace", "os", &url, "--insecure-unsigned"]).success();
    let file = client.path().join("remotes/os.toml");
    let text = fs::read_to_string(&file).expect("just written");
    let impatient = text.replace("patience = 120", "patience = 1").replace("stall-timeout = 20", "stall-timeout = 2");
    assert_ne!(text, impatient, "{text}");
    fs::write(&file, impatient).expect("writable");
}

#[test]
fn reported_requests_and_bytes_equal_those_on_the_link() {
    let fixture = Fixture::new("pull-http");
    let tree = fixture.sandbox.join("tree");
    trees::nasty(&tree);
    trees::medium(&tree.join("medium"), 600);
    fixture.publish(&tree);
    let server = Server::of(&fixture);
    let link = Link::to(server.address, Shape { round_trip: Duration::from_millis(4), bits_per_second: 1_000_000_000 });
    go_through(&link, &fixture.client);
    let plan = fixture.pull_json(&["--dry-run"]);
    let before = link.traffic();
    let done = fixture.pull_json(&[]);
    let passed = link.traffic();
    assert_eq!(number(&plan, "requests"), number(&done, "requests"));
    assert_eq!(number(&plan, "download_bytes"), number(&done, "download_bytes"));
    assert_eq!(passed.requests - before.requests, number(&done, "requests"));
    let (bytes, told) = (passed.received - before.received, number(&done, "download_bytes"));
    assert!(bytes >= told && bytes < told + 1000 * number(&done, "requests"), "{bytes} passed, {told} told");
    fixture.assert_client_has("os:main", &tree);
}

/// Returns the status of the answer to a request.
fn status_of(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("it takes a request");
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).expect("it answers");
    answer.split(' ').nth(1).expect("a status").to_owned()
}

#[test]
fn server_hands_out_only_what_was_published() {
    let fixture = Fixture::new("serve-secrets");
    fixture.publish(&fixture.sandbox.directory("tree"));
    let published = fixture.directory();
    fs::create_dir_all(published.join("keys")).expect("writable");
    fs::write(published.join("keys/release.key"), "a secret").expect("writable");
    fs::write(published.join(".secret"), "a secret").expect("writable");
    let (outside, inside) = ("0".repeat(64), "1".repeat(64));
    std::os::unix::fs::symlink("/etc/hostname", published.join("images").join(&outside)).expect("writable");
    std::os::unix::fs::symlink("../refs/main", published.join("images").join(&inside)).expect("writable");
    let server = Server::of(&fixture);
    for (path, status) in [
        ("refs/main", "200"),
        (&format!("images/{inside}"), "200"),
        (&format!("images/{outside}"), "404"),
        ("keys/release.key", "404"),
        ("keys/%72elease.key", "404"),
        (".secret", "404"),
        ("refs/..%2f.secret", "404"),
        ("refs", "404"),
        ("", "404"),
    ] {
        assert_eq!(status_of(server.address, path), status, "{path}");
    }
}

#[test]
fn cut_link_is_reported_and_received_objects_are_kept() {
    let fixture = Fixture::new("pull-cut");
    let tree = fixture.sandbox.join("tree");
    trees::medium(&tree, 600);
    fixture.publish(&tree);
    let server = Server::of(&fixture);
    let link = Link::to(server.address, Shape { round_trip: Duration::from_millis(1), bits_per_second: 1_000_000_000 });
    go_through(&link, &fixture.client);
    let whole = number(&fixture.pull_json(&["--dry-run"]), "download_bytes");
    for tenth in 0..10 {
        let client = fixture.sandbox.repository(&format!("client-{tenth}"));
        go_through(&link, &client);
        link.cut_after(whole * tenth / 10 + 1);
        let said = client.run(["pull", "os:main"]).failure(1);
        assert!(said.contains("http://127.0.0.1"), "{said}");
        assert!(client.run(["refs"]).success().is_empty(), "a ref was named");
        client.assert_clean();
        link.restore();
        let rest = json(&client.run(["pull", "--json", "os:main"]).success());
        let (rest, came) = (number(&rest, "download_bytes"), whole * tenth / 10);
        // Requests under way when the link was cut are lost: a large object and a frame for each request.
        assert!(rest <= whole + (10 << 20) - came, "{rest} of {whole} bytes came again after {came}");
        client.assert_clean();
    }
}

/// Returns the first report of a list.
fn json(text: &str) -> serde_json::Value {
    let value: serde_json::Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"));
    value[0].clone()
}

fn number(value: &serde_json::Value, field: &str) -> u64 {
    value[field].as_u64().unwrap_or_else(|| panic!("no number {field} in {value}"))
}

#[test]
fn pulled_tree_equals_the_committed_tree() {
    let fixture = Fixture::new("pull-fidelity");
    let tree = fixture.sandbox.join("tree");
    trees::nasty(&tree);
    trees::medium(&tree.join("medium"), 300);
    let id = fixture.publish(&tree);
    assert_eq!(fixture.pull(&[]).success(), id);
    assert_eq!(
        fixture.client.run(["show", "os:main"]).success().lines().next().map(|line| line.contains(&id)),
        Some(true)
    );
    fixture.assert_client_has("os:main", &tree);
    fixture.client.run(["ls", "os:main:/medium"]).success();
}

#[test]
fn only_missing_objects_are_fetched_as_the_dry_run_says() {
    let fixture = Fixture::new("pull-again");
    let tree = fixture.sandbox.join("tree");
    trees::medium(&tree, 400);
    fixture.publish(&tree);
    let plan = fixture.pull_json(&["--dry-run"]);
    assert!(fixture.client.run(["refs"]).success().is_empty(), "a dry run named something");
    let done = fixture.pull_json(&[]);
    for field in ["requests", "download_bytes", "objects", "disk_bytes"] {
        assert_eq!(number(&plan, field), number(&done, field), "{field}: planned {plan}, done {done}");
    }
    assert_eq!(number(&done, "objects"), 400);
    assert!(number(&done, "requests") < 20, "{done}");

    let again = fixture.pull_json(&[]);
    assert_eq!(number(&again, "objects"), 0);
    assert_eq!(number(&again, "requests"), 1, "the ref alone: {again}");

    fs::write(tree.join("00/new"), "one file more").expect("writable");
    fixture.publish(&tree);
    let plan = fixture.pull_json(&["--dry-run"]);
    let update = fixture.pull_json(&[]);
    assert_eq!(number(&update, "objects"), 1);
    assert_eq!(number(&plan, "requests"), number(&update, "requests"));
    assert_eq!(number(&plan, "download_bytes"), number(&update, "download_bytes"));
    assert!(number(&update, "download_bytes") < number(&done, "download_bytes") / 20, "{update}");
    fixture.assert_client_has("os:main", &tree);
}

#[test]
fn pull_fetches_history_to_the_given_depth() {
    let fixture = Fixture::new("pull-depth");
    let tree = fixture.sandbox.join("tree");
    trees::medium(&tree, 50);
    let mut ids = Vec::new();
    for number in 0..4 {
        fs::write(tree.join("00/changing"), format!("state {number}")).expect("writable");
        ids.push(fixture.publish(&tree));
    }
    let log = |fixture: &Fixture| fixture.client.run(["log", "--json", "os:main"]).success();
    fixture.pull(&[]).success();
    assert!(log(&fixture).contains(&ids[3]) && !log(&fixture).contains(&format!("\"id\": \"{}\"", ids[2])));
    let plan = fixture.pull_json(&["--depth", "2", "--dry-run"]);
    let done = fixture.pull_json(&["--depth", "2"]);
    assert_eq!(number(&plan, "download_bytes"), number(&done, "download_bytes"));
    assert_eq!(fixture.client.run(["cat", "os:main^^:/00/changing"]).success(), "state 1");
    fixture.client.run(["cat", "os:main~3:/00/changing"]).any_failure();
    fixture.pull(&["--depth", "100"]).success();
    assert_eq!(fixture.client.run(["cat", "os:main~3:/00/changing"]).success(), "state 0");
    fixture.client.assert_clean();
}

#[test]
fn partial_pull_is_completed_by_a_later_one() {
    let fixture = Fixture::new("pull-part");
    let tree = fixture.sandbox.join("tree");
    trees::medium(&tree, 400);
    let id = fixture.publish(&tree);
    let metadata = fixture.pull_json(&["--metadata-only"]);
    assert_eq!(number(&metadata, "objects"), 0);
    let marker = fixture.client.path().join("state/lazy").join(&id);
    assert!(marker.exists());
    assert_eq!(fixture.client.run(["ls", "os:main:/00"]).success().lines().count(), 10);
    let fsck = json(&format!("[{}]", fixture.client.run(["fsck", "--json"]).success()));
    assert_eq!((number(&fsck, "lazy_commits"), number(&fsck, "absent_objects")), (1, 400));

    let part = fixture.pull_json(&["--path", "/01", "--path", "/02/file-2"]);
    assert_eq!(number(&part, "objects"), 11);
    assert!(marker.exists());
    let content = fs::read(tree.join("01/file-41")).expect("made");
    assert_eq!(fixture.client.run(["cat", "os:main:/01/file-41"]).stdout, content);
    fixture.client.run(["cat", "os:main:/03/file-3"]).any_failure();
    fixture.pull(&["--path", "/nowhere"]).any_failure();
    // Contents that were pulled by path are not garbage.
    fixture.client.run(["gc"]).success();
    assert_eq!(fixture.client.run(["cat", "os:main:/01/file-41"]).stdout, content);
    fixture.client.assert_clean();

    let rest = fixture.pull_json(&[]);
    assert_eq!(number(&rest, "objects"), 389);
    assert!(!marker.exists());
    fixture.assert_client_has("os:main", &tree);

    // gc removes the marker and the signatures of a removed commit.
    fixture.pull(&["--metadata-only"]).success();
    assert!(!marker.exists(), "a whole commit does not become lazy");
    fixture.client.run(["refs", "--delete", "remotes/os/main"]).success();
    fixture.client.run(["gc"]).success();
    assert!(!fixture.client.path().join("signatures").join(&id).exists());
}

/// Flips a byte in the middle of the largest file below a published directory.
fn damage(directory: &Path) -> PathBuf {
    let files = fs::read_dir(directory).expect("published").map(|entry| entry.expect("listed").path());
    let path = files.max_by_key(|path| fs::metadata(path).map_or(0, |data| data.len())).expect("not empty");
    let mut bytes = fs::read(&path).expect("readable");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(&path, bytes).expect("writable");
    path
}

#[test]
fn damaged_published_file_is_named_and_no_ref_is_set() {
    let fixture = Fixture::new("pull-damage");
    let tree = fixture.sandbox.join("tree");
    trees::medium(&tree, 300);
    fixture.publish(&tree);
    let published = fixture.directory();
    for (folder, word) in [("packs", "pack"), ("images", "image"), ("locators", "locator")] {
        let path = published.join(folder);
        let client = fixture.sandbox.repository(&format!("client-{folder}"));
        fixture.add_remote(&client);
        let damaged = damage(&path);
        let said = client.run(["pull", "os:main"]).failure(1);
        let name = damaged.file_stem().expect("named").to_string_lossy().into_owned();
        assert!(said.contains(word) && said.contains(&name) && said.contains("file://"), "{folder}: {said}");
        assert!(client.run(["refs"]).success().is_empty(), "a ref was named");
        assert_eq!(fs::read_dir(client.path().join("commits")).expect("it exists").count(), 0);
        client.assert_clean();
        let bytes = fs::read(&damaged).expect("readable");
        let mut sound = bytes.clone();
        let middle = bytes.len() / 2;
        sound[middle] ^= 0x10;
        fs::write(&damaged, sound).expect("writable");
        client.run(["pull", "os:main"]).success();
        client.assert_clean();
    }
}

#[test]
fn killed_pull_resumes_where_it_stopped() {
    let fixture = Fixture::new("pull-kill");
    let tree = fixture.sandbox.join("tree");
    trees::medium(&tree, 3000);
    fixture.publish(&tree);
    let whole = number(&fixture.pull_json(&["--dry-run"]), "download_bytes");
    let mut delay = Duration::from_millis(5);
    let mut kills = 0;
    let mut left = vec![whole];
    loop {
        let mut command = fixture.client.command(["pull", "--settle", "2000000", "os:main"].map(OsString::from));
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut child = command.spawn().expect("it can be started");
        std::thread::sleep(delay);
        let ended = child.try_wait().expect("a child");
        if let Some(status) = ended {
            assert!(status.success());
            break;
        }
        child.kill().expect("it runs");
        child.wait().expect("a child");
        kills += 1;
        fixture.client.assert_clean();
        left.push(number(&fixture.pull_json(&["--dry-run"]), "download_bytes"));
        delay += Duration::from_millis(40);
    }
    assert!(kills > 2, "killed only {kills} times: the pull is too quick for this test");
    // Until the image is complete, a pull fetches it from the start; after that each pull keeps what the previous one had.
    assert!(left.is_sorted_by(|before, after| before >= after), "a pull lost what another had: {left:?}");
    let first = left[1..].iter().find(|left| **left < whole).copied().unwrap_or(whole);
    assert!(first < whole, "no killed pull left anything: {left:?}");
    assert_eq!(number(&fixture.pull_json(&[]), "objects"), 0);
    fixture.assert_client_has("os:main", &tree);
}

#[test]
fn full_disk_is_reported_before_and_during_a_pull() {
    let fixture = Fixture::new("pull-full");
    let tree = fixture.sandbox.join("tree");
    trees::medium(&tree, 600);
    fixture.publish(&tree);
    let small = Repository::init(fixture.sandbox.tmpfs("small", 8 << 20).join("repository"));
    fixture.add_remote(&small);
    let said = small.run(["pull", "os:main"]).failure(1);
    assert!(said.contains("free"), "{said}");
    small.assert_clean();

    // Enough free bytes, but not enough free inodes.
    let few = fixture.sandbox.directory("few");
    nix::mount::mount(Some("tmpfs"), &few, Some("tmpfs"), nix::mount::MsFlags::empty(), Some("size=64M,nr_inodes=26"))
        .expect("tmpfs mounts");
    let few = Repository::init(few.join("repository"));
    fixture.add_remote(&few);
    let said = few.run(["pull", "os:main"]).failure(1);
    assert!(said.contains("No space left"), "{said}");
    few.assert_clean();
    assert!(few.run(["refs"]).success().is_empty());
}

#[test]
fn concurrent_pulls_do_not_disturb_each_other() {
    let fixture = Fixture::new("pull-two");
    let tree = fixture.sandbox.join("tree");
    trees::medium(&tree, 1500);
    fixture.publish(&tree);
    let children: Vec<_> = (0..2)
        .map(|_| {
            let mut command = fixture.client.command(["pull", "os:main"]);
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().expect("started")
        })
        .collect();
    for mut child in children {
        assert!(child.wait().expect("a child").success());
    }
    fixture.assert_client_has("os:main", &tree);
}

/// Returns the file of the delta to the commit that the ref names.
fn delta_file(fixture: &Fixture) -> PathBuf {
    let published = fs::read(fixture.directory().join("refs/main")).expect("published");
    let (_, placement) = Envelope::parse(&published).expect("a ref");
    let placement = Placement::parse(placement).expect("a placement");
    fixture.directory().join(layout::delta(placement.deltas.first().expect("published with a delta").id))
}

#[test]
fn pull_uses_a_delta_and_a_bad_delta_costs_only_bytes() {
    let fixture = Fixture::new("pull-delta");
    let tree = fixture.sandbox.join("tree");
    trees::medium(&tree, 500);
    let mut large = trees::noise(7, 9 << 20);
    fs::write(tree.join("large"), &large).expect("writable");
    fixture.publish(&tree);
    let clients: Vec<Repository> =
        (0..5).map(|number| fixture.sandbox.repository(&format!("client-{number}"))).collect();
    for client in &clients {
        fixture.add_remote(client);
        client.run(["pull", "os:main"]).success();
    }
    // Some contents change a little, one is new, one large one changes in places.
    large[5 << 20] ^= 1;
    large.truncate((8 << 20) + 1234);
    fs::write(tree.join("large"), &large).expect("writable");
    for number in [1, 100, 200, 342] {
        let path = tree.join(format!("{:02}/file-{number}", number % 40));
        let mut content = fs::read(&path).expect("made");
        let middle = content.len() / 2;
        content[middle] ^= 1;
        fs::write(&path, content).expect("writable");
    }
    fs::write(tree.join("new"), trees::noise(99, 100_000)).expect("writable");
    fixture.publish(&tree);
    let delta = delta_file(&fixture);
    let pull = |client: &Repository, arguments: &[&str]| {
        json(&client.run(["pull", "--json", "os:main"].iter().chain(arguments)).success())
    };
    let plan = pull(&clients[0], &["--dry-run"]);
    let done = pull(&clients[0], &[]);
    for field in ["requests", "download_bytes", "objects", "disk_bytes"] {
        assert_eq!(number(&plan, field), number(&done, field), "{field}: planned {plan}, done {done}");
    }
    let commit = &done["commits"][0];
    assert_eq!(commit["image"], "delta", "{done}");
    assert_eq!((number(commit, "objects"), number(commit, "delta_objects")), (6, 5));
    let whole = pull(&clients[1], &["--no-delta"]);
    assert!(number(&done, "download_bytes") * 20 < number(&whole, "download_bytes"), "{done} {whole}");

    // Deltas that are damaged in the head, damaged in the patches, or missing: the result is the same tree, and a note.
    let sound = fs::read(&delta).expect("written");
    let mut damaged = sound.clone();
    damaged[30] ^= 1;
    let mut cases: Vec<Option<Vec<u8>>> = vec![Some(damaged), None];
    let mut damaged = sound.clone();
    let last = damaged.len() - 100;
    damaged[last] ^= 1;
    cases.push(Some(damaged));
    for (client, content) in clients[2..].iter().zip(cases) {
        match &content {
            Some(content) => fs::write(&delta, content).expect("writable"),
            None => fs::remove_file(&delta).expect("it is there"),
        }
        let run = client.run(["pull", "os:main"]);
        assert!(run.stderr.contains("delta"), "no word about it: {}", run.stderr);
        run.success();
    }
    for client in &clients {
        client.assert_clean();
        let mounted = client.mount("os:main", &fixture.sandbox.join("mounted"), &["suid", "dev"]);
        assert_same_tree(&tree, mounted.path());
        mounted.unmount();
    }
}
