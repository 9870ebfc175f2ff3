//! Composes of rpm packages that are built here: scripts, capabilities, configuration, users, versions, conflicts, signatures.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use super::fixture::{Composer, chroot, example, mount};
use crate::common::sandbox::{Sandbox, finish_within, remove_tree, run};
use crate::common::web::Web;

/// The rpm repository of `examples/rpm-demo`, built and signed, and served on loopback.
pub struct DemoRepository {
    directory: PathBuf,
    web: Web,
}

impl DemoRepository {
    /// Returns a repository with demo-app 1.0 only, which all tests share.
    pub fn shared() -> &'static Self {
        static SLOT: OnceLock<DemoRepository> = OnceLock::new();
        SLOT.get_or_init(|| Self::build("compose-demo", &["1.0"]))
    }

    /// Builds a repository with these versions of demo-app in a directory of its own.
    pub fn build(name: &str, versions: &[&str]) -> Self {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        remove_tree(&directory);
        let demo = Self { web: Web::serve(&directory), directory };
        demo.rebuild(versions);
        demo
    }

    /// Builds the repository again with other versions.
    pub fn rebuild(&self, versions: &[&str]) {
        let mut command = Command::new(example("rpm-demo/build"));
        command.arg(&self.directory).args(versions).env("DEMO_URL", format!("{}/repo", self.web.url()));
        finish_within(command, Duration::from_secs(300)).success();
    }

    /// Writes a treefile with the lines of `demo.yaml` and these, beside a copy of the `.repo` file.
    pub fn treefile(&self, file: &Path, lines: &str) {
        let directory = file.parent().expect("it has one");
        fs::copy(self.directory.join("demo.repo"), directory.join("demo.repo")).expect("writable");
        fs::copy(example("rpm-demo/demo.yaml"), directory.join("demo.yaml")).expect("writable");
        fs::write(file, format!("include: demo.yaml\n{lines}")).expect("writable");
    }
}

fn composer(sandbox: &Sandbox) -> Composer {
    Composer { cache: sandbox.join("cache"), ..Composer::new(&sandbox.join("c")) }
}

#[test]
fn rpm_verifies_the_composed_root() {
    let demo = DemoRepository::shared();
    let sandbox = Sandbox::new("compose-rpm");
    let composer = composer(&sandbox);
    let file = sandbox.join("demo-main.yaml");
    demo.treefile(&file, "ref: demo/main\n");
    let id = composer.compose(&[&file.to_string_lossy()]);
    let mounted = mount(&composer.repository, "demo/main", &sandbox);
    let root = mounted.path();
    let database = format!("{}/usr/lib/sysimage/rpm", root.display());
    let rpm = |arguments: &[&str]| run("rpm", [&["--dbpath", database.as_str()][..], arguments].concat());
    let names = rpm(&["-qa", "--qf", "%{NAME} %{VERSION}\n"]).success();
    assert!(names.contains("demo-app 1.0") && names.contains("demo-lib 2.3") && !names.contains("demo-doc"), "{names}");
    // rpm itself, run in the root, with its database where this machine's configuration does not look.
    fs::create_dir_all(root.join("tmp/rpm")).expect("a tmpfs");
    let verify =
        run("rpm", ["--root".as_ref(), root.as_os_str(), "--dbpath=/usr/lib/sysimage/rpm".as_ref(), "-Va".as_ref()]);
    let unexpected: Vec<String> =
        verify.text().lines().filter(|line| !is_documented(line)).map(str::to_owned).collect();
    assert!(unexpected.is_empty(), "rpm -Va:\n{}\n{}", unexpected.join("\n"), verify.stderr);
    assert!(run("getcap", [root.join("usr/bin/demo-ping")]).success().ends_with("cap_net_raw=ep"));
    assert_eq!(
        chroot(root, &["/bin/sh", "-c", "demo && cat /opt/demo/vendor 2>/dev/null; cat /usr/lib/opt/demo/vendor"])
            .success(),
        "demo 1.0\nvendor"
    );
    let stat = |path: &str| run("stat", ["-c".as_ref(), "%a %U %h".as_ref(), root.join(path).as_os_str()]).success();
    assert_eq!(stat("usr/share/factory/var/lib/demo/state").split(' ').next(), Some("640"));
    assert!(stat("usr/lib/demo/data").ends_with(" 2"), "a hard link");
    let sapwood = |arguments: &[&str]| composer.repository.run(arguments).success();
    let tmpfiles = sapwood(&["cat", "demo/main:/usr/lib/tmpfiles.d/sapwood-var.conf"]);
    for line in [
        "d /var/lib/demo 0750 demo demo - -",
        "d /var/spool/mail 2775 root root - -",
        "L /var/opt/demo - - - - ../../usr/lib/opt/demo",
        "L /var/lib/rpm - - - - ../../usr/lib/sysimage/rpm",
    ] {
        assert!(tmpfiles.contains(line), "{line}:\n{tmpfiles}");
    }
    assert!(sapwood(&["whence", "demo/main", "/opt/demo/vendor"]).contains("demo-app 1:1.0-1"));
    assert!(sapwood(&["whence", "demo/main", "/etc/demo/generated"]).contains("demo-app"), "a ghost");
    // A compose elsewhere with an empty cache gives the same commit.
    let other = Composer { cache: sandbox.join("cache2"), ..Composer::new(&sandbox.join("other")) };
    assert_eq!(other.compose(&[&file.to_string_lossy()]), id);
}

