//! Kills at every system call that changes a file system, for each operation on a machine.
//!
//! strace kills the program as it enters the call, so each step leaves what all earlier calls did. Then the boot menu is read
//! as its loader reads it: the old default or the new one must be at its top, and complete. The operation is started again, and
//! must succeed. The calls themselves are checked too: a power cut may lose what was not synced, so nothing may be removed, and
//! no entry named, before everything it relies on was synced.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::machine::{Machine, Os};
use crate::common::menu::{self, Entry};
use crate::common::sandbox::{Repository, Run, Sandbox, finish, remove_tree, run};

/// System calls that change what is on a disk.
const MODIFYING_CALLS: &str = "open,openat,openat2,creat,write,pwrite64,writev,pwritev,ftruncate,truncate,fallocate,copy_file_range,sendfile,\
rename,renameat,renameat2,link,linkat,symlink,symlinkat,mknod,mknodat,mkdir,mkdirat,unlink,unlinkat,rmdir,chmod,fchmod,\
fchmodat,chown,fchown,lchown,fchownat,setxattr,lsetxattr,fsetxattr,removexattr,lremovexattr,fremovexattr,utimensat";

/// System calls that make changes durable.
const SYNC_CALLS: &str = "fsync,fdatasync,syncfs";

/// One operation on a machine that is prepared for it.
struct Case {
    loader: &'static str,
    name: &'static str,
    /// Directory of the machine before the operation.
    base: PathBuf,
    arguments: Vec<String>,
    /// Deployments that may be at the top of the menu after a kill: the old ones and the new one.
    tops: BTreeSet<String>,
    /// Deployment at the top at the end.
    end: String,
}

/// A call at which the program is killed: its name, and how many calls of that name the thread has then made.
type Step = (String, usize);

fn strace(machine: &Machine, arguments: &[String], options: &[String], log: &Path) -> Run {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let inner = machine.command(&words);
    let mut command = std::process::Command::new("strace");
    // Not with --seccomp-bpf, since strace injects no signals where that stops.
    command.args(["-f", "-q", "-y", "-o"]).arg(log).args(options).arg("--").arg(inner.get_program());
    command.args(inner.get_args());
    finish(command)
}

/// Returns the calls that change a disk, from the log of a complete run.
fn steps(log: &str) -> Vec<Step> {
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut found = BTreeSet::new();
    for line in log.lines() {
        let Some((thread, call)) = line.split_once(' ') else { continue };
        let Some((name, rest)) = call.trim_start().split_once('(') else { continue };
        if name.contains(' ') || name.contains('<') {
            continue;
        }
        let count = counts.entry((thread.to_owned(), name.to_owned())).or_default();
        *count += 1;
        let only_reads = name.starts_with("open") && !rest.contains("O_CREAT") && !rest.contains("O_TRUNC");
        let to_terminal = name.contains("write") && (rest.starts_with("1<") || rest.starts_with("2<"));
        let is_lock = rest.contains(".lock") || rest.contains("sapwood/lock");
        if !only_reads && !to_terminal && !is_lock && !SYNC_CALLS.contains(name) {
            found.insert((name.to_owned(), *count));
        }
    }
    found.into_iter().collect()
}

fn copy(from: &Path, to: &Path) {
    remove_tree(to);
    run("cp", ["-a".as_ref(), from.as_os_str(), to.as_os_str()]).success();
}

/// Counts of a run of all steps.
#[derive(Debug, Default)]
struct Figures {
    steps: usize,
    killed: usize,
    old: usize,
    new: usize,
}

fn run_case(case: &Case, place: &Path, publisher: &Repository) -> Figures {
    let work = place.join(format!("{}-{}", case.loader, case.name));
    fs::create_dir_all(&work).expect("writable");
    let machine = Machine::copied(work.clone(), publisher);
    let log = work.join("log");
    copy(&case.base, &machine.sysroot);
    let whole = strace(&machine, &case.arguments, &[format!("--trace={MODIFYING_CALLS},{SYNC_CALLS}")], &log);
    whole.success();
    let text = fs::read_to_string(&log).expect("strace wrote it");
    assert_order(&text, case);
    let steps = steps(&text);
    let mut figures = Figures { steps: steps.len(), ..Figures::default() };
    let arguments: Vec<&str> = case.arguments.iter().map(String::as_str).collect();
    for (number, (call, nth)) in steps.iter().enumerate() {
        let context = format!("{} {}, killed at {call} number {nth}", case.loader, case.name);
        copy(&case.base, &machine.sysroot);
        let options = [format!("--trace={call}"), format!("--inject={call}:signal=KILL:when={nth}")];
        let killed = strace(&machine, &case.arguments, &options, &log);
        figures.killed += usize::from(!killed.status.success());
        let entries = menu::read(&machine.sysroot, case.loader);
        let top = entries.first().map(|entry| entry.deployment.clone()).unwrap_or_default();
        assert!(case.tops.contains(&top), "{context}: '{top}' boots, not one of {:?}", case.tops);
        entries.iter().for_each(|entry: &Entry| menu::assert_bootable(&machine.sysroot, entry, &context));
        if top == case.end {
            figures.new += 1
        } else {
            figures.old += 1
        }
        machine.run(&["status"]).success();
        let again = machine.run(&arguments);
        // If the kill came after the removal, the next one finds nothing to remove.
        let was_done = case.name == "undeploy" && again.stderr.contains("there is no deployment");
        assert!(again.status.success() || was_done, "{context}, then: {}", again.stderr);
        if was_done {
            machine.run(&["cleanup", "--deployments-only"]).success();
        }
        let entries = menu::read(&machine.sysroot, case.loader);
        let top = entries.first().map(|entry| entry.deployment.clone()).unwrap_or_default();
        let commit = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
        assert_eq!(commit(&top), commit(&case.end), "{context}, started again");
        entries.iter().for_each(|entry| menu::assert_bootable(&machine.sysroot, entry, &context));
        assert_no_leftovers(&machine, &context);
        if number % 25 == 0 {
            machine.repository().assert_clean();
        }
    }
    remove_tree(&work);
    figures
}

