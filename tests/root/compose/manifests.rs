//! Manifests with the keys of public rpm-ostree projects are read as they are; what their keys ask dnf for is what is installed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::fixture::{Composer, mount};
use super::rpm::DemoRepository;
use crate::common::sandbox::{Sandbox, run};

fn write(directory: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        fs::write(directory.join(name), text).expect("writable");
    }
}

fn check(file: &Path) -> crate::common::sandbox::Run {
    run(env!("CARGO_BIN_EXE_sapwood"), ["compose".as_ref(), "--check".as_ref(), file.as_os_str()])
}

#[test]
fn manifests_of_rpm_ostree_are_read_as_they_are() {
    let sandbox = Sandbox::new("compose-manifests");
    let directory = sandbox.join("manifests");
    fs::create_dir_all(&directory).expect("writable");
    write(
        &directory,
        &[
            (
                "core.yaml",
                "variables: {stream: next, old: false}\nref: core/${basearch}/${stream}\nreleasever: 44\nrepos: [main, pool]\n\
                 include: [shared.yaml]\nrojig: {name: core, summary: s, license: MIT}\nlockfile-repos: [pool]\n\
                 conditional-include:\n- {if: old == false, include: {packages: [nano], repos: [extra]}}\n\
                 - {if: [old == true], include: absent.yaml}\ncontainer-cmd: [/sbin/init]\n\
                 packages-ppc64: [a]\npackages-loongarch64: [b]\npackages:\n# all are comments\nmodules:\n",
            ),
            (
                "shared.yaml",
                "boot-location: modules\ncliwrap: true\ncliwrap-binaries: [kernel-install]\nedition: 2024\nrpmdb: sqlite\n\
                 check-passwd: {type: file, filename: passwd}\ncheck-groups: {type: data, entries: {root: 0, adm: [3]}}\n\
                 repo-packages: [{repo: pool, packages: [ignition]}]\nima: false\nrepo_metadata: disabled\n",
            ),
            ("passwd", "root:x:0:0::/root:/bin/bash\n"),
            (
                "old.json",
                "{\"comment\": \"c\", \"osname\": \"o\", \"ref\": \"old/7\", \"repos\": [\"base\"], \"packages\": [\"a b\"],\n\
                 \"bootstrap_packages\": [\"filesystem\"], \"default_target\": \"multi-user.target\", \"gpg_key\": \"A\"}",
            ),
            (
                "bad.yaml",
                "ref: a/b\nrepos: main\nunits: ssh.service\ninclude: worse.yaml\nima: true\nextensions: [x]\n",
            ),
            (
                "worse.yaml",
                "packages: nano\npackages: [vim]\nconditional-include:\n- {if: nope == 1, include: x.yaml}\n",
            ),
        ],
    );
    let read = check(&directory.join("core.yaml"));
    assert!(read.text().contains("core/") && read.text().contains("can be used"), "{} {}", read.text(), read.stderr);
    let notes: Vec<&str> = read.stderr.lines().filter(|line| line.starts_with("note: ")).collect();
    let [note] = notes[..] else { panic!("one note: {}", read.stderr) };
    for key in ["rojig", "container-cmd", "cliwrap", "boot-location", "edition", "repo_metadata", "lockfile-repos"] {
        assert!(note.contains(&format!("'{key}'")), "{key}: {note}");
    }
    let read = check(&directory.join("old.json"));
    assert!(read.text().contains("old/7") && read.stderr.contains("'osname'"), "{}", read.stderr);
    let message = check(&directory.join("bad.yaml")).failure(1);
    for problem in [
        "bad.yaml: line 2, column 8: 'repos': expected a list",
        "bad.yaml: line 3, column 8: 'units': expected a list",
        "bad.yaml: line 5, column 1: 'ima' is not supported",
        "bad.yaml: line 6, column 1: 'extensions' is not supported",
    ] {
        assert!(message.contains(problem), "{problem}:\n{message}");
    }
}

#[test]
fn dnf_installs_what_the_manifest_names_and_no_more() {
    let demo = DemoRepository::shared();
    let sandbox = Sandbox::new("compose-manifest-dnf");
    let composer = Composer { cache: sandbox.join("cache"), ..Composer::new(&sandbox.join("c")) };
    let file = sandbox.join("demo-main.yaml");
    fs::create_dir_all(sandbox.join("files/sub")).expect("writable");
    write(&sandbox.join("files"), &[("one", "1"), ("sub/two", "2")]);
    let keys = "ref: demo/main\nrecommends: true\nexclude-packages: [demo-doc]\nadd-files: [[files, /usr/share/files]]\n\
        repo-packages: [{repo: demo, packages: [demo-lib]}]\n";
    demo.treefile(&file, keys);
    let id = composer.compose(&[&file.to_string_lossy()]);
    let mounted = mount(&composer.repository, "demo/main", &sandbox);
    let database = mounted.path().join("usr/lib/sysimage/rpm");
    let names = run("rpm", ["--dbpath".as_ref(), database.as_os_str(), "-qa".as_ref()]).success();
    assert!(names.contains("demo-lib-") && !names.contains("demo-doc"), "{names}");
    assert_eq!(fs::read_to_string(mounted.path().join("usr/share/files/sub/two")).expect("added"), "2");
    // A lock is written when it is asked for, also if there is nothing new, and others can read it.
    let lock = sandbox.join("lock");
    let again = composer.compose(&["--write-lock", &lock.to_string_lossy(), &file.to_string_lossy()]);
    assert_eq!(again, id);
    assert_eq!(fs::metadata(&lock).expect("written").permissions().mode() & 0o777, 0o644);
    demo.treefile(&file, &keys.replace("repo: demo", "repo: other"));
    let message = composer.run(&["--dry-run", &file.to_string_lossy()]).failure(1);
    assert!(message.contains("'repo-packages': 'other' is not in 'repos'"), "{message}");
}
