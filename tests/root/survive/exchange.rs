//! The program is exchanged under running mounts.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use sapwood::mount::{ExchangeError, exchange_program};

use super::load::{Load, holder, md5sums};
use super::mount::Subject;
use crate::common::sandbox::{Sandbox, finish};
use crate::common::{programs, trees};

fn program_of(pid: i32) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/exe")).expect("runs")
}

/// Makes a copy of the program, which counts as another version because of its path.
fn other_program(sandbox: &Sandbox, name: &str) -> PathBuf {
    let program = sandbox.directory(name).join("sapwood");
    fs::copy(programs::sapwood(), &program).expect("was built");
    program
}

fn reexec(program: &Path, at: &Path) -> String {
    let mut command = Command::new(program);
    command.args(["mounts", "--reexec"]).arg(at);
    let run = finish(command);
    let said = run.stderr.clone();
    run.success();
    said
}

fn exchanged_back_and_forth(name: &str, options: &[&str]) {
    let sandbox = Sandbox::new(name);
    let repository = sandbox.repository("repo");
    let tree = sandbox.join("tree");
    trees::medium(&tree, 400);
    repository.commit("main", &tree);
    let subject = Subject::new(&repository, "main", &sandbox.join("m"), options);
    let mounted = subject.mounted.path().to_owned();
    let load = Load::new()
        .prober(&mounted)
        .user("md5sum", md5sums(&tree, &mounted, &sandbox.directory("scratch")))
        .user("held", holder(&tree, &mounted, 60));
    let first = program_of(subject.supervisor);
    let newer = other_program(&sandbox, "newer");
    for program in [&newer, &first, &newer] {
        let before = subject.number("worker_pid");
        let said = reexec(program, &mounted);
        let worker = subject.number("worker_pid");
        assert!(said.contains(&format!("served by process {worker} now")), "{said}");
        assert_ne!(worker, before);
        assert_eq!((program_of(worker), program_of(subject.supervisor)), (program.clone(), program.clone()));
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
    let (longest, line) = load.end();
    println!("{name}: longest wait {} ms; {line}", longest.as_millis());
    let status = subject.status();
    let health = &status["health"];
    assert_eq!(
        (&health["exchanges"], &health["deaths"], &health["is_supervised"]),
        (&3.into(), &0.into(), &true.into())
    );
    assert_eq!(status["figures"]["errors"], 0);
    // The new supervisor replaces workers as the first one did. (On an old kernel the next read may be lost with the dying
    // worker.)
    if !options.contains(&"noresend") {
        subject.signal_workers(nix::sys::signal::Signal::SIGKILL);
        let original = fs::read(tree.join("00/file-0")).expect("readable");
        assert_eq!(fs::read(mounted.join("00/file-0")).expect("reads"), original);
    }
    subject.mounted.unmount();
    repository.assert_clean();
}

#[test]
fn program_is_exchanged_under_load() {
    exchanged_back_and_forth("exchange-cached", &[]);
}

#[test]
fn program_is_exchanged_in_passthrough_mode() {
    exchanged_back_and_forth("exchange-passthrough", &["passthrough"]);
}

/// Without resending, requests must not be lost either.
#[test]
fn program_is_exchanged_on_an_old_kernel() {
    exchanged_back_and_forth("exchange-old", &["noresend"]);
}

#[test]
fn exchange_with_a_program_that_fails_changes_nothing() {
    let sandbox = Sandbox::new("exchange-broken");
    let repository = sandbox.repository("repo");
    let tree = sandbox.join("tree");
    trees::medium(&tree, 50);
    repository.commit("main", &tree);
    let subject = Subject::new(&repository, "main", &sandbox.join("m"), &[]);
    let worker = subject.number("worker_pid");
    let name = subject.status()["name"].as_str().expect("a name").to_owned();
    let socket = Path::new("/run/sapwood/running").join(&name).join(format!("{name}.ctl"));
    for broken in ["/bin/false", "/etc/passwd"] {
        let ordered = exchange_program(&socket, File::open(broken).expect("is there"));
        assert!(matches!(ordered, Err(ExchangeError::Failed)), "{broken}: {ordered:?}");
        assert_eq!((subject.number("worker_pid"), subject.number("pid")), (worker, subject.supervisor));
        assert_eq!(
            fs::read(subject.join("00/file-0")).expect("reads"),
            fs::read(tree.join("00/file-0")).expect("reads")
        );
    }
    // A connection that sends nothing, or something else, does not block others.
    let silent = std::os::unix::net::UnixStream::connect(&socket);
    assert!(silent.is_err(), "it takes messages, not streams");
    reexec(&programs::sapwood(), subject.mounted.path());
    assert_ne!(subject.number("worker_pid"), worker);
    subject.mounted.unmount();
}