/// Returns whether `rpm -Va` reports the line by design: /var belongs to the machine, /opt and /usr/local lead there, device
/// directories are mounted over, and user ids and the day in shadow are as `compose::layout` says.
fn is_documented(line: &str) -> bool {
    let path = line.split_whitespace().last().unwrap_or_default();
    let places = [
        "/var",
        "/opt",
        "/home",
        "/root",
        "/srv",
        "/mnt",
        "/media",
        "/usr/local",
        "/tmp",
        "/dev",
        "/proc",
        "/sys",
        "/run",
        "/etc",
        "/boot",
    ];
    let is_config = line.contains(" c ") && ["/etc/passwd", "/etc/group", "/etc/shadow"].contains(&path);
    is_config
        || places.iter().any(|place| {
            path == *place || ["/var", "/opt", "/usr/local"].contains(place) && path.starts_with(&format!("{place}/"))
        })
}

#[test]
fn package_versions_change_and_user_ids_stay() {
    let demo = DemoRepository::build("compose-demo-versions", &["1.0"]);
    let sandbox = Sandbox::new("compose-rpm-versions");
    let composer = composer(&sandbox);
    let file = sandbox.join("demo-main.yaml");
    demo.treefile(&file, "ref: demo/main\n");
    let name = "demo/main";
    let lock = sandbox.join("lock").to_string_lossy().into_owned();
    let first = composer.compose(&["--write-lock", &lock, &file.to_string_lossy()]);
    demo.rebuild(&["1.0", "1.1"]);
    let second = composer.compose(&[&file.to_string_lossy()]);
    let sapwood = |arguments: &[&str]| composer.repository.run(arguments).success();
    let changes = sapwood(&["db", "diff", "--changelogs", &first, &second]);
    assert!(changes.contains("^ demo-app 1:1.0-1 -> 1:1.1-1\n    * Tue Feb 04 2025"), "{changes}");
    assert!(changes.contains("- Fix what 1.0 got wrong.") && !changes.contains("- First."), "{changes}");
    assert!(changes.contains("+ demo-guest 2.3-1 (noarch)"), "{changes}");
    let back = sapwood(&["db", "diff", "--json", &second, &first]);
    assert!(back.contains("\"downgraded\"") && back.contains("\"removed\""), "{back}");
    // demo-guest is installed before demo-app and would take the id that demo had: demo keeps it.
    let passwd = |id: &str| sapwood(&["cat", &format!("{id}:/usr/etc/passwd")]);
    assert!(passwd(&first).contains("demo:x:999:999:") && passwd(&second).contains("demo:x:999:999:"));
    assert!(passwd(&second).contains("guest:x:") && !passwd(&second).contains("guest:x:999"));
    let guest = sapwood(&["show", "--json", &format!("{second}:/usr/share/demo/guest")]);
    assert!(!guest.contains("\"uid\": 999"), "{guest}");
    // The lock still gives the first version, although a newer one is in the repository.
    let again = Composer { cache: sandbox.join("cache"), ..Composer::new(&sandbox.join("again")) };
    assert_eq!(again.run(&["--lock", &lock, &file.to_string_lossy()]).success().lines().last().map(str::len), Some(64));
    assert!(again.repository.run(["db", "list", name]).success().contains("1:1.0-1"));
    fs::remove_file(demo.directory.join("repo/demo-app-1.0-1.x86_64.rpm")).expect("it exists");
    demo.rebuild(&["1.1"]);
    let message = again.run(&["--force", "--lock", &lock, &file.to_string_lossy()]).failure(1);
    assert!(message.contains("the lock cannot be kept") && message.contains("demo-app-1:1.0-1"), "{message}");
}

