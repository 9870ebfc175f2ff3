//! Hostile servers under a lazy mount: a reader gets the right bytes or an error, and the mount recovers when the server does.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use sapwood::model::ImageId;
use sapwood::remote::layout;
use sapwood::store::Store;

use super::fixture::{Client, Fixture};
use super::forge::{Forge, bomb};
use super::server::{Fault, Server};
use crate::common::sandbox::peak_memory;
use crate::common::trees;

/// Most memory that the daemon may use, whatever it is sent.
const MEMORY_MAX: u64 = 128 << 20;

/// A mount with a short patience, and its daemon.
struct Mount<'a> {
    tree: &'a Path,
    at: PathBuf,
    client: Client,
    pid: u32,
}

impl<'a> Mount<'a> {
    fn new(fixture: &'a Fixture, name: &str, server: &Server) -> Self {
        let client = fixture.client(name, server);
        let at = fixture.sandbox.directory(&format!("client-mounted-{name}"));
        let arguments = ["mount", "-o", "suid,dev,fetch-timeout=1", "os:main", at.to_str().expect("UTF-8")];
        client.repository.run(arguments).success();
        let listed = client.repository.run(["mounts", "--json"]).success();
        let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
        let mut mounts = listed.as_array().expect("a list").iter();
        let own = mounts.rfind(|mount| mount["mountpoint"] == *at.to_str().expect("UTF-8")).expect("listed");
        let pid = own["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a process");
        Self { tree: &fixture.tree, at, client, pid }
    }

    /// Reads the files of some directories; each read must be right or fail. Returns how many failed.
    #[track_caller]
    fn read(&self, directories: impl IntoIterator<Item = usize>) -> usize {
        let mut refused = 0;
        for directory in directories.into_iter().map(|number| format!("{:02}", number % 40)) {
            let listed = fs::read_dir(self.tree.join(&directory)).expect("made");
            for name in listed.map(|entry| entry.expect("listed").file_name()) {
                match fs::read(self.at.join(&directory).join(&name)) {
                    Ok(bytes) => {
                        let made = fs::read(self.tree.join(&directory).join(&name)).expect("made");
                        assert!(bytes == made, "{directory}/{} has wrong bytes", name.display());
                    }
                    Err(error) => {
                        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{directory}/{}", name.display());
                        refused += 1;
                    }
                }
            }
        }
        refused
    }

    #[track_caller]
    fn assert_process_is_sound(&self) {
        let memory = peak_memory(self.pid).expect("the daemon lives");
        assert!(memory < MEMORY_MAX, "the daemon held {memory} bytes");
    }

    /// Checks that all files can be read from a correct server without another mount.
    #[track_caller]
    fn assert_recovers(&self) {
        let begin = Instant::now();
        while self.read(0..40) > 0 {
            assert!(begin.elapsed() < Duration::from_secs(60), "still errors");
            thread::sleep(Duration::from_millis(100));
        }
    }

    #[track_caller]
    fn end(self) {
        self.assert_process_is_sound();
        self.client.repository.umount(&self.at);
        self.client.repository.assert_clean();
    }
}

/// Returns faults that prevent every read.
fn faults() -> Vec<Fault> {
    vec![
        Fault::Status(404, "", String::new()),
        Fault::Status(403, "", String::new()),
        Fault::Status(500, "", String::new()),
        Fault::Status(429, "Retry-After: 100000\r\n", String::new()),
        Fault::Status(416, "", String::new()),
        Fault::Raw(b"garbage\r\n\r\n".to_vec()),
        Fault::Raw(Vec::new()),
        Fault::Never,
        Fault::Drip,
        Fault::EndlessHead,
        Fault::EndlessBody("Transfer-Encoding: chunked\r\n"),
        Fault::EndlessBody(""),
        Fault::ShortBody,
        Fault::Range("bytes 0-0/1"),
        Fault::Range("bytes 16-18446744073709551615/18446744073709551615"),
        Fault::Header("Content-Encoding: gzip\r\n"),
        Fault::Redirect("/packs".to_owned()),
        Fault::Content(Arc::new(vec![7; 4 << 20])),
        Fault::Content(Arc::new(Vec::new())),
    ]
}

