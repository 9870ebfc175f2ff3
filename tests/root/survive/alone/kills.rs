//! Workers that are killed by SIGKILL at random moments under load.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::super::load::{Load, compile, fio, holder, md5sums, mmap_reader};
use super::super::mount::Subject;
use super::super::remote::Remote;
use crate::common::link::Shape;
use crate::common::random::Random;
use crate::common::sandbox::{Repository, Sandbox, finish, run};
use crate::common::trees;

const NOBODY_UID: u32 = 65534;

/// Makes a tree with everything that the users need: a compiler, its headers, and a large file.
fn make_tree(sandbox: &Sandbox) -> PathBuf {
    let tree = sandbox.directory("tree");
    let script = format!(
        "mkdir -p {0}/gcc {0}/include/x86_64-linux-gnu {0}/large && cp /usr/lib/gcc/x86_64-linux-gnu/12/cc1plus {0}/gcc && \
         cp -a /usr/include/c++ {0}/include && cp -a /usr/include/x86_64-linux-gnu/c++ {0}/include/x86_64-linux-gnu",
        tree.display()
    );
    run("sh", ["-c", &script]).success();
    for number in 0..40 {
        fs::write(tree.join(format!("large/{number}")), trees::noise(number, 300_000 + 10_000 * number as usize))
            .expect("writable");
    }
    tree
}

/// Kills the workers `times` times at random moments.
fn kill_again_and_again(subject: &Subject, times: usize, pauses: std::ops::Range<u64>) {
    let mut random = Random::new(0x2545_f491_4f6c_dd1d);
    for _ in 0..times {
        std::thread::sleep(Duration::from_millis(pauses.start + random.below(pauses.end - pauses.start)));
        subject.signal_workers(Signal::SIGKILL);
    }
}

fn full_load(tree: &Path, mounted: &Path, scratch: &Path) -> Load {
    Load::new()
        .prober(mounted)
        .user("md5sum", md5sums(tree, mounted, scratch))
        .user("compile", compile(mounted, scratch))
        .user("mmap", mmap_reader(&tree.join("gcc/cc1plus"), &mounted.join("gcc/cc1plus")))
        .user("fio", fio(&mounted.join("gcc/cc1plus")))
}

/// Kills `times` times under all users. Returns a line of figures.
#[track_caller]
fn kill_under_load(name: &str, options: &[&str], times: usize) -> String {
    let sandbox = Sandbox::new(name);
    let tree = make_tree(&sandbox);
    let repository = sandbox.repository("repo");
    repository.commit("main", &tree);
    let subject = Subject::new(&repository, "main", &sandbox.join("m"), options);
    let mounted = subject.mounted.path().to_owned();
    let load = full_load(&tree, &mounted, &sandbox.directory("scratch"));
    let load = load.user("held", holder(&tree.join("large"), &mounted.join("large"), 40));
    kill_again_and_again(&subject, times, 50..400);
    // On a busy machine workers start slowly, and some kills find no worker.
    for _ in 0..8 {
        if subject.deaths() as usize >= times * 3 / 4 {
            break;
        }
        kill_again_and_again(&subject, times / 4, 200..800);
    }
    let (longest, line) = load.end();
    let status = subject.status();
    let deaths = status["health"]["deaths"].as_u64().expect("a number");
    assert!(deaths as usize >= times * 3 / 4, "of {times} kills only {deaths} ended a worker: {status}");
    assert_eq!((&status["health"]["crashes"], &status["figures"]["errors"]), (&0.into(), &0.into()), "{status}");
    assert_eq!(subject.number("pid"), subject.supervisor);
    subject.mounted.unmount();
    repository.assert_clean();
    format!("{deaths} kills, longest wait {} ms; passes: {line}", longest.as_millis())
}

#[test]
fn killed_workers_are_not_noticed() {
    println!("cached: {}", kill_under_load("kill-cached", &[], 40));
}

#[test]
fn killed_workers_are_not_noticed_in_passthrough_mode() {
    println!("passthrough: {}", kill_under_load("kill-passthrough", &["passthrough"], 40));
}

#[test]
fn killed_workers_are_not_noticed_during_fetches() {
    let remote = Remote::new("kill-lazy", 1200, Shape::HOME);
    let subject = remote.mount(&[]);
    let scratch = remote.sandbox.directory("scratch");
    let load = Load::new().user("md5sum", md5sums(&remote.tree, subject.mounted.path(), &scratch));
    kill_again_and_again(&subject, 15, 100..600);
    let (_, line) = load.end();
    let status = subject.status();
    assert!(status["health"]["deaths"].as_u64().expect("a number") >= 10, "{status}");
    println!("lazy: {line}; {}", status["lazy"]);
    assert_eq!(status["figures"]["errors"], 0, "{status}");
    subject.mounted.unmount();
    remote.client.assert_clean();
    // Contents that a dead worker had only in memory are fetched again.
    let again = remote.mount(&[]);
    remote.assert_all_right(&again);
    again.mounted.unmount();
}