#[test]
fn dnf_failures_name_the_packages_and_the_reason() {
    let demo = DemoRepository::build("compose-demo-failures", &["1.0"]);
    let sandbox = Sandbox::new("compose-rpm-failures");
    let composer = composer(&sandbox);
    let failing = |name: &str, lines: &str| {
        let file = sandbox.join(&format!("{name}.yaml"));
        demo.treefile(&file, &format!("ref: failing/{name}\n{lines}"));
        let message = composer.run(&[&file.to_string_lossy()]).failure(1);
        composer.assert_nothing_left(&format!("failing/{name}"));
        message
    };
    let message = failing("unknown", "packages: [no-such-package]\n");
    assert!(message.contains("no source has no-such-package"), "{message}");
    let message = failing("orphan", "packages: [demo-orphan]\n");
    assert!(message.contains("cannot be installed together") && message.contains("demo-nowhere"), "{message}");
    let message = failing("rival", "packages: [demo-rival]\n");
    assert!(message.contains("cannot be installed together") && message.contains("demo-rival"), "{message}");
    let message = failing("script", "packages: [demo-failing]\n");
    assert!(message.contains("a script of a package failed") && message.contains("demo-failing"), "{message}");
    let message = failing("repo", "repos: [nowhere]\n");
    assert!(message.contains("no .repo file beside the treefile has nowhere"), "{message}");
    let message = failing("selinux", "selinux: true\ncontainer: false\n");
    assert!(message.contains("there is no policy in the root"), "{message}");
}

#[test]
fn a_package_with_a_broken_signature_is_refused() {
    let demo = DemoRepository::build("compose-demo-signatures", &["1.0"]);
    let sandbox = Sandbox::new("compose-rpm-signatures");
    let composer = composer(&sandbox);
    let file = sandbox.join("demo-main.yaml");
    demo.treefile(&file, "ref: demo/signed\n");
    let compose = || composer.run(&[&file.to_string_lossy()]);
    let index = || {
        let mut command = Command::new("createrepo_c");
        command.arg("--quiet").arg(demo.directory.join("repo"));
        finish_within(command, Duration::from_secs(60));
    };
    // Not signed.
    let package = demo.directory.join("repo/demo-lib-2.3-1.noarch.rpm");
    run("rpmsign", ["--delsign".as_ref(), package.as_os_str()]).success();
    index();
    let message = compose().failure(1);
    assert!(message.contains("not signed") || message.contains("signature"), "{message}");
    composer.assert_nothing_left("demo/signed");
    // An unsigned package is accepted only if both the repository file and the treefile allow it.
    let text = fs::read_to_string(sandbox.join("demo.repo")).expect("it exists");
    fs::write(sandbox.join("demo.repo"), text.replace("gpgcheck=1", "gpgcheck=0")).expect("writable");
    let message = compose().failure(1);
    assert!(message.contains("demo switches off the verification of signatures (gpgcheck=0)"), "{message}");
    fs::write(&file, fs::read_to_string(&file).expect("it exists") + "unsigned-repos: [demo]\n").expect("writable");
    compose().success();
    // The server is gone.
    let mut demo = demo;
    demo.web.stop();
    let message = composer.run(&["--force", &file.to_string_lossy()]).failure(1);
    assert!(message.contains("cannot use the package sources"), "{message}");
}

#[test]
fn rpm_files_and_recommended_packages_are_installed() {
    let demo = DemoRepository::shared();
    let sandbox = Sandbox::new("compose-rpm-local");
    let composer = composer(&sandbox);
    let package = demo.directory.join("repo/demo-guest-2.3-1.noarch.rpm");
    let file = sandbox.join("local.yaml");
    demo.treefile(&file, &format!("ref: demo/local\nrecommends: true\ndocumentation: false\nexclude-packages: [demo-failing]\npackages: [{}]\n", package.display()));
    composer.compose(&[&file.to_string_lossy()]);
    let list = composer.repository.run(["db", "list", "demo/local"]).success();
    assert!(list.contains("demo-guest") && list.contains("demo-doc"), "{list}");
    let paths = composer.repository.run(["ls", "-R", "demo/local:/usr/share"]).success();
    assert!(!paths.contains("demo.1"), "documentation was not asked for: {paths}");
}

#[test]
fn composes_at_the_same_time_share_the_cache_of_dnf() {
    let demo = DemoRepository::shared();
    let sandbox = Sandbox::new("compose-rpm-parallel");
    let cache = sandbox.join("cache");
    let composers: Vec<Composer> = (0..3)
        .map(|number| Composer { cache: cache.clone(), ..Composer::new(&sandbox.join(&format!("c{number}"))) })
        .collect();
    let file = sandbox.join("demo-main.yaml");
    demo.treefile(&file, "ref: demo/main\n");
    let name: &str = &file.to_string_lossy();
    let ids: Vec<String> = std::thread::scope(|scope| {
        let compose = |composer| scope.spawn(move || Composer::compose(composer, &[name]));
        let threads: Vec<_> = composers.iter().map(compose).collect();
        threads.into_iter().map(|thread| thread.join().expect("it composed")).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}
