//! Pulling: what arrives is the tree that was committed, whatever happens on the way.
//!
//! The oracle compares the mounted commit with the directory it was made of, by the distribution's tools; `fsck` looks at
//! the rest. What a server may do wrong is done here by changing the published files, or by the link to it.
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
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

/// A publisher's repository, what it published, and a client.
struct Scene {
    sandbox: Sandbox,
    publisher: Repository,
    client: Repository,
}

impl Scene {
    fn new(name: &str) -> Self {
        let sandbox = Sandbox::new(name);
        let publisher = sandbox.repository("publisher");
        let client = sandbox.repository("client");
        let scene = Self { sandbox, publisher, client };
        scene.directory();
        scene.add_remote(&scene.client);
        scene
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
    fn of(scene: &Scene) -> Self {
        let mut command = scene.publisher.command(["serve", "--listen", "127.0.0.1:0"]);
        let mut child = command.arg(scene.directory()).stdout(Stdio::piped()).spawn().expect("it can be started");
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

/// Points the client's remote to a link, with little patience when that fails.
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
fn over_http_as_many_requests_and_bytes_pass_as_are_reported() {
    let scene = Scene::new("pull-http");
    let tree = scene.sandbox.join("tree");
    trees::nasty(&tree);
    trees::medium(&tree.join("medium"), 600);
    scene.publish(&tree);
    let server = Server::of(&scene);
    let link = Link::to(server.address, Shape { round_trip: Duration::from_millis(4), bits_per_second: 1_000_000_000 });
    go_through(&link, &scene.client);
    let plan = scene.pull_json(&["--dry-run"]);
    let before = link.passed();
    let done = scene.pull_json(&[]);
    let passed = link.passed();
    assert_eq!(number(&plan, "requests"), number(&done, "requests"));
    assert_eq!(number(&plan, "download_bytes"), number(&done, "download_bytes"));
    assert_eq!(passed.requests - before.requests, number(&done, "requests"));
    let (bytes, told) = (passed.received - before.received, number(&done, "download_bytes"));
    assert!(bytes >= told && bytes < told + 1000 * number(&done, "requests"), "{bytes} passed, {told} told");
    scene.assert_client_has("os:main", &tree);
}

#[test]
fn a_link_cut_at_each_tenth_is_said_and_what_came_before_is_kept() {
    let scene = Scene::new("pull-cut");
    let tree = scene.sandbox.join("tree");
    trees::medium(&tree, 600);
    scene.publish(&tree);
    let server = Server::of(&scene);
    let link = Link::to(server.address, Shape { round_trip: Duration::from_millis(1), bits_per_second: 1_000_000_000 });
    go_through(&link, &scene.client);
    let whole = number(&scene.pull_json(&["--dry-run"]), "download_bytes");
    for tenth in 0..10 {
        let client = scene.sandbox.repository(&format!("client-{tenth}"));
        go_through(&link, &client);
        link.cut_after(whole * tenth / 10 + 1);
        let said = client.run(["pull", "os:main"]).failure(1);
        assert!(said.contains("http://127.0.0.1"), "{said}");
        assert!(client.run(["refs"]).success().is_empty(), "a ref was named");
        client.assert_clean();
        link.mend();
        let rest = json(&client.run(["pull", "--json", "os:main"]).success());
        let (rest, came) = (number(&rest, "download_bytes"), whole * tenth / 10);
        // What was under way when the link was cut is lost: a large object and a frame for each request.
        assert!(rest <= whole + (10 << 20) - came, "{rest} of {whole} bytes came again after {came}");
        client.assert_clean();
    }
}

/// The first report of a list.
fn json(text: &str) -> serde_json::Value {
    let value: serde_json::Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"));
    value[0].clone()
}

fn number(value: &serde_json::Value, field: &str) -> u64 {
    value[field].as_u64().unwrap_or_else(|| panic!("no number {field} in {value}"))
}

#[test]
fn what_was_pulled_is_what_was_committed() {
    let scene = Scene::new("pull-fidelity");
    let tree = scene.sandbox.join("tree");
    trees::nasty(&tree);
    trees::medium(&tree.join("medium"), 300);
    let id = scene.publish(&tree);
    assert_eq!(scene.pull(&[]).success(), id);
    assert_eq!(
        scene.client.run(["show", "os:main"]).success().lines().next().map(|line| line.contains(&id)),
        Some(true)
    );
    scene.assert_client_has("os:main", &tree);
    scene.client.run(["ls", "os:main:/medium"]).success();
}

#[test]
fn only_what_is_missing_is_fetched_and_a_dry_run_tells_it_before() {
    let scene = Scene::new("pull-again");
    let tree = scene.sandbox.join("tree");
    trees::medium(&tree, 400);
    scene.publish(&tree);
    let plan = scene.pull_json(&["--dry-run"]);
    assert!(scene.client.run(["refs"]).success().is_empty(), "a dry run named something");
    let done = scene.pull_json(&[]);
    for field in ["requests", "download_bytes", "objects", "disk_bytes"] {
        assert_eq!(number(&plan, field), number(&done, field), "{field}: planned {plan}, done {done}");
    }
    assert_eq!(number(&done, "objects"), 400);
    assert!(number(&done, "requests") < 20, "{done}");

    let again = scene.pull_json(&[]);
    assert_eq!(number(&again, "objects"), 0);
    assert_eq!(number(&again, "requests"), 1, "the ref alone: {again}");

    fs::write(tree.join("00/new"), "one file more").expect("writable");
    scene.publish(&tree);
    let plan = scene.pull_json(&["--dry-run"]);
    let update = scene.pull_json(&[]);
    assert_eq!(number(&update, "objects"), 1);
    assert_eq!(number(&plan, "requests"), number(&update, "requests"));
    assert_eq!(number(&plan, "download_bytes"), number(&update, "download_bytes"));
    assert!(number(&update, "download_bytes") < number(&done, "download_bytes") / 20, "{update}");
    scene.assert_client_has("os:main", &tree);
}

#[test]
fn history_comes_as_far_as_wanted() {
    let scene = Scene::new("pull-depth");
    let tree = scene.sandbox.join("tree");
    trees::medium(&tree, 50);
    let mut ids = Vec::new();
    for number in 0..4 {
        fs::write(tree.join("00/changing"), format!("state {number}")).expect("writable");
        ids.push(scene.publish(&tree));
    }
    let log = |scene: &Scene| scene.client.run(["log", "--json", "os:main"]).success();
    scene.pull(&[]).success();
    assert!(log(&scene).contains(&ids[3]) && !log(&scene).contains(&format!("\"id\": \"{}\"", ids[2])));
    let plan = scene.pull_json(&["--depth", "2", "--dry-run"]);
    let done = scene.pull_json(&["--depth", "2"]);
    assert_eq!(number(&plan, "download_bytes"), number(&done, "download_bytes"));
    assert_eq!(scene.client.run(["cat", "os:main^^:/00/changing"]).success(), "state 1");
    scene.client.run(["cat", "os:main~3:/00/changing"]).any_failure();
    scene.pull(&["--depth", "100"]).success();
    assert_eq!(scene.client.run(["cat", "os:main~3:/00/changing"]).success(), "state 0");
    scene.client.assert_clean();
}

#[test]
fn a_part_is_pulled_and_completed_later() {
    let scene = Scene::new("pull-part");
    let tree = scene.sandbox.join("tree");
    trees::medium(&tree, 400);
    let id = scene.publish(&tree);
    let metadata = scene.pull_json(&["--metadata-only"]);
    assert_eq!(number(&metadata, "objects"), 0);
    let marker = scene.client.path().join("state/lazy").join(&id);
    assert!(marker.exists());
    assert_eq!(scene.client.run(["ls", "os:main:/00"]).success().lines().count(), 10);
    let fsck = json(&format!("[{}]", scene.client.run(["fsck", "--json"]).success()));
    assert_eq!((number(&fsck, "lazy_commits"), number(&fsck, "absent_objects")), (1, 400));

    let part = scene.pull_json(&["--path", "/01", "--path", "/02/file-2"]);
    assert_eq!(number(&part, "objects"), 11);
    assert!(marker.exists());
    let content = fs::read(tree.join("01/file-41")).expect("made");
    assert_eq!(scene.client.run(["cat", "os:main:/01/file-41"]).stdout, content);
    scene.client.run(["cat", "os:main:/03/file-3"]).any_failure();
    scene.pull(&["--path", "/nowhere"]).any_failure();
    // What was asked for is not garbage.
    scene.client.run(["gc"]).success();
    assert_eq!(scene.client.run(["cat", "os:main:/01/file-41"]).stdout, content);
    scene.client.assert_clean();

    let rest = scene.pull_json(&[]);
    assert_eq!(number(&rest, "objects"), 389);
    assert!(!marker.exists());
    scene.assert_client_has("os:main", &tree);

    // A commit that went takes its marker and its signatures with it.
    scene.pull(&["--metadata-only"]).success();
    assert!(!marker.exists(), "a whole commit does not become lazy");
    scene.client.run(["refs", "--delete", "remotes/os/main"]).success();
    scene.client.run(["gc"]).success();
    assert!(!scene.client.path().join("signatures").join(&id).exists());
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
fn damaged_files_are_refused_by_name_and_nothing_is_named() {
    let scene = Scene::new("pull-damage");
    let tree = scene.sandbox.join("tree");
    trees::medium(&tree, 300);
    scene.publish(&tree);
    let published = scene.directory();
    for (folder, word) in [("packs", "pack"), ("images", "image"), ("locators", "locator")] {
        let path = published.join(folder);
        let client = scene.sandbox.repository(&format!("client-{folder}"));
        scene.add_remote(&client);
        let damaged = damage(&path);
        let said = client.run(["pull", "os:main"]).failure(1);
        let name = damaged.file_stem().expect("named").to_string_lossy().into_owned();
        assert!(said.contains(word) && said.contains(&name) && said.contains("file://"), "{folder}: {said}");
        assert!(client.run(["refs"]).success().is_empty(), "a ref was named");
        assert_eq!(fs::read_dir(client.path().join("commits")).expect("there").count(), 0);
        client.assert_clean();
        let bytes = fs::read(&damaged).expect("readable");
        let mut mended = bytes.clone();
        let middle = bytes.len() / 2;
        mended[middle] ^= 0x10;
        fs::write(&damaged, mended).expect("writable");
        client.run(["pull", "os:main"]).success();
        client.assert_clean();
    }
}

#[test]
fn what_was_killed_goes_on_where_it_was() {
    let scene = Scene::new("pull-kill");
    let tree = scene.sandbox.join("tree");
    trees::medium(&tree, 3000);
    scene.publish(&tree);
    let whole = number(&scene.pull_json(&["--dry-run"]), "download_bytes");
    let mut delay = Duration::from_millis(5);
    let mut kills = 0;
    let mut left = vec![whole];
    loop {
        let mut command = scene.client.command(["pull", "--settle", "2000000", "os:main"].map(OsString::from));
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
        scene.client.assert_clean();
        left.push(number(&scene.pull_json(&["--dry-run"]), "download_bytes"));
        delay += Duration::from_millis(40);
    }
    assert!(kills > 2, "killed only {kills} times: the pull is too quick for this test");
    // Until the image is here, a pull has its bytes before it; after that each keeps what the one before had.
    assert!(left.is_sorted_by(|before, after| before >= after), "a pull lost what another had: {left:?}");
    let first = left[1..].iter().find(|left| **left < whole).copied().unwrap_or(whole);
    assert!(first < whole, "no killed pull left anything: {left:?}");
    assert_eq!(number(&scene.pull_json(&[]), "objects"), 0);
    scene.assert_client_has("os:main", &tree);
}

#[test]
fn a_full_disk_is_said_before_and_during_and_loses_nothing() {
    let scene = Scene::new("pull-full");
    let tree = scene.sandbox.join("tree");
    trees::medium(&tree, 600);
    scene.publish(&tree);
    let small = Repository::init(scene.sandbox.tmpfs("small", 8 << 20).join("repository"));
    scene.add_remote(&small);
    let said = small.run(["pull", "os:main"]).failure(1);
    assert!(said.contains("free"), "{said}");
    small.assert_clean();

    // Enough bytes by the count, and not enough files.
    let few = scene.sandbox.directory("few");
    nix::mount::mount(Some("tmpfs"), &few, Some("tmpfs"), nix::mount::MsFlags::empty(), Some("size=64M,nr_inodes=26"))
        .expect("tmpfs mounts");
    let few = Repository::init(few.join("repository"));
    scene.add_remote(&few);
    let said = few.run(["pull", "os:main"]).failure(1);
    assert!(said.contains("No space left"), "{said}");
    few.assert_clean();
    assert!(few.run(["refs"]).success().is_empty());
}

#[test]
fn two_at_once_do_not_disturb_each_other() {
    let scene = Scene::new("pull-two");
    let tree = scene.sandbox.join("tree");
    trees::medium(&tree, 1500);
    scene.publish(&tree);
    let children: Vec<_> = (0..2)
        .map(|_| {
            let mut command = scene.client.command(["pull", "os:main"]);
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().expect("started")
        })
        .collect();
    for mut child in children {
        assert!(child.wait().expect("a child").success());
    }
    scene.assert_client_has("os:main", &tree);
}

/// The file of the delta that leads to what the ref names.
fn delta_file(scene: &Scene) -> PathBuf {
    let published = fs::read(scene.directory().join("refs/main")).expect("published");
    let (_, placement) = Envelope::parse(&published).expect("a ref");
    let placement = Placement::parse(placement).expect("a placement");
    scene.directory().join(layout::delta(placement.deltas.first().expect("published with a delta").id))
}

#[test]
fn an_update_comes_as_a_delta_and_a_bad_delta_costs_only_bytes() {
    let scene = Scene::new("pull-delta");
    let tree = scene.sandbox.join("tree");
    trees::medium(&tree, 500);
    let mut large = trees::noise(7, 9 << 20);
    fs::write(tree.join("large"), &large).expect("writable");
    scene.publish(&tree);
    let clients: Vec<Repository> = (0..5).map(|number| scene.sandbox.repository(&format!("client-{number}"))).collect();
    for client in &clients {
        scene.add_remote(client);
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
    scene.publish(&tree);
    let delta = delta_file(&scene);
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

    // Damaged in its head, damaged in its patches, gone: the same tree, with a word.
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
        let mounted = client.mount("os:main", &scene.sandbox.join("mounted"), &["suid", "dev"]);
        assert_same_tree(&tree, mounted.path());
        mounted.unmount();
    }
}
