//! The order of versions is that of dpkg and of rpm.

use std::cmp::Ordering;
use std::process::Command;

use sapwood::compose::packages::{PackageFormat, compare_versions};

use crate::common::sandbox::{finish, run};

const VERSIONS: [&str; 26] = [
    "0",
    "1",
    "1.0",
    "1.00",
    "1.0-1",
    "1.0-1+b1",
    "1.0~rc1",
    "1.0~~",
    "1.0a",
    "1.0a1",
    "1.0+deb12u1",
    "1.0+deb12u10",
    "1.10",
    "1.9",
    "2:0.1",
    "1:9",
    "1.0-1.1",
    "1.0-10",
    "1.0^git1",
    "1.0.1",
    "1.A",
    "1.a",
    "1_0",
    "a1",
    "20240101",
    "1.0-1~bpo1",
];

#[test]
fn versions_are_ordered_as_dpkg_orders_them() {
    for a in VERSIONS {
        for b in VERSIONS.iter().filter(|b| {
            !b.contains(['^', '_']) && !a.contains(['^', '_']) && starts_with_digit(a) && starts_with_digit(b)
        }) {
            let is = |relation| run("dpkg", ["--compare-versions", a, relation, b]).status.success();
            let expected = if is("lt") {
                Ordering::Less
            } else if is("gt") {
                Ordering::Greater
            } else {
                Ordering::Equal
            };
            assert_eq!(compare_versions(PackageFormat::Deb, a, b), expected, "{a} {b}");
        }
    }
}

fn starts_with_digit(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
}

#[test]
fn versions_are_ordered_as_rpm_orders_them() {
    // In one call, since each start of rpm takes a while. Only versions, since the macro does not know releases.
    let plain: Vec<&str> = VERSIONS.into_iter().filter(|version| !version.contains(['-', ':'])).collect();
    let pairs: Vec<(&str, &str)> = plain.iter().flat_map(|a| plain.iter().map(|b| (*a, *b))).collect();
    let script: String = pairs.iter().map(|(a, b)| format!("io.write(rpm.vercmp('{a}', '{b}'), ' ')\n")).collect();
    let mut command = Command::new("rpm");
    command.args(["--eval", &format!("%{{lua: local io = {{write = function(...) for _, v in ipairs({{...}}) do print(tostring(v)) end end}}\n{script}}}")]);
    let answers = finish(command).success();
    let answers: Vec<i32> = answers.split_whitespace().map(|word| word.parse().expect("a number")).collect();
    assert_eq!(answers.len(), pairs.len());
    for ((a, b), answer) in pairs.iter().zip(answers) {
        assert_eq!(compare_versions(PackageFormat::Rpm, a, b), answer.cmp(&0), "{a} {b}");
    }
}
