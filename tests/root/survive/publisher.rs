//! Mounts that stay for months, in short: their publisher publishes and prunes all the time, and servers answer oddly.
//!
//! The mounted commit is kept, so every read is right, however often its contents are put elsewhere; and so is what clients that
//! come anew see of the commit of the moment. One mount knows a server half of whose answers are odd and an honest one, the other
//! a single server that errs now and then. The long form:
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
use super::mount::{Dice, Subject};
use super::soak::reader;
use crate::common::facts::assert_same_tree;
use crate::common::odd::{Answer, Odd, proper, response, wrong};
use crate::common::sandbox::{Repository, Sandbox};
use crate::common::trees;

/// How much longer than asked the test may take to come to everything.
const PATIENCE: Duration = Duration::from_secs(120);

/// Of so many files of the tree that goes on changing, one changes each time.
const CHANGED: usize = 8;

/// How often each odd answer was given.
type Given = Arc<Mutex<BTreeMap<&'static str, u64>>>;

/// A publisher, the servers of what it publishes, and the tree that it publishes anew.
struct Scene {
    sandbox: Sandbox,
    publisher: Repository,
    /// Half of what it answers is odd.
    odd: Odd,
    /// One in eight answers is: that eight tries of the same are all odd does not come about.
    flaky: Odd,
    honest: Odd,
    given: Given,
    files: usize,
    round: u64,
    dice: Dice,
}

impl Scene {
    /// The ref `stable` stays as it is from now on, and `main` is to change.
    fn new(name: &str, files: usize) -> Self {
        let sandbox = Sandbox::new(name);
        let publisher = sandbox.repository("publisher");
        let published = sandbox.directory("published");
        for tree in ["stable", "main"] {
            trees::medium(&sandbox.join(tree), files);
            publisher.commit(tree, &sandbox.join(tree));
        }
        let [odd, flaky, honest] = [(); 3].map(|()| Odd::serve(&published));
        let given = Given::default();
        odd.set("", &sometimes_odd(2, &given), u32::MAX);
        flaky.set("", &sometimes_odd(8, &given), u32::MAX);
        let dice = Dice::new(0x0dd);
        let scene = Self { sandbox, publisher, odd, flaky, honest, given, files, round: 0, dice };
        scene.publish();
        scene
    }

    fn publish(&self) {
        let url = format!("file://{}", self.sandbox.join("published").display());
        let keep = ["--prune", "--keep-last", "1", "--grace", "0"];
        let words = ["publish", "--pack-size", "1000000", &url, "stable", "main"];
        self.publisher.run(words.iter().chain(&keep).copied()).success();
    }

    /// Changes a part of the tree, publishes it and removes what nothing needs any more.
    fn go_on(&mut self) {
        self.round += 1;
        let first = self.dice.below(CHANGED as u64) as usize;
        for number in (first..self.files).step_by(CHANGED) {
            let path = self.sandbox.join(&format!("main/{:02}/file-{number}", number % 40));
            let seed = self.round * 1_000_000 + number as u64 + 1;
            fs::write(path, trees::noise(seed, 3000 + number)).expect("the sandbox is writable");
        }
        self.publisher.commit("main", &self.sandbox.join("main"));
        self.publish();
        self.publisher.run(["gc"]).success();
    }

