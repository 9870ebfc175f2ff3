//! Long-lived mounts, in short: their publisher publishes and prunes all the time, and servers give odd answers.
//!
//! The mounted commit is kept, so every read must be right however often its contents are moved; new clients must see the
//! newest commit. One mount uses a server half of whose answers are odd and a correct one, the other a single server that gives
//! an odd answer now and then. The long form:
//!
//! ```text
//! tests/run --long publisher
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::load::Load;
use super::mount::Subject;
use super::soak::reader;
use crate::common::facts::assert_same_tree;
use crate::common::random::Random;
use crate::common::sandbox::{Repository, Sandbox};
use crate::common::scripted_server::{Answer, ScriptedServer, proper, response, wrong};
use crate::common::trees;

/// Time that the test may take beyond the given one to reach all its conditions.
const EXTRA_TIME: Duration = Duration::from_secs(120);

/// One of this many files of the changing tree changes each time.
const CHANGED_ONE_IN: usize = 8;

/// Number of times that each odd answer was given.
type AnswerCounts = Arc<Mutex<BTreeMap<&'static str, u64>>>;

/// A publisher, the servers of its publication, and the tree that it changes.
struct Fixture {
    sandbox: Sandbox,
    publisher: Repository,
    /// A server half of whose answers are odd.
    odd: ScriptedServer,
    /// A server with one odd answer in eight: eight odd answers to the same request in a row practically do not happen.
    flaky: ScriptedServer,
    honest: ScriptedServer,
    given: AnswerCounts,
    files: usize,
    round: u64,
    random: Random,
}

impl Fixture {
    /// Publishes the ref `stable`, which stays as it is, and `main`, which will change.
    fn new(name: &str, files: usize) -> Self {
        let sandbox = Sandbox::new(name);
        let publisher = sandbox.repository("publisher");
        let published = sandbox.directory("published");
        for tree in ["stable", "main"] {
            trees::medium(&sandbox.join(tree), files);
            publisher.commit(tree, &sandbox.join(tree));
        }
        let [odd, flaky, honest] = [(); 3].map(|()| ScriptedServer::serve(&published));
        let given = AnswerCounts::default();
        odd.set("", &sometimes_odd(2, &given), u32::MAX);
        flaky.set("", &sometimes_odd(8, &given), u32::MAX);
        let random = Random::new(0x0dd);
        let fixture = Self { sandbox, publisher, odd, flaky, honest, given, files, round: 0, random };
        fixture.publish();
        fixture
    }

    fn publish(&self) {
        let url = format!("file://{}", self.sandbox.join("published").display());
        let keep = ["--prune", "--keep-last", "1", "--grace", "0"];
        let words = ["publish", "--pack-size", "1000000", &url, "stable", "main"];
        self.publisher.run(words.iter().chain(&keep).copied()).success();
    }

    /// Changes a part of the tree, publishes it and prunes.
    fn publish_next(&mut self) {
        self.round += 1;
        let first = self.random.below(CHANGED_ONE_IN as u64) as usize;
        for number in (first..self.files).step_by(CHANGED_ONE_IN) {
            let path = self.sandbox.join(&format!("main/{:02}/file-{number}", number % 40));
            let seed = self.round * 1_000_000 + number as u64 + 1;
            fs::write(path, trees::noise(seed, 3000 + number)).expect("the sandbox is writable");
        }
        self.publisher.commit("main", &self.sandbox.join("main"));
        self.publish();
        self.publisher.run(["gc"]).success();
    }

    /// Makes a repository with these servers, the first as the remote and the others as its mirrors.
    fn client(&self, name: &str, servers: &[&ScriptedServer]) -> Repository {
        let client = self.sandbox.repository(name);
        let mut words =
            ["remote", "add", "os", "--insecure-unsigned", "--stall-timeout", "2"].map(str::to_owned).to_vec();
        for server in servers {
            words.extend((words.len() > 6).then(|| "--mirror".to_owned()));
            words.push(server.url());
        }
        client.run(words).success();
        client
    }

    /// Checks that a new client sees the newest commit, by a pull or lazily.
    fn check_new_client(&self, is_lazy: bool) {
        let name = format!("client-{}", self.round);
        let servers: [&[&ScriptedServer]; 3] = [&[&self.odd, &self.honest], &[&self.flaky], &[&self.honest, &self.odd]];
        let client = self.client(&name, servers[self.round as usize % servers.len()]);
        let source = if is_lazy {
            "os:main"
        } else {
            client.run(["pull", "os:main"]).success();
            "remotes/os/main"
        };
        let mounted = client.mount(source, &self.sandbox.join("anew"), &["suid", "dev"]);
        assert_same_tree(&self.sandbox.join("main"), mounted.path());
        mounted.unmount();
        client.assert_clean();
        fs::remove_dir_all(client.path()).expect("it is not used any more");
    }