#[test]
fn lazy_readers_get_right_bytes_or_an_error_and_recover() {
    let fixture = Fixture::with("hostile-lazy", |tree| {
        trees::medium(tree, 60);
        // Enough files that most digests are not fetched with the names.
        let small = tree.join("00-small");
        fs::create_dir(&small).expect("writable");
        (0..2500).for_each(|number| fs::write(small.join(number.to_string()), number.to_string()).expect("writable"));
    });
    let before = fixture.outside();
    thread::scope(|scope| {
        for (number, fault) in faults().into_iter().enumerate() {
            // Contents, their positions, and the digests to verify them by.
            let places: &[&str] = if number % 3 == 0 { &["packs/", "locators/", "images/"] } else { &["packs/"] };
            for place in places {
                let (fixture, fault) = (&fixture, fault.clone());
                scope.spawn(move || {
                    let server = Server::of(&fixture.published);
                    // The head of the image is needed to mount at all.
                    server.set_after(place, fault.clone(), u32::from(*place == "images/"));
                    let mount = Mount::new(fixture, &format!("{number}-{}", &place[..2]), &server);
                    assert!(mount.read([number + 1]) > 0, "{fault:?} at {place} did nothing");
                    mount.read(0..40);
                    mount.assert_process_is_sound();
                    assert_eq!(fs::read_dir(&mount.at).expect("listable").count(), 41, "names are here");
                    server.restore();
                    mount.assert_recovers();
                    mount.end();
                });
            }
        }
    });
    assert_eq!(fixture.outside(), before, "something was written outside of the clients' repositories");
}

#[test]
fn lazy_reads_survive_damaged_frames_and_missing_ranges() {
    let fixture = Fixture::new("hostile-flipped");
    let server = Server::of(&fixture.published);
    let mount = Mount::new(&fixture, "flipped", &server);
    server.set_times("packs/", Fault::Flipped, 3);
    mount.read(0..40);
    mount.assert_recovers();
    mount.end();
    server.restore();
    server.set("", Fault::Whole);
    let mount = Mount::new(&fixture, "whole", &server);
    assert_eq!(mount.read(0..40), 0);
    mount.end();
}

#[test]
fn malformed_locators_and_placements_are_refused_within_bounds() {
    let fixture = Fixture::new("hostile-lies");
    let forge = Forge::of(&fixture);
    let sound = forge.locator();
    let locator = |bytes: Vec<u8>| forge.with_locator(bytes);
    let mut greedy = sound.clone();
    greedy[16..20].fill(0xff);
    // They are mounted all the same, since names do not need the locator. Every read fails, unless only the ref is wrong: then
    // the commit's own placement is fetched.
    let lies = [
        ("bomb", locator([&sound[..24], &bomb()].concat()), 60),
        ("greedy", locator(greedy), 60),
        ("long", vec![("refs/main".to_owned(), forge.reference(|it| it.locator.length = u64::MAX))], 0),
    ];
    for (name, files, refused) in lies {
        let server = Server::of(&fixture.published);
        for (path, bytes) in files {
            server.set(&path, Fault::Content(Arc::new(bytes)));
        }
        let mount = Mount::new(&fixture, name, &server);
        assert_eq!(mount.read(0..40), refused, "{name}");
        mount.end();
    }

    // Records without which a mount fails.
    let image = layout::image(image_of(&fixture));
    let server = Server::of(&fixture.published);
    let client = fixture.client("prefix", &server);
    let at = fixture.sandbox.directory("client-mounted-prefix");
    let try_to_mount = |path: &str, fault: Fault, word: &str| {
        server.set(path, fault);
        let run = client.repository.run(["mount", "os:main", at.to_str().expect("UTF-8")]);
        assert!(run.memory < MEMORY_MAX, "{} bytes", run.memory);
        assert!(!run.status.success(), "mounted instead of '{word}'");
        let said = run.any_failure();
        assert!(said.contains(word), "'{word}' is not in '{said}'");
        server.restore();
    };
    try_to_mount("commits/", Fault::Content(Arc::new(vec![0; 100])), "not a signed record");
    let reference = forge.reference(|it| it.image.prefix = u64::MAX);
    try_to_mount("refs/", Fault::Content(Arc::new(reference)), "has more than");
    let reference = forge.reference(|it| (it.image.prefix, it.image.length) = (4 << 20, 4 << 20));
    try_to_mount("refs/", Fault::Content(Arc::new(reference)), "where bytes 0-4194303 were asked for");
    try_to_mount(&image, Fault::Flipped, "is not what it should be");
    try_to_mount(&image, Fault::EndlessBody(""), "not a published image");
    try_to_mount("refs/", Fault::Status(404, "", String::new()), "has no ref");
    client.repository.run(["mount", "os:main", at.to_str().expect("UTF-8")]).success();
}

fn image_of(fixture: &Fixture) -> ImageId {
    let store = Store::open(fixture.publisher.path()).expect("a repository");
    store.commit(store.resolve("main").expect("a commit")).expect("it is local").image
}
