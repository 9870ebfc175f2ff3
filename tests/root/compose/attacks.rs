//! Treefiles, scripts, packages and given roots that try to reach the machine through Sapwood's own code.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::fixture::Composer;
use super::isolation::{rpm_with_script, small_root};
use super::rpm::DemoRepository;
use crate::common::sandbox::{Run, Sandbox, finish, finish_within, run};

/// A given root, and a composer that takes it.
struct Attack {
    sandbox: Sandbox,
    composer: Composer,
    root: PathBuf,
}

impl Attack {
    fn new(name: &str) -> Self {
        let sandbox = Sandbox::new(name);
        let root = sandbox.directory("root");
        small_root(&root);
        let composer = Composer { cache: sandbox.join("cache"), ..Composer::new(&sandbox.join("c")) };
        Self { sandbox, composer, root }
    }

    /// Returns the compose of the root with these lines in its treefile, not yet started.
    fn command(&self, lines: &str) -> Command {
        let treefile = self.sandbox.join("t.yaml");
        fs::write(&treefile, format!("ref: t/x\ndistribution: debian\n{lines}")).expect("writable");
        self.composer.command(&["--from-root", &self.root.to_string_lossy(), &treefile.to_string_lossy()])
    }

    fn compose(&self, lines: &str) -> Run {
        finish(self.command(lines))
    }

    fn cat(&self, path: &str) -> String {
        self.composer.repository.run(["cat", &format!("t/x:{path}")]).success()
    }
}

/// Returns a command that a shell starts after `before`.
fn after(before: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{before}; exec \"$@\""), "sh"]).arg(command.get_program()).args(command.get_args());
    shell
}

#[test]
fn treefile_text_is_no_macro_of_rpm() {
    let demo = DemoRepository::shared();
    let attack = Attack::new("compose-attack-macros");
    let (file, proof) = (attack.sandbox.join("macros.yaml"), attack.sandbox.join("proof"));
    for lines in [
        format!("install-langs: [\"C\\n%_dbpath %(echo x >{})\"]\n", proof.display()),
        format!("install-langs: ['%(echo x >{})']\n", proof.display()),
        format!("releasever: '%(echo x >{})'\n", proof.display()),
    ] {
        demo.treefile(&file, &format!("ref: t/x\n{lines}"));
        let message = attack.composer.run(&["--dry-run", &file.to_string_lossy()]).failure(1);
        assert!(message.contains("is not one word"), "{message}");
        assert!(!proof.exists(), "{lines}");
    }
}

#[test]
fn descriptors_of_the_caller_do_not_reach_scripts() {
    let attack = Attack::new("compose-attack-descriptors");
    let secret = attack.sandbox.join("secret");
    fs::write(&secret, "secret of the caller\n").expect("writable");
    let lines = "container: true\npostprocess:\n  - \"ls -l /proc/self/fd/ >/usr/lib/fd; cat <&8 >>/usr/lib/fd; \
        ls /proc/self/fd/9/ >>/usr/lib/fd; exit 0\"\n";
    let command = after(&format!("exec 8<{} 9</", secret.display()), &attack.command(lines));
    finish(command).success();
    let seen = attack.cat("/usr/lib/fd");
    assert!(seen.contains("/dev/null") && !seen.contains("secret") && !seen.contains("-> /\n"), "{seen}");
    assert!(!seen.contains("\nproc"), "{seen}");
}

#[test]
fn added_file_is_written_to_no_device_pipe_or_link() {
    let attack = Attack::new("compose-attack-added");
    let at = |name: &str| attack.root.join("usr/lib").join(name);
    run("mkfifo", [at("pipe")]).success();
    run("mknod", ["-m", "666", &at("disk").to_string_lossy(), "b", "7", "250"]).success();
    symlink(attack.sandbox.join("outside"), at("link")).expect("writable");
    fs::create_dir(at("directory")).expect("writable");
    fs::write(at("first"), "old\n").expect("writable");
    fs::hard_link(at("first"), at("second")).expect("writable");
    let new = attack.sandbox.join("new");
    fs::write(&new, "new\n").expect("writable");
    let add = |source: &Path, name: &str| {
        format!("container: true\nadd-files: [[\"{}\", /usr/lib/{name}]]\n", source.display())
    };
    for (name, kind) in [("pipe", "fifo"), ("disk", "block"), ("link", "symlink"), ("directory", "directory")] {
        let message = attack.compose(&add(&new, name)).failure(1);
        assert!(message.contains("what lies there is no file but a") && message.contains(kind), "{name}: {message}");
    }
    for source in [at("pipe"), at("disk"), PathBuf::from("/dev/zero")] {
        let message = attack.compose(&add(&source, "first")).failure(1);
        assert!(message.contains("not a regular file"), "{}: {message}", source.display());
    }
    attack.compose(&add(&new, "first")).success();
    assert_eq!((attack.cat("/usr/lib/first"), attack.cat("/usr/lib/second")), ("new".to_owned(), "old".to_owned()));
    assert!(!attack.sandbox.join("outside").exists());
}

