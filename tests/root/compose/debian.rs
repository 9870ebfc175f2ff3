//! Composes of Debian's minbase: reproducibility, what dpkg reports about the result, locks, package lists and bills of
//! materials.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::fixture::{Composer, cache, chroot, example, minimal};
use crate::common::programs;
use crate::common::sandbox::{Sandbox, finish_within, run};

/// Id of an ordinary user with subordinate ids, known in the sandbox only.
const USER: u32 = 4711;

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn an_ordinary_user_with_a_lock_makes_the_same_commit() {
    let expected = minimal();
    let sandbox = Sandbox::new("compose-user");
    for (file, line) in [
        ("passwd", format!("composer:x:{USER}:{USER}::/home:/bin/sh\n")),
        ("group", format!("composer:x:{USER}:\n")),
        ("subuid", format!("{USER}:300000:65536\n")),
        ("subgid", format!("{USER}:300000:65536\n")),
    ] {
        let (own, real) = (sandbox.join(file), Path::new("/etc").join(file));
        fs::write(&own, fs::read_to_string(&real).unwrap_or_default() + &line).expect("writable");
        fs::set_permissions(&own, fs::Permissions::from_mode(0o644)).expect("own");
        if !real.exists() {
            fs::write(&real, "").expect("root may");
        }
        run("mount", [Path::new("--bind"), &own, &real]).success();
    }
    // A directory that the user may enter, since the build's folder may be closed to other users.
    let home = sandbox.directory("home");
    run("mount", ["-t", "tmpfs", "-o", "mode=1777,size=3g", "tmpfs", "/srv"]).success();
    fs::copy(programs::sapwood(), "/srv/sapwood").expect("there is room");
    for file in [example("debian-minimal.yaml"), expected.lock()] {
        fs::copy(&file, Path::new("/srv").join(file.file_name().expect("a file"))).expect("there is room");
    }
    fs::set_permissions("/srv/lock", fs::Permissions::from_mode(0o644)).expect("own");
    run("cp", ["-r".as_ref(), cache().join("apt/archives").as_os_str(), "/srv/archives".as_ref()]).success();
    fs::create_dir_all("/srv/cache/apt").expect("there is room");
    fs::rename("/srv/archives", "/srv/cache/apt/archives").expect("same place");
    run("chown", ["-R", "--", &format!("{USER}:{USER}"), "/srv/cache"]).success();
    drop(home);
    let as_user = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args([
            &format!("--reuid={USER}"),
            &format!("--regid={USER}"),
            "--clear-groups",
            "/srv/sapwood",
            "--repo",
        ]);
        command.arg("/srv/repo").args(arguments).env("HOME", "/srv").env_remove("XDG_RUNTIME_DIR").current_dir("/srv");
        finish_within(command, Duration::from_secs(1500))
    };
    as_user(&["init"]).success();
    let arguments = ["compose", "--cachedir", "/srv/cache", "--workdir", "/srv/work", "--lock", "/srv/lock"];
    let printed = as_user(&[&arguments[..], &["/srv/debian-minimal.yaml"]].concat()).success();
    assert_eq!(printed.lines().last(), Some(expected.id.as_str()), "root's and the user's commit differ");
    assert_eq!(fs::read_dir("/srv/work").expect("it exists").count(), 0, "the place to work in is empty again");
}

#[test]
fn dpkg_verifies_the_composed_root_and_programs_run() {
    let sandbox = Sandbox::new("compose-verify");
    let mounted = minimal().mount(&sandbox);
    let root = mounted.path().to_string_lossy().into_owned();
    let admin = format!("--admindir={root}/var/lib/dpkg");
    // dpkg misses what exists once per machine, or belongs to /var: see `compose::layout`.
    let report = run("dpkg", [&format!("--root={root}"), &admin, "--verify"]).text();
    let unexpected: Vec<&str> = report.lines().filter(|line| !line.contains(" /var/")).collect();
    assert!(unexpected.is_empty(), "dpkg --verify:\n{}", unexpected.join("\n"));
    let audit = run("dpkg", [&format!("--root={root}"), &admin, "--audit"]).success();
    assert_eq!(audit, "");
    // It runs as it is: alternatives, users and the package database are in their places.
    let programs = "dpkg --version && perl -e 'print 6*7' && apt-get --version && awk 'BEGIN { print 7*7 }' && \
        getent passwd man && dpkg -l bash";
    let said = chroot(mounted.path(), &["/bin/sh", "-c", programs]).success();
    for expected in ["42", "49", "man:x:6:12:", "ii  bash"] {
        assert!(said.contains(expected), "no {expected} in {said}");
    }
}