    /// A repository that knows these servers, the first as the remote and the others as its mirrors.
    fn client(&self, name: &str, servers: &[&Odd]) -> Repository {
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

    /// A client that comes anew sees the newest commit, by a pull or as it reads.
    fn come_anew(&self, is_lazy: bool) {
        let name = format!("client-{}", self.round);
        let servers: [&[&Odd]; 3] = [&[&self.odd, &self.honest], &[&self.flaky], &[&self.honest, &self.odd]];
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

    /// How many requests came to the odd, the flaky and the honest server; they are counted anew.
    fn asked(&self) -> [usize; 3] {
        [&self.odd, &self.flaky, &self.honest].map(|server| {
            let asked = server.asked("").len();
            server.forget();
            asked
        })
    }
}

/// Answers properly, but for one in so many answers, at random.
fn sometimes_odd(one_in: usize, given: &Given) -> Answer {
    let (answers, dice, given) = (wrong(), Mutex::new(Dice::new(0xbad)), Arc::clone(given));
    Arc::new(move |asked, file| {
        let number = dice.lock().expect("no holder panics").below((one_in * answers.len()) as u64) as usize;
        match answers.get(number) {
            // Nothing that is published is empty.
            _ if file.is_empty() => response("404 Not Found", "", b""),
            None => proper(asked, file),
            Some((name, answer)) => {
                *given.lock().expect("no holder panics").entry(name).or_default() += 1;
                answer(asked, file)
            }
        }
    })
}

/// Returns a line of figures.
#[track_caller]
fn lives_through(name: &str, time: Duration, files: usize) -> String {
    let mut scene = Scene::new(name, files);
    let tree = scene.sandbox.join("stable");
    let done = Arc::new(AtomicU64::new(0));
    let mut load = Load::new();
    // Less is kept than is read, so that much is fetched again and again.
    let options = ["cache-size=2M", "fetch-timeout=60"];
    let mut subjects = Vec::new();
    for (number, servers) in [vec![&scene.odd, &scene.honest], vec![&scene.flaky]].iter().enumerate() {
        let client = scene.client(&format!("client-of-{number}"), servers);
        let at = scene.sandbox.join(&format!("mounted-{number}"));
        let subject = Subject::new(&client, "os:stable", &at, &options);
        load = load.prober(&at).user("reader", reader(77 * (number as u64 + 1), &tree, &at, &done));
        subjects.push(subject);
    }
    let (mut asked, begin) = ([0; 3], Instant::now());
    let evicted = |subject: &Subject| subject.status()["lazy"]["bytes_evicted"].as_u64() >= Some(1 << 20);
    // On a busy machine it takes longer until contents are fetched for the second time and servers have erred in some ways.
    let is_enough = |scene: &Scene| {
        scene.round >= 2 && scene.given.lock().expect("no holder panics").len() >= 5 && subjects.iter().all(evicted)
    };
    while begin.elapsed() < time || (!is_enough(&scene) && begin.elapsed() < time + PATIENCE) {
        scene.go_on();
        scene.come_anew(scene.round.is_multiple_of(2));
        asked.iter_mut().zip(scene.asked()).for_each(|(all, more)| *all += more);
        std::thread::sleep(Duration::from_millis(scene.dice.below(3000)));
    }
    let enough = is_enough(&scene);
    let (longest, _) = load.end();
    for subject in subjects {
        let status = subject.status();
        assert_eq!(status["figures"]["errors"], 0, "{status}");
        assert_eq!(status["health"]["deaths"], 0, "{}", subject.log(subject.supervisor));
        assert!(enough, "too little was fetched again, or too few answers were odd: {status}");
        subject.mounted.unmount();
        subject.repository.assert_clean();
    }
    let given = scene.given.lock().expect("no holder panics");
    let [odd, flaky, honest] = asked;
    format!(
        "{} s: {} publishes, each with a prune, {} answers of mounts compared, 0 wrong, 0 errors; {} clients came anew; requests: \
         {odd} to the odd server, {flaky} to the flaky one, {honest} to the honest one; {} odd answers of {} kinds; longest statfs \
         {} ms",
        time.as_secs(),
        scene.round,
        done.load(Ordering::Relaxed),
        scene.round,
        given.values().sum::<u64>(),
        given.len(),
        longest.as_millis(),
    )
}

#[test]
fn mounts_outlive_a_publisher_that_prunes_and_servers_that_err() {
    println!("{}", lives_through("publisher-short", Duration::from_secs(15), 1200));
}

#[test]
#[ignore = "takes half an hour, or as many seconds as SAPWOOD_SOAK says"]
fn half_an_hour_of_a_publisher_that_prunes_and_servers_that_err() {
    let seconds = std::env::var("SAPWOOD_SOAK").ok().and_then(|text| text.parse().ok()).unwrap_or(1800);
    println!("{}", lives_through("publisher-long", Duration::from_secs(seconds), 3000));
}