    /// Returns the number of requests to the odd, the flaky and the correct server since the last call.
    fn request_counts(&self) -> [usize; 3] {
        [&self.odd, &self.flaky, &self.honest].map(|server| {
            let asked = server.requests("").len();
            server.forget();
            asked
        })
    }
}

/// Returns an answer that is odd at random, once in `one_in` times.
fn sometimes_odd(one_in: usize, given: &AnswerCounts) -> Answer {
    let (answers, random, given) = (wrong(), Mutex::new(Random::new(0xbad)), Arc::clone(given));
    Arc::new(move |asked, file| {
        let number = random.lock().expect("no holder panics").below((one_in * answers.len()) as u64) as usize;
        match answers.get(number) {
            // No published file is empty.
            _ if file.is_empty() => response("404 Not Found", "", b""),
            None => proper(asked, file),
            Some((name, answer)) => {
                *given.lock().expect("no holder panics").entry(name).or_default() += 1;
                answer(asked, file)
            }
        }
    })
}

/// Runs the mounts against the publisher for a time. Returns a line of figures.
#[track_caller]
fn run_against_faults(name: &str, time: Duration, files: usize) -> String {
    let mut fixture = Fixture::new(name, files);
    let tree = fixture.sandbox.join("stable");
    let done = Arc::new(AtomicU64::new(0));
    let mut load = Load::new();
    // The cache is smaller than the tree, so that much is fetched again and again.
    let options = ["cache-size=2M", "fetch-timeout=60"];
    let mut subjects = Vec::new();
    for (number, servers) in [vec![&fixture.odd, &fixture.honest], vec![&fixture.flaky]].iter().enumerate() {
        let client = fixture.client(&format!("client-of-{number}"), servers);
        let at = fixture.sandbox.join(&format!("mounted-{number}"));
        let subject = Subject::new(&client, "os:stable", &at, &options);
        load = load.prober(&at).user("reader", reader(77 * (number as u64 + 1), &tree, &at, &done));
        subjects.push(subject);
    }
    let (mut asked, begin) = ([0; 3], Instant::now());
    let evicted = |subject: &Subject| subject.status()["lazy"]["bytes_evicted"].as_u64() >= Some(1 << 20);
    // On a busy machine it takes longer until contents were fetched twice and servers gave several odd answers.
    let is_enough = |fixture: &Fixture| {
        fixture.round >= 2 && fixture.given.lock().expect("no holder panics").len() >= 5 && subjects.iter().all(evicted)
    };
    while begin.elapsed() < time || (!is_enough(&fixture) && begin.elapsed() < time + EXTRA_TIME) {
        fixture.publish_next();
        fixture.check_new_client(fixture.round.is_multiple_of(2));
        asked.iter_mut().zip(fixture.request_counts()).for_each(|(all, more)| *all += more);
        std::thread::sleep(Duration::from_millis(fixture.random.below(3000)));
    }
    let enough = is_enough(&fixture);
    let (longest, _) = load.end();
    for subject in subjects {
        let status = subject.status();
        assert_eq!(status["figures"]["errors"], 0, "{status}");
        assert_eq!(status["health"]["deaths"], 0, "{}", subject.log(subject.supervisor));
        assert!(enough, "too little was fetched again, or too few answers were odd: {status}");
        subject.mounted.unmount();
        subject.repository.assert_clean();
    }
    let given = fixture.given.lock().expect("no holder panics");
    let [odd, flaky, honest] = asked;
    format!(
        "{} s: {} publishes, each with a prune, {} answers of mounts compared, 0 wrong, 0 errors; {} clients came anew; requests: \
         {odd} to the odd server, {flaky} to the flaky one, {honest} to the honest one; {} odd answers of {} kinds; longest statfs \
         {} ms",
        time.as_secs(),
        fixture.round,
        done.load(Ordering::Relaxed),
        fixture.round,
        given.values().sum::<u64>(),
        given.len(),
        longest.as_millis(),
    )
}

#[test]
fn mounts_survive_a_pruning_publisher_and_faulty_servers() {
    println!("{}", run_against_faults("publisher-short", Duration::from_secs(15), 1200));
}

#[test]
#[ignore = "takes half an hour, or as many seconds as SAPWOOD_SOAK says"]
fn half_an_hour_of_a_pruning_publisher_and_faulty_servers() {
    let seconds = std::env::var("SAPWOOD_SOAK").ok().and_then(|text| text.parse().ok()).unwrap_or(1800);
    println!("{}", run_against_faults("publisher-long", Duration::from_secs(seconds), 3000));
}