#[test]
fn package_list_owners_and_sbom_agree_with_dpkg() {
    let shared = minimal();
    let sandbox = Sandbox::new("compose-lists");
    let mounted = shared.mount(&sandbox);
    let root = mounted.path();
    let admin = format!("--admindir={}/var/lib/dpkg", root.display());
    let format = "${Package} ${Version} ${Architecture} ${source:Package}\n";
    let expected: BTreeSet<String> =
        run("dpkg-query", [admin.as_str(), "-W", "-f", format]).success().lines().map(str::to_owned).collect();
    assert!(expected.len() > 60, "{} packages", expected.len());
    let list = shared.sapwood(&["db", "list", shared.name]);
    let listed: BTreeSet<String> =
        list.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(listed, expected);
    let json: serde_json::Value =
        serde_json::from_str(&shared.sapwood(&["db", "list", "--json", shared.name])).expect("JSON");
    for package in json["packages"].as_array().expect("a list") {
        let file = fs::read_dir(cache().join("apt/archives")).expect("listable").flatten().find(|entry| {
            let start =
                format!("{}_{}_", package["name"].as_str().expect("text"), package["version"].as_str().expect("text"));
            entry.file_name().to_string_lossy().starts_with(&start.replace(':', "%3a"))
        });
        let file = file.unwrap_or_else(|| panic!("{package} is not in the cache")).path();
        let sum = run("sha256sum", [&file]).success();
        assert!(sum.starts_with(package["sha256"].as_str().expect("text")), "{package}");
    }
    let bill: serde_json::Value =
        serde_json::from_str(&text(&root.join("usr/share/sapwood/sbom.spdx.json"))).expect("JSON");
    assert_eq!(bill["packages"].as_array().expect("a list").len(), expected.len() + 1);
    assert_owners(shared.name, root, &admin);
}

/// Compares `whence` with dpkg for every file of some packages. Of a directory `whence` names the packages that have files in
/// it.
fn assert_owners(name: &str, root: &Path, admin: &str) {
    let mut paths = BTreeSet::new();
    for package in ["bash", "libc6", "coreutils", "base-files", "passwd"] {
        let files = run("dpkg-query", [admin, "-L", package]).success();
        paths.extend(files.lines().filter(|line| line.starts_with('/')).map(|line| (line.to_owned(), package)));
    }
    let is_file = |path: &str| root.join(&path[1..]).symlink_metadata().is_ok_and(|metadata| !metadata.is_dir());
    let wanted: Vec<&(String, &str)> = paths
        .iter()
        .filter(|(path, _)| (path.starts_with("/usr/") || path.starts_with("/bin/")) && is_file(path))
        .collect();
    let mut checked = 0;
    for chunk in wanted.chunks(200) {
        let arguments: Vec<&str> =
            ["whence", "--json", name].into_iter().chain(chunk.iter().map(|(path, _)| path.as_str())).collect();
        let answers: serde_json::Value = serde_json::from_str(&minimal().sapwood(&arguments)).expect("JSON");
        for (answer, (path, package)) in answers.as_array().expect("a list").iter().zip(chunk) {
            let names: Vec<&str> =
                answer["packages"].as_array().expect("a list").iter().filter_map(|p| p["name"].as_str()).collect();
            assert!(names.contains(package), "{path}: {names:?}, not {package}");
            checked += 1;
        }
    }
    assert!(checked > 300, "only {checked} paths were checked");
}

#[test]
fn unchanged_inputs_are_not_composed_again() {
    let shared = minimal();
    let touched = shared.lock().with_file_name("touched");
    let file = example("debian-minimal.yaml");
    let (file, touch) = (file.to_string_lossy(), touched.to_string_lossy());
    let run = shared.composer.run(&["--unchanged-exit-77", "--touch-if-changed", &touch, &file]);
    assert_eq!((run.status.code(), run.text().as_str()), (Some(77), shared.id.as_str()), "{}", run.stderr);
    assert!(!run.stderr.contains("installing"), "{}", run.stderr);
    assert!(!touched.exists());
    let plan = shared.composer.run(&["--dry-run", &file]).success();
    assert!(plan.ends_with("0 of them changed; nothing changed since the last commit"), "{plan}");
    let json: serde_json::Value =
        serde_json::from_str(&shared.composer.run(&["--dry-run", "--json", &file]).success()).expect("JSON");
    assert_eq!(json["unchanged"], true);
    shared.composer.assert_no_leftovers();
}

