//! Failing composes: each names what failed and why, commits nothing, leaves no files, and the next compose works.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::fixture::{Composer, example};
use super::rpm::DemoRepository;
use crate::common::sandbox::{Sandbox, finish_within, run};

/// Builds a Debian package that has only scripts and dependencies.
pub fn deb(directory: &Path, name: &str, version: &str, fields: &str, scripts: &[(&str, &str)]) -> PathBuf {
    let tree = directory.join(format!("{name}.tree"));
    fs::create_dir_all(tree.join("DEBIAN")).expect("writable");
    fs::create_dir_all(tree.join("usr/share/demo")).expect("writable");
    fs::write(tree.join("usr/share/demo").join(name), version).expect("writable");
    let control = format!(
        "Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: Demo <demo@example.org>\n{fields}Description: demo\n"
    );
    fs::write(tree.join("DEBIAN/control"), control).expect("writable");
    for (script, text) in scripts {
        let path = tree.join("DEBIAN").join(script);
        fs::write(&path, text).expect("writable");
        run("chmod", ["755".as_ref(), path.as_os_str()]).success();
    }
    let file = directory.join(format!("{name}_{version}_all.deb"));
    run("dpkg-deb", ["--build".as_ref(), "--root-owner-group".as_ref(), tree.as_os_str(), file.as_os_str()]).success();
    file
}

#[test]
fn apt_failures_name_the_packages_and_the_reason() {
    let sandbox = Sandbox::new("compose-apt-failures");
    let composer = Composer::new(&sandbox.join("c"));
    let orphan = deb(sandbox.path(), "demo-orphan", "1.0", "Depends: demo-nowhere (>= 3)\n", &[]);
    let broken = sandbox.join("broken_1_all.deb");
    fs::write(&broken, "no package").expect("writable");
    let base = example("debian-minimal.yaml");
    let failing = |name: &str, yaml: &str| {
        let file = sandbox.join(&format!("{name}.yaml"));
        fs::write(&file, format!("include: {}\nref: failing/{name}\n{yaml}", base.display())).expect("writable");
        let message = composer.run(&[&file.to_string_lossy()]).failure(1);
        composer.assert_nothing_left(&format!("failing/{name}"));
        message
    };
    let message = failing("unknown", "packages: [bash, no-such-package, neither-this]\n");
    assert!(message.contains("no source has no-such-package, neither-this"), "{message}");
    let message = failing("orphan", &format!("packages: [{}]\n", orphan.display()));
    assert!(message.contains("cannot be installed together") && message.contains("demo-nowhere"), "{message}");
    let message = failing("excluded", "exclude-packages: [libc6]\n");
    assert!(message.contains("libc6"), "{message}");
    let message = failing("both", "packages: [nano]\nexclude-packages: [nano]\n");
    assert!(message.contains("nano is both in"), "{message}");
    let message = failing("file", &format!("packages: [{}]\n", broken.display()));
    assert!(message.contains("broken_1_all.deb"), "{message}");
    let message = failing("missing", "packages: [./none.deb]\n");
    assert!(message.contains("there is no such file"), "{message}");
    let message = failing("trusted", "apt-sources: 'deb [trusted=yes] file:///nowhere ./'\n");
    assert!(message.contains("switches off the verification") && message.contains("unsigned-repos"), "{message}");
    // No server listens there.
    let message = failing("network", "apt-sources: 'deb http://127.0.0.1:1/debian bookworm main'\n");
    assert!(message.contains("cannot use the package sources") && message.contains("127.0.0.1"), "{message}");
    let message = failing("release", "releasever: nosuchsuite\n");
    assert!(message.contains("apt knows no source of debian nosuchsuite"), "{message}");
    let message = failing("number", "releasever: 12\n");
    assert!(message.contains("'releasever' is the suite"), "{message}");
    let message = failing("virtual", "packages: [mail-transport-agent]\n");
    assert!(message.contains("a virtual package") && message.contains("postfix"), "{message}");
    let message = failing("comparison", "packages: [\"'z >= 4'\"]\n");
    assert!(message.contains("line 3, column 1: 'packages': 'z >= 4' is not understood"), "{message}");
    let message = failing("foreign", "packages: ['libc6:m68k']\n");
    assert!(message.contains("is for another architecture"), "{message}");
    let message = failing("key", "package: [nano]\n");
    assert!(message.contains("line 3, column 1: there is no key 'package'; did you mean 'packages'?"), "{message}");
}

