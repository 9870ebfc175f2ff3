//! Reads bytes as what the processes and programs of a machine tell one another: what is handed on in a mount, the pages that
//! its processes share, questions and answers, the kernel's command line and list of mounts, what package managers print.
//! Shared by the fuzz target and the test over its seeds.
//!
//! Answers may be errors, since the bytes may be anything; what must not happen is a panic, above all in the supervisor of a
//! mount, whose workers read what strangers made and write into its pages.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;

use sapwood::boot::command_line::CommandLine;
use sapwood::cli::Handoff;
use sapwood::compose::engine::{apt, dnf};
use sapwood::compose::packages::{Format, Package, PackageList};
use sapwood::deploy::sysroot::booted_deployment;
use sapwood::disk::MountTable;
use sapwood::fuse::{Answer, Board, Counters, Death, MountOptions, Question, RunningMount, Subject};

/// What bytes are read as, and by whom.
type Kind = (&'static str, fn(&[u8]));

/// In the order of the first byte of the fuzzer's input.
pub const KINDS: [Kind; 14] = [
    ("handoff", handoff),
    ("shared-page", shared_page),
    ("question", question),
    ("answer", answer),
    ("mount", mount),
    ("command-line", command_line),
    ("options", options),
    ("mountinfo", mountinfo),
    ("apt-uris", apt_uris),
    ("apt-targets", apt_targets),
    ("dpkg-status", dpkg_status),
    ("dnf", dnf_answer),
    ("rpm-packages", rpm_packages),
    ("rpm-owners", rpm_owners),
];

/// Separates the texts where a reader takes several.
const NEXT: u8 = 0xff;

/// So much of the shared pages is written: all but most of the long table at their end.
const PAGES: usize = 16 << 10;

/// Reads bytes as what the first of them says.
pub fn exercise(data: &[u8]) {
    if let Some((kind, bytes)) = data.split_first() {
        KINDS[usize::from(*kind) % KINDS.len()].1(bytes);
    }
}

fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

fn handoff(bytes: &[u8]) {
    let Ok(handoff) = Handoff::parse(bytes) else { return };
    let again = handoff.encode().expect("memory");
    assert_eq!(Handoff::parse(&again).expect("own form").encode().expect("memory"), again);
    let _ = (handoff.options(), handoff.subdir(), handoff.mountpoint());
    let _ = handoff.remote.as_ref().map(|remote| remote.get().trust());
}

/// The pages as a worker leaves them, for its supervisor and for the next worker. Changes, as the number of a word and what
/// is put there, since most of the pages mean nothing.
fn shared_page(bytes: &[u8]) {
    let board = Board::create().expect("memory");
    let file = File::from(board.as_fd().try_clone_to_owned().expect("descriptors are not exhausted"));
    for change in bytes.chunks_exact(10).take(PAGES / 8) {
        let word = u16::from_le_bytes([change[0], change[1]]);
        let at = usize::from(word) % (PAGES / 8) * 8;
        file.write_all_at(&change[2..], at as u64).expect("memory");
    }
    if let Ok(board) = Board::open(board.as_fd().try_clone_to_owned().expect("descriptors are not exhausted")) {
        supervise(&board);
    }
}

fn supervise(board: &Board) {
    let worker = board.count_start();
    assert_eq!(board.worker_number(), worker);
    let _ = format!("{:?} {} {:?}", board.health(), board.device(), board.init());
    let _ = (Counters::of(board).figures(), Counters::of(board).messages());
    for flight in board.flights(None).collect::<Vec<_>>() {
        let _ = format!("{flight:?} {}", board.is_poisonous(flight.subject));
    }
    (0..=u8::MAX).for_each(|worker| _ = board.bury(worker, worker & 1 == 0));
    assert_eq!(board.flights(None).count(), 0, "all workers are buried");
    let _ = board.is_poisonous(Subject::new(5, 1, 1));
    board.count_death(7, Death::Killed(11));
    board.count_crash();
    board.count_exchange();
    board.count_remount();
    assert!(board.crashes_within(60_000) <= board.crashes_within(u64::MAX));
    assert_eq!((board.health().last_death, board.last_dead()), (Some(Death::Killed(11)), 7));
    board.reset_connection();
    assert!(!board.is_connected());
}

fn question(bytes: &[u8]) {
    let _ = Question::parse(bytes);
}

fn answer(bytes: &[u8]) {
    if let Ok(answer) = Answer::parse(bytes) {
        assert_eq!(Answer::parse(&answer.encode().expect("memory")).expect("own form"), answer);
    }
}

/// A file of the list of mounts.
fn mount(bytes: &[u8]) {
    if let Ok(mount) = RunningMount::parse(bytes) {
        assert_eq!(RunningMount::parse(&mount.encode().expect("memory")).expect("own form"), mount);
    }
}

/// What the initramfs understands, the mount does too.
fn command_line(bytes: &[u8]) {
    let text = text(bytes);
    let _ = booted_deployment(&text);
    if let Ok(line) = CommandLine::parse(&text) {
        for name in ["usr", "opt"] {
            let options = line.mount_options(name).join(",");
            let parsed = MountOptions::parse(&options).unwrap_or_else(|error| panic!("{options}: {error}"));
            assert_eq!(parsed.fetch_timeout.filter(|_| line.timeout.is_some()), line.timeout);
        }
    }
}

fn options(bytes: &[u8]) {
    if let Ok(options) = MountOptions::parse(&text(bytes)) {
        // Points in time are computed from them.
        for time in [options.fetch_timeout, options.watchdog].into_iter().flatten() {
            assert!(std::time::Instant::now().checked_add(time * 2).is_some());
        }
    }
}

fn mountinfo(bytes: &[u8]) {
    let table = MountTable::parse(bytes);
    for mount in table.all() {
        assert!(table.top(&mount.path).is_some() && table.mounts_of(&mount.device).next().is_some());
    }
}

/// What is decided goes into the commit as a list, and must be the same list there.
fn is_a_list(packages: Vec<Package>, format: Format) {
    let list = PackageList::new(format, packages);
    assert_eq!(PackageList::decode(&list.encode()), Ok(list));
}

fn apt_uris(bytes: &[u8]) {
    let text = text(bytes);
    if let Ok(resolved) = apt::output::resolved(&text) {
        assert!(resolved.iter().all(|one| !one.file.contains('/') && !one.package.name.starts_with('-')));
        is_a_list(resolved.into_iter().map(|one| one.package).collect(), Format::Deb);
    }
    let _ = apt::output::available(&text);
}

/// A stanza has no more lines than its fields.
fn apt_targets(bytes: &[u8]) {
    for release in [None, Some("bookworm")] {
        for stanza in apt::output::stanzas(&text(bytes), "debian", release) {
            assert!(stanza.lines().count() <= 5, "{stanza:?}");
        }
    }
}

fn dpkg_status(bytes: &[u8]) {
    let text = text(bytes);
    let _ = apt::query::paragraphs(&text);
    let _ = apt::query::packages(&text);
}

fn dnf_answer(bytes: &[u8]) {
    if let Ok(answer) = dnf::output::answer(&text(bytes))
        && let Ok(told) = dnf::output::told(&answer)
    {
        is_a_list(told.iter().map(dnf::output::Told::package).collect(), Format::Rpm);
    }
}

fn rpm_packages(bytes: &[u8]) {
    let text = text(bytes);
    let _ = (dnf::output::installed(&text), dnf::output::newest(&text));
}

/// The answer about files and that about changelogs.
fn rpm_owners(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == NEXT).map(text);
    let (files, changelogs) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let _ = dnf::output::ownership(&files, &changelogs);
}