#[test]
fn settings_of_a_changed_treefile_are_in_the_commit() {
    let shared = minimal();
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("compose-change");
    crate::common::sandbox::remove_tree(&directory);
    let composer = Composer::new(&directory);
    let package = super::failures::deb(
        &directory,
        "demo-hello",
        "1.2-3",
        "Depends: adduser\n",
        &[("postinst", "#!/bin/sh\nset -e\nadduser --system --group --no-create-home demo-hello\n[ -e /dev/null ]\n")],
    );
    fs::write(directory.join("motd"), "hello\n").expect("writable");
    let base = example("debian-minimal.yaml");
    let treefile = directory.join("changed.yaml");
    let yaml = format!(
        "include: {}\npackages: [{}, ssl-cert]\nkeep-identities: [/etc/kept.key]\nexclude-packages: [tzdata]\nadd-files: [[motd, /etc/motd]]\nremove-files: [/usr/share/lintian]\n\
         remove-from-packages: [[bash, '/usr/share/doc/.*']]\nmachineid-compat: false\nautomatic-version-prefix: '12'\nmutate-os-release: '12'\n\
         add-commit-metadata: {{demo.key: value}}\ncheck-passwd: {{type: previous}}\n\
         postprocess:\n  - |\n    #!/bin/sh\n    set -e\n    id -u; ls -A / > /usr/share/seen; hostname >> /usr/share/seen\n    cat /proc/net/dev >> /usr/share/seen\n  - echo second >> /usr/share/seen\n  - for name in kept made; do echo '-----BEGIN PRIVATE KEY-----' > /etc/$name.key; done\n",
        base.display(),
        package.display()
    );
    fs::write(&treefile, yaml).expect("writable");
    // On top of the shared commit, in a separate repository.
    run(
        "cp",
        [
            "-a".as_ref(),
            shared.composer.repository.path().join(".").as_os_str(),
            composer.repository.path().as_os_str(),
        ],
    )
    .success();
    let id = composer.compose(&[&treefile.to_string_lossy()]);
    let sapwood = |arguments: &[&str]| composer.repository.run(arguments).success();
    let name = shared.name;
    let changes = sapwood(&["db", "diff", &format!("{name}^"), name]);
    let names: Vec<&str> = changes.lines().map(|line| line.rsplitn(3, ' ').last().unwrap_or_default()).collect();
    assert_eq!(names, ["+ demo-hello", "+ libssl3", "+ openssl", "+ ssl-cert", "- tzdata"], "{changes}");
    assert!(changes.starts_with("+ demo-hello 1.2-3 (all)\n"), "{changes}");
    let log = sapwood(&["log", name]);
    assert!(log.contains(&id[..12]) && log.contains(&shared.id[..12]), "{log}");
    let seen = sapwood(&["cat", &format!("{name}:/usr/share/seen")]);
    assert!(seen.contains("localhost") && seen.ends_with("second") && !seen.contains("eth0"), "{seen}");
    assert!(sapwood(&["cat", &format!("{name}:/usr/lib/os-release")]).contains("IMAGE_VERSION='12'"));
    assert_eq!(sapwood(&["cat", &format!("{name}:/etc/motd")]), "hello");
    let shown: serde_json::Value = serde_json::from_str(&sapwood(&["show", "--json", name])).expect("JSON");
    assert_eq!(shown["commit"]["extra"]["demo.key"], "value");
    let paths = sapwood(&["ls", "-R", &format!("{name}:/")]);
    // What must differ on each machine is not in a commit: a script of ssl-cert made a key and its certificate.
    assert!(paths.contains("/etc/kept.key") && paths.contains("/etc/ssl/private"), "{paths}");
    for gone in ["/etc/made.key", "ssl-cert-snakeoil.key", "ssl-cert-snakeoil.pem"] {
        assert!(!paths.contains(gone), "{gone} is in the commit");
    }
    for gone in ["/usr/share/lintian", "/usr/share/doc/bash/copyright", "/etc/machine-id", "/usr/share/zoneinfo"] {
        assert!(!paths.contains(gone), "{gone} is still there");
    }
    let passwd = sapwood(&["cat", &format!("{name}:/etc/passwd")]);
    assert!(passwd.contains("demo-hello:x:1"), "{passwd}");
    assert!(sapwood(&["cat", &format!("{name}:/usr/lib/sysusers.d/00-sapwood.conf")]).contains("u demo-hello 1"));
    composer.assert_no_leftovers();
}

