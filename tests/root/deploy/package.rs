//! `mount-helpers/build-static` runs the compiler only when an input changed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::sandbox::{Sandbox, finish};

/// Replacements for the compilers. That for Cargo records its calls, and makes programs.
const TOOLS: [(&str, &str); 4] = [
    ("rustc", "echo 'host: here'"),
    ("cc", "echo 12"),
    ("objcopy", "shift; touch \"${!#}\""),
    (
        "cargo",
        "echo \"$*\" >> $LOG
         while [ $# -gt 0 ]; do case $1 in --profile) p=$2 ;; --target-dir) d=$2 ;; esac; shift; done
         mkdir -p $d/here/$p; touch $d/here/$p/sapwood $d/here/$p/sapwood-prepare-root",
    ),
];

/// A source tree with the script in it.
struct Tree(PathBuf);

impl Tree {
    fn new(sandbox: &Sandbox) -> Self {
        let tree = Self(sandbox.directory("tree"));
        for (name, text) in TOOLS {
            let path = tree.write(&format!("tools/{name}"), &format!("#!/bin/bash\n{text}\n"));
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("owned by the test");
        }
        for name in ["Cargo.toml", "Cargo.lock", "src/main.rs", "src/a/b.rs", "mount-helpers/mount.rs", "README.md"] {
            tree.write(name, "");
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("mount-helpers/build-static");
        fs::copy(script, tree.0.join("mount-helpers/build-static")).expect("it exists");
        tree
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("writable");
        fs::write(&path, text).expect("writable");
        path
    }

    /// Runs the script. Returns the directory that it prints and how often it has called Cargo so far.
    fn build(&self, arguments: &[&str]) -> (String, usize) {
        let (log, tools) = (self.0.join("log"), self.0.join("tools"));
        let path = format!("{}:/usr/bin:/bin", tools.display());
        let mut command = Command::new(self.0.join("mount-helpers/build-static"));
        command.args(arguments).env("PATH", path).env("LOG", &log).env_remove("SAPWOOD_STATIC_TARGET");
        let directory = finish(command).success().trim().to_owned();
        (directory, fs::read_to_string(log).expect("written").lines().count())
    }
}

#[test]
fn cargo_runs_only_when_an_input_of_the_static_programs_changed() {
    let sandbox = Sandbox::new("build-static");
    let tree = Tree::new(&sandbox);
    let place = |profile: &str| tree.0.join("target/static/here").join(profile).join("ready").display().to_string();
    assert_eq!(tree.build(&["--profile", "release"]), (place("release"), 1));
    assert_eq!(tree.build(&["--profile", "release"]), (place("release"), 1));
    assert_eq!(tree.build(&[]), (place("dist"), 2), "the profile of what is shipped is the default");
    assert_eq!(tree.build(&["--profile=release"]), (place("release"), 2), "each has a place of its own");
    for (name, asked) in [("README.md", 2), ("src/a/b.rs", 3), ("Cargo.toml", 4), ("Cargo.lock", 5)] {
        tree.write(name, "changed");
        assert_eq!(tree.build(&["--profile", "release"]).1, asked, "{name}");
        assert_eq!(tree.build(&["--profile", "release"]).1, asked, "{name}");
    }
    let symbols = |profile: &str| Path::new(&place(profile)).join("sapwood.debug").exists();
    assert!(symbols("dist") && !symbols("release"));
}
