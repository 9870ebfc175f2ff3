//! Tests of the oracles: they find no difference in equal trees, and find each way in which trees can differ.
//!
//! *Not here*: the program, of which nothing runs.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::common::facts::{Facts, Scope, assert_rsync_sees_no_difference};
use crate::common::sandbox::{Sandbox, finish, remove_tree, run};
use crate::common::trees;

fn copy(from: &Path, to: &Path) {
    run("cp", [Path::new("-a"), Path::new("--sparse=always"), from, to]).success();
}

#[test]
fn oracles_find_no_difference_in_a_faithful_copy() {
    let sandbox = Sandbox::new("fixtures-same");
    let (nasty, copied) = (sandbox.join("nasty"), sandbox.join("copied"));
    trees::nasty(&nasty);
    // rsync keeps hard links, ACLs and all attributes, but not the positions of holes: other tests compare those.
    run("rsync", [Path::new("-aHAX"), &nasty.join(""), &copied]).success();
    let (mine, theirs) = (Facts::of(&nasty, Scope::All), Facts::of(&copied, Scope::All));
    assert!(mine.entries() > 1500, "the tree has only {} entries", mine.entries());
    mine.except(&["lseek (holes)", "tar"]).assert_same(&theirs.except(&["lseek (holes)", "tar"]), "rsync's copy");
    Facts::of(&nasty, Scope::All).assert_same(&Facts::of(&nasty, Scope::All), "the same tree twice");
}

#[test]
fn oracles_find_each_kind_of_difference() {
    let sandbox = Sandbox::new("fixtures-differ");
    // The tools that have to find the difference, the path they have to name, and the change; the changes do not affect each
    // other.
    type Change = (&'static [&'static str], &'static str, &'static str);
    let batches: [&[Change]; 3] = [
        &[
            (&["find"], "noise-1:", "chmod 0600 sizes/noise-1"),
            (&["find"], "symlinks/up:", "chown -h 70001 symlinks/up"),
            (&["find"], "kinds/fifo:", "touch -h -d '2001-01-01 00:00:00.000000001' kinds/fifo"),
            (&["find"], "empty directory:", "touch -d '2001-01-01' 'empty directory'"),
            (&["find"], "symlinks/dangling:", "ln -sfn elsewhere symlinks/dangling"),
            (&["find"], "noise-4096: missing", "rm sizes/noise-4096"),
            (&["find"], "links/more:", "mkdir links/more"),
        ],
        &[
            (&["find"], "kinds/fifo:", "rm kinds/fifo; mknod kinds/fifo c 1 3"),
            (&["stat (devices)"], "kinds/null:", "rm kinds/null; mknod kinds/null c 1 4"),
            (
                &["find (hard links)"],
                "links/there/three:",
                "cp -a --remove-destination links/here/one x; mv x links/there/three",
            ),
            (&["getfattr"], "attributes/user:", "setfattr -n user.text -v other attributes/user"),
            (&["getfattr"], "attributes/symlink:", "setfattr -h -n security.selinux -v other attributes/symlink"),
            (&["getfattr"], "attributes/capability:", "setfattr -x security.capability attributes/capability"),
            (&["getfattr"], "attributes/acl:", "setfacl -b attributes/acl"),
        ],
        &[
            (&["lseek (holes)"], "all hole:", "cp --sparse=never 'sparse/all hole' x; cat x > 'sparse/all hole'; rm x"),
            (
                &["b2sum", "tar"],
                "noise-1048577:",
                "printf y | dd of=sizes/noise-1048577 bs=1 seek=1000000 conv=notrunc status=none",
            ),
            (&["tar"], "names/A: missing", "mv names/A names/B"),
        ],
    ];
    let nasty = sandbox.join("nasty");
    trees::nasty(&nasty);
    let facts = Facts::of(&nasty, Scope::All);
    for batch in batches {
        let changed = sandbox.join("changed");
        copy(&nasty, &changed);
        for (_, _, change) in batch {
            let mut command = Command::new("sh");
            command.args(["-ec", change]).current_dir(&changed);
            finish(command).success();
        }
        let report = facts.report(&Facts::of(&changed, Scope::All));
        for (tools, path, change) in batch {
            for tool in *tools {
                let said: Vec<&str> = report
                    .split_once(&format!("{tool}: "))
                    .map_or(Vec::new(), |(_, said)| said.lines().skip(1).collect());
                let mut own = said.iter().take_while(|line| line.starts_with("  "));
                assert!(
                    own.any(|line| line.contains(path)),
                    "{tool} should notice '{change}'; the report is\n{report}"
                );
            }
        }
        remove_tree(&changed);
    }
}

#[test]
fn rsync_notices_a_changed_mode() {
    let sandbox = Sandbox::new("fixtures-rsync");
    let (one, two) = (sandbox.directory("one"), sandbox.join("two"));
    fs::write(one.join("file"), "x").expect("the sandbox is writable");
    copy(&one, &two);
    assert_rsync_sees_no_difference(&one, &two, Scope::All);
    fs::set_permissions(two.join("file"), fs::Permissions::from_mode(0o600)).expect("root may change modes");
    let seen = std::panic::catch_unwind(|| assert_rsync_sees_no_difference(&one, &two, Scope::All));
    assert!(seen.is_err(), "rsync did not notice");
}
