//! SELinux labels of composed files are those that the distribution's `setfiles` and `matchpathcon` give by the same policy.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::fixture::{Composer, server};
use crate::common::sandbox::{Sandbox, finish_within, run};

/// Debian's reference policy, from the package of that name.
const POLICY: &str = "/etc/selinux/default/contexts/files/file_contexts";

#[test]
fn every_path_has_the_label_that_matchpathcon_gives() {
    assert!(Path::new(POLICY).exists(), "{POLICY} is missing: tests/install installs selinux-policy-default");
    let shared = server();
    let sandbox = Sandbox::new("compose-labels");
    let root = sandbox.join("given");
    shared.sapwood(&["export", shared.name, &root.to_string_lossy()]);
    // The policy as its package would install it in the root, and one more alias.
    fs::remove_dir(root.join("etc")).expect("empty");
    fs::rename(root.join("usr/etc"), root.join("etc")).expect("it exists");
    fs::create_dir_all(root.join("etc/selinux")).expect("writable");
    run(
        "cp",
        ["-a".as_ref(), Path::new("/etc/selinux/default").as_os_str(), root.join("etc/selinux/default").as_os_str()],
    )
    .success();
    fs::write(root.join("etc/selinux/config"), "SELINUX=enforcing\nSELINUXTYPE=default\n").expect("writable");
    let files = root.join("etc/selinux/default/contexts/files");
    fs::write(files.join("file_contexts.local"), "/usr/share/demo(/.*)? system_u:object_r:etc_t:s0\n")
        .expect("writable");
    fs::write(files.join("file_contexts.subs"), "/usr/share/alias /usr/bin\n").expect("writable");
    for compiled in ["file_contexts.bin", "file_contexts.homedirs.bin"] {
        let _ = fs::remove_file(files.join(compiled));
    }
    fs::create_dir_all(root.join("usr/share/demo/below")).expect("writable");
    fs::create_dir_all(root.join("usr/share/alias/tool")).expect("writable");
    let composer = Composer::new(&sandbox.join("c"));
    let treefile = sandbox.join("labels.yaml");
    fs::write(&treefile, "ref: labelled\ndistribution: debian\nselinux: true\n").expect("writable");
    composer.compose(&["--from-root", &root.to_string_lossy(), &treefile.to_string_lossy()]);

    let mounted = composer.repository.mount("labelled", &sandbox.join("mnt"), &[]);
    let labels = labels(mounted.path());
    assert!(labels.len() > 5000, "only {} paths", labels.len());
    let policy = mounted.path().join("usr/etc/selinux/default/contexts/files/file_contexts");
    let mut wrong = Vec::new();
    for kind in ["f", "d", "l"] {
        let paths: Vec<&String> = labels.iter().filter(|(_, (of, _))| of == kind).map(|(path, _)| path).collect();
        let mode = if kind == "f" {
            "file"
        } else if kind == "d" {
            "dir"
        } else {
            "lnk_file"
        };
        for chunk in paths.chunks(500) {
            let mut command = Command::new("matchpathcon");
            command.args(["-n", "-N", "-m", mode, "-f"]).arg(&policy);
            command.args(chunk.iter().map(|path| seen_as(path)));
            let expected = finish_within(command, Duration::from_secs(300)).text();
            let expected: Vec<&str> = expected.lines().collect();
            assert_eq!(expected.len(), chunk.len());
            for (path, expected) in chunk.iter().zip(expected) {
                let expected = if expected == "<<none>>" { "" } else { expected };
                let found = &labels[*path].1;
                if found != expected {
                    wrong.push(format!("{path}: {found}, not {expected}"));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} labels are wrong:\n{}",
        wrong.len(),
        labels.len(),
        wrong[..wrong.len().min(20)].join("\n")
    );
    assert_setfiles_agrees(mounted.path(), &policy);
}

/// Returns the path on a machine, where the defaults of `/etc` are in `/etc`.
fn seen_as(path: &str) -> &str {
    match path.strip_prefix("/usr/etc") {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => &path[4..],
        _ => path,
    }
}

/// Returns kind and label of everything in a mounted commit by path.
fn labels(root: &Path) -> BTreeMap<String, (String, String)> {
    let mut command = Command::new("find");
    command.arg(".").args(["-printf", "%y %P\\n"]).current_dir(root);
    let mut found = BTreeMap::new();
    for line in finish_within(command, Duration::from_secs(300)).success().lines() {
        let (kind, path) = line.split_once(' ').expect("two fields");
        found.insert(format!("/{path}"), (kind.to_owned(), String::new()));
    }
    let mut command = Command::new("getfattr");
    command.args(["-R", "-P", "-h", "-d", "-m", "security.selinux", "--absolute-names", "."]).current_dir(root);
    let mut path = String::new();
    for line in finish_within(command, Duration::from_secs(300)).success().lines() {
        if let Some(file) = line.strip_prefix("# file: ") {
            // getfattr writes a backslash as \134.
            path = file.trim_start_matches('.').replace("\\134", "\\");
            if path.is_empty() {
                path = "/".to_owned();
            }
        } else if let Some(value) = line.strip_prefix("security.selinux=\"") {
            let label = value.trim_end_matches('"').trim_end_matches("\\000").to_owned();
            found.get_mut(&path).unwrap_or_else(|| panic!("{path} was not listed")).1 = label;
        }
    }
    found
}

/// Checks the labels by `setfiles`, which labels machines: it must want to change only `/usr/etc`, which it does not know to be
/// `/etc`.
fn assert_setfiles_agrees(root: &Path, policy: &Path) {
    let mut command = Command::new("setfiles");
    command.args(["-n", "-v", "-F", "-r"]).arg(root).arg(policy).arg(root);
    let report = finish_within(command, Duration::from_secs(300));
    let text = format!("{}\n{}", report.text(), report.stderr);
    let inside = format!("{}/usr/etc", root.display());
    let relabelled: Vec<&str> =
        text.lines().filter(|line| line.contains("relabel") && !line.contains(&inside)).collect();
    assert!(
        relabelled.is_empty(),
        "setfiles would change {} labels:\n{}",
        relabelled.len(),
        relabelled[..relabelled.len().min(20)].join("\n")
    );
}