#[test]
fn unsigned_or_wrongly_signed_archive_is_refused() {
    let sandbox = Sandbox::new("compose-apt-signatures");
    let composer = Composer { cache: sandbox.join("cache"), ..Composer::new(&sandbox.join("c")) };
    let archive = sandbox.directory("archive");
    deb(&archive, "demo-signed", "1.0", "", &[]);
    let mut index = std::process::Command::new("dpkg-scanpackages");
    index.arg(".").current_dir(&archive);
    fs::write(archive.join("Packages"), finish_within(index, Duration::from_secs(60)).success() + "\n")
        .expect("writable");
    let sum = run("sha256sum", [archive.join("Packages")]).success();
    let size = fs::metadata(archive.join("Packages")).expect("it exists").len();
    let release = format!(
        "Suite: demo\nCodename: demo\nDate: Mon, 06 Jan 2025 00:00:00 UTC\nSHA256:\n {} {size} Packages\n",
        &sum[..64]
    );
    fs::write(archive.join("Release"), release).expect("writable");
    let key = |name: &str| {
        let home = sandbox.directory(name);
        run("chmod", ["700".as_ref(), home.as_os_str()]).success();
        let gpg = |arguments: &[&str]| {
            let mut command = std::process::Command::new("gpg");
            command.args(["--batch", "--quiet", "--homedir"]).arg(&home).args(arguments);
            finish_within(command, Duration::from_secs(120)).success()
        };
        gpg(&["--passphrase", "", "--quick-generate-key", "Demo <demo@example.org>", "rsa2048", "sign", "never"]);
        let public = sandbox.join(&format!("{name}.gpg"));
        gpg(&["--output", &public.to_string_lossy(), "--export"]);
        gpg(&["--armor", "--output", &sandbox.join(&format!("{name}.asc")).to_string_lossy(), "--export"]);
        let (release, signed) = (archive.join("Release"), archive.join("InRelease"));
        let _ = fs::remove_file(&signed);
        gpg(&["--output", &signed.to_string_lossy(), "--clearsign", &release.to_string_lossy()]);
        run("gpgconf", ["--homedir".as_ref(), home.as_os_str(), "--kill".as_ref(), "all".as_ref()]);
        public
    };
    let refused = |keys: &Path, name: &str| {
        let file = sandbox.join("signed.yaml");
        let source = format!("deb [signed-by={}] copy:{} ./", keys.display(), archive.display());
        let yaml = format!(
            "ref: {name}\nengine: apt\nvariant: essential\ncontainer: true\napt-sources: '{source}'\npackages: [demo-signed]\n"
        );
        fs::write(&file, yaml).expect("writable");
        let run = composer.run(&["--dry-run", &file.to_string_lossy()]);
        composer.assert_nothing_left(name);
        run
    };
    let good = key("good");
    refused(&good, "signed/good").success();
    // Beside the treefile, a key in text form can be named without a path.
    refused(Path::new("good.asc"), "signed/beside").success();
    let message = refused(Path::new("good.gpg"), "signed/binary").failure(1);
    assert!(message.contains("is not a key in text form"), "{message}");
    let _other = key("other");
    let message = refused(Path::new("good.asc"), "signed/beside-other").failure(1);
    assert!(message.contains("cannot use the package sources"), "{message}");
    let message = refused(&good, "signed/other").failure(1);
    assert!(message.contains("cannot use the package sources"), "{message}");
    fs::remove_file(archive.join("InRelease")).expect("it exists");
    let message = refused(&good, "signed/none").failure(1);
    assert!(message.contains("cannot use the package sources"), "{message}");
    // However a source says that it need not be verified: apt, which gets it, does not take it.
    let uri = format!("copy:{}", archive.display());
    let values = ["yes", "with", "Enable", "TRUE", "1", "on", "force", " yes"];
    let lines = values.iter().flat_map(|value| {
        ["trusted", "TRUSTED", "allow-insecure"].map(|name| format!("deb [{name}={value}] {uri} ./\n"))
    });
    let stanzas = values.iter().flat_map(|value| {
        ["Trusted:", "tRUSTED :", "Trusted:\n", "# x\nTrusted: no\nTrusted:", "Allow-Insecure:\t"]
            .map(|field| format!("Types: deb\nURIs: {uri}\nSuites: ./\n{field} {value}\n"))
    });
    let odd = [format!("deb [ trusted = yes ] {uri} ./\n"), format!("deb [trusted+=yes] {uri} ./\n")];
    for source in lines.chain(stanzas).chain(odd) {
        let file = sandbox.join("unsigned.yaml");
        let indented = source.replace('\n', "\n  ");
        fs::write(
            &file,
            format!("ref: u\nengine: apt\nvariant: essential\ncontainer: true\napt-sources: |\n  {indented}\npackages: [demo-signed]\n"),
        )
        .expect("writable");
        let message = composer.run(&["--dry-run", &file.to_string_lossy()]).failure(1);
        let is_refused =
            ["switches off the verification", "'apt-sources'", "cannot use the package sources", "neither a deb822"];
        assert!(is_refused.iter().any(|text| message.contains(text)), "{source}{message}");
    }
}

