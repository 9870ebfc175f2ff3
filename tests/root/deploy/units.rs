//! `systemd-analyze verify` accepts the units of the package.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::programs;
use crate::common::sandbox::{Sandbox, run};

#[test]
fn systemd_analyze_verifies_the_units() {
    let sandbox = Sandbox::new("units");
    let units = sandbox.directory("units");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("mount-helpers/systemd");
    // The program is not installed on this machine.
    let copy = |from: &Path, to: &Path| {
        let text = fs::read_to_string(from).expect("readable");
        let text = text.replace("/usr/bin/sapwood", programs::sapwood().to_str().expect("UTF-8"));
        fs::write(to, text).expect("writable");
    };
    let listed = |directory: &Path| -> Vec<PathBuf> {
        fs::read_dir(directory).expect("it exists").map(|entry| entry.expect("listed").path()).collect()
    };
    let mut paths = Vec::new();
    for path in listed(&source) {
        let at = units.join(path.file_name().expect("a name"));
        if path.is_dir() {
            // Drop-ins for a unit of another package.
            fs::create_dir(&at).expect("writable");
            listed(&path).iter().for_each(|addition| copy(addition, &at.join(addition.file_name().expect("a name"))));
            let unit = at.with_extension("");
            fs::write(&unit, "[Service]\nType=oneshot\nExecStart=/bin/true\n").expect("writable");
            paths.push(unit.display().to_string());
        } else {
            copy(&path, &at);
            paths.push(at.display().to_string());
        }
    }
    assert!(paths.len() >= 6, "{paths:?}");
    paths.sort();
    let said = run("systemd-analyze", ["verify", "--man=no"].iter().map(|word| (*word).to_owned()).chain(paths));
    assert!(said.status.success(), "{}", said.stderr);
    assert_eq!(said.stderr.lines().filter(|line| line.contains("sapwood")).collect::<Vec<_>>(), Vec::<&str>::new());
}