#[test]
fn removed_path_cannot_be_above_the_root() {
    let attack = Attack::new("compose-attack-removed");
    for path in ["/..", "/usr/..", "/usr/../..", "/usr/."] {
        let message = attack.compose(&format!("container: true\nremove-files: ['{path}']\n")).failure(1);
        assert!(message.contains("the last part of the path is no name"), "{message}");
    }
    // A package's list of files, which its script may write.
    fs::write(attack.root.join("var/lib/dpkg/info/demo.list"), "/..\n/usr/../..\n/usr/lib/os-release\n")
        .expect("writable");
    attack.compose("container: true\nremove-from-packages: [[demo, '.*']]\n").success();
    assert!(attack.root.join("usr/lib/os-release").exists(), "the given root was changed");
    attack.composer.assert_no_leftovers();
}

#[test]
fn links_at_the_top_do_not_show_the_machine() {
    let attack = Attack::new("compose-attack-links");
    let machine = attack.sandbox.directory("machine");
    for name in ["vmlinuz-9.9-machine", "dracut", "systemctl"] {
        fs::write(machine.join(name), "x").expect("writable");
    }
    let lines = "postprocess:\n  - rm -rf /boot /usr/sbin; ln -s MACHINE /boot; ln -s MACHINE /usr/sbin\n";
    // Neither the machine's kernel nor its dracut is found.
    attack.compose(&lines.replace("MACHINE", &machine.to_string_lossy())).success();
    let commit = attack.composer.repository.run(["show", "--json", "t/x"]).success();
    assert!(!commit.contains("9.9-machine"), "{commit}");
}

#[test]
fn deep_directories_are_refused_and_removed() {
    let attack = Attack::new("compose-attack-deep");
    let double = "p=$p/$p; ".repeat(10);
    let descend = "mkdir -p $p; cd $p; ".repeat(3);
    let lines = format!("container: true\npostprocess:\n  - p=d; {double} cd /usr/lib; {descend} echo x >file\n");
    let message = finish(after("ulimit -n 512", &attack.command(&lines))).failure(1);
    assert!(message.contains("is longer than a path can be"), "{message}");
    attack.composer.assert_nothing_left("t/x");
}

#[test]
fn database_of_any_size_takes_little_memory() {
    let attack = Attack::new("compose-attack-sparse");
    for name in ["info/demo.list", "status"] {
        let file = attack.root.join("var/lib/dpkg").join(name);
        fs::File::options().write(true).open(file).and_then(|file| file.set_len(1 << 40)).expect("a hole");
        let command = after("ulimit -v 3000000", &attack.command("container: true\n"));
        let message = finish(command).failure(1);
        assert!(message.contains("File too large") || message.contains("file too large"), "{message}");
    }
}

#[test]
fn output_of_a_script_does_not_control_the_terminal() {
    let attack = Attack::new("compose-attack-terminal");
    let command = attack.command("container: true\npostprocess:\n  - \"printf '\\\\033]0;title\\\\007\\\\n'\"\n");
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let line: Vec<String> = words.map(|word| format!("'{}'", word.to_string_lossy())).collect();
    let seen = run("script", ["-qec", &line.join(" "), "/dev/null"]).success();
    assert!(seen.contains("postprocess script") && seen.contains("]0;title"), "{seen}");
    assert!(!seen.contains("\u{1b}]0;title"), "{seen}");
}

#[test]
fn script_of_a_package_does_not_find_passwords_of_proxies() {
    let demo = DemoRepository::shared();
    let attack = Attack::new("compose-attack-secrets");
    let work = attack.composer.work.display();
    let script = format!(
        "for open in /proc/[0-9]*/fd/*; do busybox find $open{work}/ 2>/dev/null; done >/usr/lib/walls\nexit 0\n"
    );
    let package = rpm_with_script(&attack.sandbox, &script);
    let file = attack.sandbox.join("walls.yaml");
    demo.treefile(&file, &format!("ref: t/x\npackages: [{}]\n", package.display()));
    let command = attack.composer.command(&[&file.to_string_lossy()]);
    finish_within(command, std::time::Duration::from_secs(300)).success();
    let found = attack.cat("/usr/lib/walls");
    assert!(found.contains(".rpmmacros"), "the script did not leave its root: {found}");
    assert!(!found.contains(".repo") && !found.contains("dnf.conf"), "{found}");
}