#[test]
fn failing_postinst_is_shown_and_cannot_reach_the_machine() {
    let sandbox = Sandbox::new("compose-postinst");
    let composer = Composer::new(&sandbox.join("c"));
    let escape = "mkdir '/tmp/x'; chroot '/tmp/x'; chdir '..' for 1..60; chroot '.'; exec 'ls', '/'";
    let script = [
        "#!/bin/bash\nexec >&2\necho BEGIN\n",
        &format!("echo files; {}\n", super::isolation::PROBE),
        &format!("echo calls; perl - <<'CALLS'\n{}CALLS\n", super::isolation::CALLS),
        &format!("echo escaped; perl -e \"{escape}\"\n"),
        "echo token=$CI_TOKEN.; ls /proc/1/root/\n",
        "echo demo-bad cannot go on\nexit 7\n",
    ]
    .concat();
    let package = deb(sandbox.path(), "demo-bad", "1.0", "", &[("postinst", &script)]);
    let file = sandbox.join("bad.yaml");
    let yaml = format!(
        "ref: bad/postinst\ndistribution: debian\nreleasever: bookworm\nvariant: essential\nrecommends: false\ncontainer: true\npackages: [{}]\n",
        package.display()
    );
    fs::write(&file, yaml).expect("writable");
    let mut command = composer.command(&[&file.to_string_lossy()]);
    command.env("CI_TOKEN", "secret");
    let message = finish_within(command, Duration::from_secs(1500)).failure(1);
    assert!(message.contains("installing packages failed") && message.contains("demo-bad cannot go on"), "{message}");
    let log = message.lines().find_map(|line| line.trim().strip_prefix("all of it is in ")).expect("it names the log");
    let log = fs::read_to_string(log.trim()).expect("the log is kept");
    let report = log.split("BEGIN\n").nth(1).expect("the script ran");
    let (files, rest) = report.split_once("calls\n").expect("it printed that");
    super::isolation::assert_only_own_files(files.strip_prefix("files\n").expect("it printed that"));
    let (calls, rest) = rest.split_once("escaped\n").expect("it printed that");
    assert_eq!(calls, "calls made\n");
    let (escaped, rest) = rest.split_once("token=").expect("it printed that");
    // Beside the root there is what the package manager itself needs, and nothing else of this machine.
    for gone in ["home", "srv", "boot", "opt", "mnt", "media"] {
        assert!(!escaped.lines().any(|name| name == gone), "{escaped}");
    }
    assert!(rest.starts_with(".\n") && rest.contains("/proc/1/root/': Permission denied"), "{rest}");
    composer.assert_nothing_left("bad/postinst");
}