/// Checks that a successful run left nothing of the killed one.
fn assert_no_leftovers(machine: &Machine, context: &str) {
    let stateroot = machine.sysroot.join("sapwood/deploy/main");
    let names: Vec<String> = fs::read_dir(&stateroot)
        .expect("listable")
        .map(|entry| entry.expect("listed").file_name().into_string().expect("ASCII"))
        .filter(|name| name != "var")
        .collect();
    assert!(names.iter().all(|name| !name.starts_with('.')), "{context}: {names:?}");
    let known = machine.deployments();
    assert_eq!(names.len(), known.len(), "{context}: {names:?} {known:?}");
}

/// Checks that removals from the boot partition, and calls that name an entry there, come after everything before them was
/// synced.
fn assert_order(log: &str, case: &Case) {
    let boot = "/sysroot/boot/";
    let mut unsynced: BTreeSet<String> = BTreeSet::new();
    for line in log.lines() {
        let Some((_, call)) = line.split_once(' ') else { continue };
        let Some((name, rest)) = call.trim_start().split_once('(') else { continue };
        let quoted: Vec<&str> = rest.split('"').skip(1).step_by(2).collect();
        let path = quoted.iter().find(|path| path.contains(boot)).map(|path| (*path).to_owned());
        let by_descriptor =
            rest.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(path, _)| path.to_owned());
        match name {
            "syncfs" => unsynced.clear(),
            "fsync" | "fdatasync" => {
                by_descriptor.map(|path| unsynced.remove(&path));
            }
            "write" | "pwrite64" | "copy_file_range" => {
                unsynced.extend(by_descriptor.filter(|path| path.contains(boot)))
            }
            "rename" | "renameat" | "renameat2" => {
                let Some(path) = path else { continue };
                let to = quoted.last().copied().unwrap_or_default().to_owned();
                let names_entry = to.ends_with(".conf") || to.ends_with("entries.cfg");
                let waiting: Vec<&String> = unsynced.iter().filter(|path| path.contains("/boot/sapwood/")).collect();
                assert!(
                    !names_entry || waiting.is_empty(),
                    "{} {}: {to} is named before {waiting:?}",
                    case.loader,
                    case.name
                );
                assert!(!unsynced.contains(&path), "{} {}: {path} is renamed unsynced", case.loader, case.name);
                unsynced.insert(to);
            }
            "unlink" | "unlinkat" | "rmdir" => {
                let Some(path) = path else { continue };
                let waiting: Vec<&String> = unsynced.iter().filter(|waiting| **waiting != path).collect();
                assert!(waiting.is_empty(), "{} {}: {path} is removed before {waiting:?}", case.loader, case.name);
            }
            _ => {}
        }
    }
}

/// Makes the cases: copies a machine before each operation of its life.
struct CaseBuilder {
    machine: Machine,
    loader: &'static str,
    place: PathBuf,
    cases: Vec<Case>,
}

impl CaseBuilder {
    fn case(&mut self, name: &'static str, arguments: &[&str], end: &str) {
        let base = self.place.join(format!("base-{}-{name}", self.loader));
        copy(&self.machine.sysroot, &base);
        // The remote as it is now, since later cases change it.
        let published = self.place.join(format!("published-{}-{name}", self.loader));
        copy(&self.machine.published(), &published);
        let remote = base.join("sapwood/repo/remotes/os.toml");
        let text = fs::read_to_string(&remote).expect("there is one");
        let (from, to) = (self.machine.published().display().to_string(), published.display().to_string());
        fs::write(&remote, text.replace(&from, &to)).expect("writable");
        let before = menu::read(&self.machine.sysroot, self.loader);
        let top = before.first().map(|entry| entry.deployment.clone()).unwrap_or_default();
        let tops = BTreeSet::from([top, end.to_owned()]);
        let arguments = arguments.iter().map(|&word| word.to_owned()).collect();
        self.cases.push(Case { loader: self.loader, name, base, arguments, tops, end: end.to_owned() });
        let words: Vec<&str> = self.cases.last().expect("just added").arguments.iter().map(String::as_str).collect();
        self.machine.run(&words).success();
    }