/// A new worker gets the connection from the supervisor, so it needs no help of root.
#[test]
fn killed_workers_are_not_noticed_on_an_ordinary_users_mount() {
    let sandbox = Sandbox::new("kill-user");
    sandbox.open_fuse_to_everybody();
    let home = sandbox.directory("home");
    let tree = home.join("tree");
    trees::medium(&tree, 60);
    run("chown", ["-R".as_ref(), "65534:65534".as_ref(), home.as_os_str()]).success();
    let repository = Repository::init_as(home.join("repo"), NOBODY_UID);
    repository.commit("main", &tree);
    let subject = Subject::new(&repository, "main", &home.join("m"), &[]);
    // Past the kernel's cache, or no request would reach a worker.
    let script = "find . -type f | while read file; do dd if=\"$1/$file\" iflag=direct bs=1M status=none | cmp - \"$file\" || exit; done";
    let (from, at) = (tree, subject.mounted.path().to_owned());
    let load = Load::new().user("cmp", move |_| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", script, "sh"]).arg(&at);
        command.current_dir(&from);
        let compared = finish(command);
        let said = String::from_utf8_lossy(&compared.stdout).into_owned() + &compared.stderr;
        if compared.status.success() && said.is_empty() { Ok(()) } else { Err(said) }
    });
    kill_again_and_again(&subject, 15, 100..400);
    let (_, line) = load.end();
    assert!(subject.deaths() >= 10, "{}", subject.status());
    println!("of an ordinary user: {} kills, {line}", subject.deaths());
    subject.mounted.unmount();
    repository.assert_clean();
}

/// Gives the figures in SECURITY.md: a whole Debian system, two hundred kills in each mode, caches dropped all the time.
#[test]
#[ignore = "takes minutes, wants the Debian root and drops the machine's caches"]
fn two_hundred_kills_under_a_whole_debian_system() {
    for options in [&[][..], &["passthrough"][..]] {
        let sandbox = Sandbox::new("kill-debian");
        let tree = trees::debian_root().join("usr");
        let repository = sandbox.repository("repo");
        repository.commit("main", &tree);
        let subject = Subject::new(&repository, "main", &sandbox.join("m"), options);
        let mounted = subject.mounted.path().to_owned();
        let scratch = sandbox.directory("scratch");
        let large = "lib/gcc/x86_64-linux-gnu/12/cc1plus";
        let load = Load::new()
            .prober(&mounted)
            .user("md5sum", md5sums(&tree, &mounted, &scratch))
            .user("mmap", mmap_reader(&tree.join(large), &mounted.join(large)))
            .user("fio", fio(&mounted.join(large)))
            .user("held", holder(&tree.join("lib/python3.11"), &mounted.join("lib/python3.11"), 200))
            .user("compile in a chroot", chroot_compile(&sandbox, &mounted))
            .user("drop caches", |_| {
                std::thread::sleep(Duration::from_secs(1));
                fs::write("/proc/sys/vm/drop_caches", "3").map_err(|error| error.to_string())
            });
        kill_again_and_again(&subject, 200, 20..600);
        let (longest, line) = load.end();
        let status = subject.status();
        let version = run("uname", ["-r"]).success();
        println!(
            "{:?}, Linux {version}: {} kills, {} messages, longest wait {} ms, 0 errors; passes: {line}",
            options,
            status["health"]["deaths"],
            status["figures"]["messages"],
            longest.as_millis()
        );
        assert_eq!(status["figures"]["errors"], 0, "{status}");
        subject.mounted.unmount();
        repository.assert_clean();
    }
}

/// Compiles with the compiler, its libraries and the shell of the mount.
fn chroot_compile(sandbox: &Sandbox, mounted: &Path) -> impl FnMut(&AtomicBool) -> Result<(), String> + use<> {
    let root = sandbox.directory("root");
    for directory in ["usr", "etc", "tmp"] {
        fs::create_dir_all(root.join(directory)).expect("writable");
    }
    for link in ["bin", "sbin", "lib", "lib64"] {
        std::os::unix::fs::symlink(format!("usr/{link}"), root.join(link)).expect("writable");
    }
    let bind = |from: &Path, name: &str| {
        let flags = nix::mount::MsFlags::MS_BIND;
        nix::mount::mount(Some(from), &root.join(name), None::<&str>, flags, None::<&str>).expect("binds");
    };
    bind(mounted, "usr");
    // Its alternatives determine the library with which numpy computes.
    bind(&trees::debian_root().join("etc"), "etc");
    fs::write(root.join("tmp/a.cc"), "#include <iostream>\n#include <regex>\nint main() { std::cout << 7; }\n")
        .expect("writable");
    move |_| {
        let script = "cd /tmp && g++ a.cc -o a && [ $(./a) = 7 ] && python3 -c 'import json, ssl, numpy'";
        let built = run("chroot", [root.as_os_str(), "/bin/sh".as_ref(), "-c".as_ref(), script.as_ref()]);
        if built.status.success() { Ok(()) } else { Err(built.stderr) }
    }
}