#[test]
fn killed_compose_commits_nothing_and_the_next_one_cleans_up() {
    let demo = DemoRepository::shared();
    let sandbox = Sandbox::new("compose-killed");
    let composer = Composer { cache: sandbox.join("cache"), ..Composer::new(&sandbox.join("c")) };
    let slow = sandbox.join("slow.yaml");
    demo.treefile(&slow, "ref: killed\npostprocess: ['echo waiting-now; while :; do :; done']\n");
    let quick = sandbox.join("quick.yaml");
    demo.treefile(&quick, "ref: killed\n");
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let mut child = composer
            .command(&[&slow.to_string_lossy()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let reached = lines.map_while(Result::ok).any(|line| line.contains("postprocess script 1 of 1"));
        assert!(reached, "the script was never started");
        kill(Pid::from_raw(child.id().cast_signed()), signal).expect("it runs");
        let status = child.wait().expect("a child can be waited for");
        assert!(!status.success(), "{signal}: {status}");
        assert_ne!(
            composer.repository.run(["log", "killed"]).status.code(),
            Some(0),
            "{signal}: something was committed"
        );
        // The processes and mounts of the compose end with it.
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while fs::read_to_string("/proc/thread-self/mountinfo")
            .expect("proc")
            .contains(&*composer.work.to_string_lossy())
        {
            assert!(std::time::Instant::now() < deadline, "{signal}: still mounted");
        }
        if signal != Signal::SIGKILL {
            composer.assert_no_leftovers();
        }
    }
    composer.compose(&[&quick.to_string_lossy()]);
    composer.assert_no_leftovers();
    composer.repository.assert_clean();
}

#[test]
fn failing_script_is_shown_and_sees_nothing_of_the_host() {
    let demo = DemoRepository::shared();
    let sandbox = Sandbox::new("compose-script");
    let composer = Composer { cache: sandbox.join("cache"), ..Composer::new(&sandbox.join("c")) };
    let file = sandbox.join("script.yaml");
    let witness = sandbox.join("witness");
    fs::write(&witness, "x").expect("writable");
    let script = format!(
        "    #!/bin/sh\n    test -e {} && echo sees the host\n    echo $$ is the process\n    ls / ; echo var=$SAPWOOD_TEST_VARIABLE.\n    exit 5\n",
        witness.display()
    );
    demo.treefile(&file, &format!("ref: script\npostprocess:\n  - |\n{script}"));
    let mut command = composer.command(&[&file.to_string_lossy()]);
    command.env("SAPWOOD_TEST_VARIABLE", "leaked");
    let message = finish_within(command, Duration::from_secs(600)).failure(1);
    assert!(message.contains("postprocess script 1 of 1 failed with status 5"), "{message}");
    assert!(message.contains("| 2 is the process") && message.contains("| var=."), "{message}");
    assert!(!message.contains("sees the host"), "{message}");
    composer.assert_nothing_left("script");
}

#[test]
fn full_disk_fails_a_compose_and_leaves_no_files() {
    let demo = DemoRepository::shared();
    let sandbox = Sandbox::new("compose-full");
    let composer = Composer {
        cache: sandbox.join("cache"),
        work: sandbox.tmpfs("work", 3 << 20),
        ..Composer::new(&sandbox.join("c"))
    };
    let file = sandbox.join("full.yaml");
    demo.treefile(&file, "ref: full\n");
    let message = composer.run(&[&file.to_string_lossy()]).failure(1);
    assert!(message.to_lowercase().contains("space"), "{message}");
    let left: Vec<_> = fs::read_dir(&composer.work).expect("listable").collect();
    assert!(left.is_empty(), "{left:?}");
    assert_ne!(composer.repository.run(["log", "full"]).status.code(), Some(0));
    composer.repository.assert_clean();
}