#[test]
fn lock_is_obeyed_or_the_missing_package_is_named() {
    let shared = minimal();
    let lock = text(&shared.lock());
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("compose-lock");
    crate::common::sandbox::remove_tree(&directory);
    let composer = Composer::new(&directory);
    let with = |text: &str, file: &Path| {
        let path = directory.join("lock");
        fs::write(&path, text).expect("writable");
        composer.run(&["--dry-run", "--lock", &path.to_string_lossy(), &file.to_string_lossy()])
    };
    let minimal_file = example("debian-minimal.yaml");
    let bash = lock.lines().find(|line| line.contains("\"name\":\"bash\"")).expect("bash is locked");
    let version: serde_json::Value = serde_json::from_str(bash.trim().trim_end_matches(',')).expect("JSON");
    let (version, sum) = (version["version"].as_str().expect("text"), version["sha256"].as_str().expect("text"));
    with(&lock, &minimal_file).success();
    let message = with(&lock.replace(version, "9.9-9"), &minimal_file).failure(1);
    assert!(message.contains("no source has bash 9.9-9"), "{message}");
    let message = with(&lock.replace(sum, &"0".repeat(64)), &minimal_file).failure(1);
    assert!(message.contains("bash") && message.contains("another checksum"), "{message}");
    let without = lock.replace(&format!("{bash}\n"), "");
    let message = with(&without, &minimal_file).failure(1);
    assert!(message.contains("the lock cannot be kept"), "{message}");
    let more = directory.join("more.yaml");
    fs::write(&more, format!("include: {}\npackages: [nano]\n", minimal_file.display())).expect("writable");
    let message = with(&lock, &more).failure(1);
    assert!(message.contains("nano"), "{message}");
    let message = with("{}", &minimal_file).failure(1);
    assert!(message.contains("cannot use the lock"), "{message}");
}

#[test]
fn root_made_by_another_tool_is_committed_and_not_changed() {
    let shared = minimal();
    let sandbox = Sandbox::new("compose-from-root");
    let root = sandbox.join("given");
    // A root as debootstrap leaves it: /etc and /var in their places, logs, a host name.
    shared.sapwood(&["export", shared.name, &root.to_string_lossy()]);
    fs::write(root.join("var/log/dpkg.log"), "x").expect("writable");
    fs::write(root.join("etc/hostname"), "builder\n").expect("writable");
    let composer = Composer::new(&sandbox.join("c"));
    let before = crate::common::facts::Facts::of(&root, crate::common::facts::Scope::All);
    let arguments = ["--from-root", &root.to_string_lossy(), "--ref", "given/root"];
    let first = composer.compose(&arguments);
    let again = composer.run(&[&arguments[..], &["--unchanged-exit-77"]].concat());
    assert_eq!((again.status.code(), again.text()), (Some(77), first), "{}", again.stderr);
    let after = crate::common::facts::Facts::of(&root, crate::common::facts::Scope::All);
    before.assert_same(&after, "the given root was changed");
    let sapwood = |arguments: &[&str]| composer.repository.run(arguments).success();
    assert_eq!(sapwood(&["db", "diff", "given/root", "given/root"]), "");
    assert!(sapwood(&["ls", "given/root:/usr/etc"]).contains("passwd"));
    assert!(!sapwood(&["ls", "given/root:/usr/etc"]).contains("hostname"));
    assert!(sapwood(&["whence", "given/root", "/usr/bin/dash"]).contains("dash 0."));
    // A treefile may change the result, in a copy of the root.
    let treefile = sandbox.join("more.yaml");
    fs::write(
        &treefile,
        "ref: given/more\ndistribution: debian\ncontainer: true\npostprocess: ['echo x > /usr/share/x']\n",
    )
    .expect("writable");
    composer.compose(&["--from-root", &root.to_string_lossy(), &treefile.to_string_lossy()]);
    assert_eq!(sapwood(&["cat", "given/more:/usr/share/x"]), "x");
    assert!(!root.join("usr/share/x").exists());
    composer.assert_no_leftovers();
}