    fn edit(&self, path: &str, text: &str) {
        fs::write(self.machine.etc(path), text).expect("writable");
    }
}

/// Makes one case for each operation in the life of a machine.
fn build_cases(place: &Path, loader: &'static str) -> CaseBuilder {
    let machine = Machine::at(place.join(format!("machine-{loader}")), loader);
    let mut builder = CaseBuilder { machine, loader, place: place.to_owned(), cases: Vec::new() };
    let name = |commit: &str| format!("main/{}.0", &commit[..12]);
    let one = builder.machine.publish(&Os::new("1"));
    builder.case("deploy", &["deploy", "os:test"], &name(&one));
    builder.edit("prog/prog.conf", "a = one\n");
    builder.edit("mine", "new here\n");
    let two = builder.machine.publish(&Os::new("2").with("usr/etc/prog/prog.conf", "b = two\n"));
    builder.machine.run(&["upgrade"]).success();
    let three = builder
        .machine
        .publish(&Os::new("3").with("usr/etc/prog/prog.conf", "c = three\n").with("usr/etc/new/file", "x\n"));
    builder.case("upgrade", &["upgrade"], &name(&three));
    builder.case("rollback", &["rollback", "--to", &name(&two)], &name(&two));
    builder.machine.publish(&Os::new("4"));
    let running = format!("sapwood={}", name(&two));
    // The running system stages an update; its /etc changes; it shuts down.
    let four = builder.machine.publish(&Os::new("5"));
    builder.case("stage", &["upgrade", "--running", &running], &name(&two));
    builder.machine.run(&["upgrade", "--running", &running]).success();
    let etc = builder.machine.deployment(&name(&two)).join("etc");
    fs::write(etc.join("hosts"), "changed late\n").expect("writable");
    fs::remove_file(etc.join("mine")).expect("it exists");
    builder.case("finalise", &["boot", "finalise", "--running", &running], &name(&four));
    builder.machine.run(&["boot", "finalise", "--running", &running]).success();
    let trial = format!("sapwood={}", name(&four));
    builder.case("bless", &["boot", "bless", "--running", &trial], &name(&four));
    builder.case("undeploy", &["undeploy", &name(&two)], &name(&four));
    // A deployment that was pinned until now, and the files that only it needs.
    let running = format!("sapwood={}", name(&four));
    for version in ["6", "7"] {
        builder.machine.publish(&Os::new(version));
        builder.machine.run(&["upgrade", "--finalise-now", "--running", &running]).success();
        builder.machine.run(&["pin", "0"]).success();
    }
    builder.machine.run(&["pin", "--unpin", "0"]).success();
    builder.machine.run(&["pin", "--unpin", "1"]).success();
    builder.machine.run(&["rollback", "--running", &running]).success();
    builder.case("cleanup", &["cleanup", "--running", &running], &name(&four));
    let again = format!("main/{}.1", &four[..12]);
    builder.case("kargs", &["kargs", "--append-if-missing", "debug", "--finalise-now", "--running", &running], &again);
    builder
}

fn kill_everywhere(loader: &'static str) {
    let sandbox = Sandbox::new(&format!("kill-{loader}"));
    // In memory, since the order of calls is tested and not the speed of a disk.
    let place = sandbox.tmpfs("memory", 1 << 30);
    let builder = build_cases(&place, loader);
    let (next, all) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(case) = builder.cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let figures = run_case(case, &place, &builder.machine.publisher);
                    all.lock().expect("no thread failed").push((case.name, figures));
                }
            });
        }
    });
    let all = all.into_inner().expect("no thread failed");
    let sum = |of: fn(&Figures) -> usize| all.iter().map(|(_, figures)| of(figures)).sum::<usize>();
    for (name, figures) in &all {
        println!("{loader} {name}: {figures:?}");
    }
    let (steps, killed) = (sum(|f| f.steps), sum(|f| f.killed));
    println!(
        "{loader}: {steps} steps, {killed} killed, {} old and {} new menus seen, lost: 0",
        sum(|f| f.old),
        sum(|f| f.new)
    );
    assert!(killed * 10 >= steps * 9, "only {killed} of {steps} were killed");
    assert!(sum(|f| f.old) > 0 && sum(|f| f.new) > 0, "only one side of the change was seen");
}

#[test]
fn menu_boots_after_a_kill_at_every_step_systemd_boot() {
    kill_everywhere("systemd-boot");
}

#[test]
fn menu_boots_after_a_kill_at_every_step_grub() {
    kill_everywhere("grub");
}

#[test]
fn menu_boots_after_a_kill_at_every_step_extlinux() {
    kill_everywhere("extlinux");
}
