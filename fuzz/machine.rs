//! Reads bytes as messages between the processes and programs of a machine: the handoff of a mount, the pages that its
//! processes share, control requests and answers, the kernel's command line and list of mounts, the output of package managers.
//! Shared by the fuzz target and the test over its seeds.
//!
//! *Invariants*: a reader may return an error, since the bytes may be anything; it must not panic, above all not in the
//! supervisor of a mount, whose workers read untrusted data and write into its pages.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;

use sapwood::boot::command_line::CommandLine;
use sapwood::compose::engine::{apt, dnf};
use sapwood::compose::packages::{Package, PackageFormat, PackageList};
use sapwood::deploy::sysroot::booted_deployment;
use sapwood::disk::MountTable;
use sapwood::fuse::{Death, MountOptions, RequestCounters, RequestKey, SharedState};
use sapwood::mount::{ControlRequest, ControlResponse, Handoff, RunningMount};

/// The name of a kind of input, and its reader.
type Kind = (&'static str, fn(&[u8]));

/// Kinds of input, in the order of their first byte.
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
const SEPARATOR: u8 = 0xff;

/// Bytes of the shared pages that are written: all but most of the long table at their end.
const SHARED_BYTES: usize = 16 << 10;

/// Reads bytes as their first byte says.
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
    let _ = handoff.remote.as_ref().map(|remote| remote.config().trust());
}

/// Reads the pages that a worker leaves, as its supervisor and the next worker do. The input is a list of changes, each the
/// number of a word and its value, since most words have no meaning.
fn shared_page(bytes: &[u8]) {
    let shared = SharedState::create().expect("memory");
    let file = File::from(shared.as_fd().try_clone_to_owned().expect("descriptors are not exhausted"));
    for change in bytes.chunks_exact(10).take(SHARED_BYTES / 8) {
        let word = u16::from_le_bytes([change[0], change[1]]);
        let at = usize::from(word) % (SHARED_BYTES / 8) * 8;
        file.write_all_at(&change[2..], at as u64).expect("memory");
    }
    if let Ok(shared) = SharedState::open(shared.as_fd().try_clone_to_owned().expect("descriptors are not exhausted")) {
        supervise(&shared);
    }
}

fn supervise(shared: &SharedState) {
    let worker = shared.count_start();
    assert_eq!(shared.worker_number(), worker);
    let _ = format!("{:?} {} {:?}", shared.health(), shared.device(), shared.init_message());
    let _ = (RequestCounters::of(shared).figures(), RequestCounters::of(shared).messages());
    for request in shared.pending_requests(None).collect::<Vec<_>>() {
        let _ = format!("{request:?} {}", shared.is_quarantined(request.key));
    }
    (0..=u8::MAX).for_each(|worker| _ = shared.reap_worker(worker, worker & 1 == 0));
    assert_eq!(shared.pending_requests(None).count(), 0, "all workers were reaped");
    let _ = shared.is_quarantined(RequestKey::new(5, 1, 1));
    shared.count_death(7, Death::Killed(11));
    shared.count_crash();
    shared.count_exchange();
    shared.count_remount();
    assert!(shared.crashes_within(60_000) <= shared.crashes_within(u64::MAX));
    assert_eq!((shared.health().last_death, shared.last_dead_pid()), (Some(Death::Killed(11)), 7));
    shared.reset_connection();
    assert!(!shared.is_connected());
}

fn question(bytes: &[u8]) {
    let _ = ControlRequest::parse(bytes);
}

fn answer(bytes: &[u8]) {
    if let Ok(answer) = ControlResponse::parse(bytes) {
        assert_eq!(ControlResponse::parse(&answer.encode().expect("memory")).expect("own form"), answer);
    }
}

/// Reads a file of the list of mounts.
fn mount(bytes: &[u8]) {
    if let Ok(mount) = RunningMount::parse(bytes) {
        assert_eq!(RunningMount::parse(&mount.encode().expect("memory")).expect("own form"), mount);
    }
}

/// Checks that the mount understands every command line that the initramfs understands.
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

/// Checks that packages are the same list after they were written to a commit and read.
fn is_a_list(packages: Vec<Package>, format: PackageFormat) {
    let list = PackageList::new(format, packages);
    assert_eq!(PackageList::decode(&list.encode()), Ok(list));
}

fn apt_uris(bytes: &[u8]) {
    let text = text(bytes);
    if let Ok(resolved) = apt::output::parse_print_uris(&text) {
        assert!(resolved.iter().all(|one| !one.file.contains('/') && !one.package.name.starts_with('-')));
        is_a_list(resolved.into_iter().map(|one| one.package).collect(), PackageFormat::Deb);
    }
    let _ = apt::output::parse_madison(&text);
}

/// Checks that a stanza has no more lines than its fields.
fn apt_targets(bytes: &[u8]) {
    for release in [None, Some("bookworm")] {
        for stanza in apt::output::source_stanzas(&text(bytes), "debian", release) {
            assert!(stanza.lines().count() <= 5, "{stanza:?}");
        }
    }
}

fn dpkg_status(bytes: &[u8]) {
    let text = text(bytes);
    let _ = apt::query::parse_paragraphs(&text);
    let _ = apt::query::parse_status(&text);
}

fn dnf_answer(bytes: &[u8]) {
    if let Ok(answer) = dnf::output::parse_answer(&text(bytes))
        && let Ok(told) = dnf::output::parse_packages(&answer)
    {
        is_a_list(told.iter().map(dnf::output::DriverPackage::package).collect(), PackageFormat::Rpm);
    }
}

fn rpm_packages(bytes: &[u8]) {
    let text = text(bytes);
    let _ = (dnf::output::parse_installed(&text), dnf::output::parse_newest_time(&text));
}

/// Reads the output about files and that about changelogs.
fn rpm_owners(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == SEPARATOR).map(text);
    let (files, changelogs) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let _ = dnf::output::parse_file_owners(&files, &changelogs);
}
