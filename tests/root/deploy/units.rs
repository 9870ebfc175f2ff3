//! The units of a machine, as systemd reads them.

use std::fs;
use std::path::Path;

use crate::common::programs;
use crate::common::sandbox::{Sandbox, run};

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let sandbox = Sandbox::new("units");
    let units = sandbox.directory("units");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("mount-helpers/systemd");
    let mut paths = Vec::new();
    for entry in fs::read_dir(source).expect("there") {
        let path = entry.expect("listed").path();
        // The program is not installed here.
        let text = fs::read_to_string(&path).expect("readable");
        let text = text.replace("/usr/bin/sapwood", programs::sapwood().to_str().expect("UTF-8"));
        let copy = units.join(path.file_name().expect("a name"));
        fs::write(&copy, text).expect("writable");
        paths.push(copy.display().to_string());
    }
    assert!(paths.len() >= 6, "{paths:?}");
    paths.sort();
    let said = run("systemd-analyze", ["verify", "--man=no"].iter().map(|word| (*word).to_owned()).chain(paths));
    assert!(said.status.success(), "{}", said.stderr);
    assert_eq!(said.stderr.lines().filter(|line| line.contains("sapwood-")).collect::<Vec<_>>(), Vec::<&str>::new());
}
