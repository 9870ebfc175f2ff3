//! Measures publishing two versions: time, memory, bytes, and the files that lead from one to the other.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use nix::mount::{MntFlags, umount2};

use crate::cost::{self, Cost, size};
use crate::lazy;
use crate::machine::{self, drop_caches};
use crate::report::{Report, Table};
use crate::setup::{NAME, PLAIN, PROFILED, Setup};

/// Publishes everything again.
pub fn run(setup: &Setup, report: &mut Report) -> anyhow::Result<()> {
    machine::remove(&setup.work.join("published"))?;
    machine::fresh_directory(setup.work.join("www"))?;
    sapwood(setup, report)?;
    squashfs(setup, report)?;
    ostree(setup, report)?;
    casync(setup, report)?;
    setup.set_published()
}

fn sapwood(setup: &Setup, report: &mut Report) -> anyhow::Result<()> {
    setup.make_key()?;
    let publisher = setup.client("publisher", None)?;
    let www = setup.www(PLAIN);
    for (number, tree) in setup.trees.iter().enumerate() {
        let words = [OsStr::new("commit"), "--ref".as_ref(), NAME.as_ref(), tree.as_os_str()];
        machine::time(setup.sapwood(&publisher, words))?;
        drop_caches()?;
        let cost = setup.publish(&publisher, PLAIN, &["--deltas", "0"])?;
        add(report, number, "sapwood publish", cost, &www)?;
        if number == 0 {
            let old = setup.client("client-old", None)?;
            setup.pull(&old, None, &[])?;
        }
    }
    let without = size(&www)?;
    drop_caches()?;
    let cost = setup.publish(&publisher, PLAIN, &["--deltas", "1"])?;
    let cost = Cost { megabytes: Some(size(&www)? - without), ..cost };
    report.add(Table::Delta, "sapwood publish --deltas 1", cost);
    with_profile(setup, &publisher)
}

/// Publishes the newer version once more, packed in the order in which a first program reads it.
fn with_profile(setup: &Setup, publisher: &Path) -> anyhow::Result<()> {
    let (target, profile) = (setup.chroot.join(NAME), setup.work.join("first.profile"));
    let mount = ["mount", "-o", "suid,dev,allow_other", NAME].map(OsStr::new);
    machine::time(setup.sapwood(publisher, mount.into_iter().chain([target.as_os_str()])))?;
    let words = [OsStr::new("profile"), "record".as_ref(), target.as_os_str(), "-o".as_ref(), profile.as_os_str()];
    let mut record = setup.sapwood(publisher, words);
    record.args(["--", "sh", "-c", lazy::FIRST]);
    machine::time(lazy::with_places(setup, record))?;
    umount2(&target, MntFlags::empty())?;
    let profile = profile.to_str().context("paths of the benchmark are UTF-8")?;
    setup.publish(publisher, PROFILED, &["--deltas", "0", "--profile", profile]).map(drop)
}

fn squashfs(setup: &Setup, report: &mut Report) -> anyhow::Result<()> {
    let www = setup.www("squashfs");
    fs::create_dir_all(&www)?;
    for (number, tree) in setup.trees.iter().enumerate() {
        drop_caches()?;
        let mut command = Command::new("mksquashfs");
        command.arg(tree).arg(www.join(format!("{number}.squashfs")));
        command.args(["-comp", "zstd", "-Xcompression-level", "3", "-noappend", "-no-progress", "-quiet"]);
        let cost = cost::of_command(command)?;
        add(report, number, "mksquashfs zstd-3", cost, &www)?;
    }
    Ok(())
}

fn ostree(setup: &Setup, report: &mut Report) -> anyhow::Result<()> {
    let www = setup.www("ostree");
    let repository = format!("--repo={}", www.display());
    machine::run("ostree", ["init", &repository, "--mode=archive"])?;
    for (number, tree) in setup.trees.iter().enumerate() {
        drop_caches()?;
        let mut command = Command::new("ostree");
        command.args(["commit", &repository, &format!("--branch={NAME}"), "--subject=benchmark"]);
        command.arg(format!("--tree=dir={}", tree.display()));
        let cost = cost::of_command(command)?;
        add(report, number, "ostree commit (archive)", cost, &www)?;
        if number == 0 {
            let old = setup.work.join("ostree-old");
            machine::remove(&old)?;
            let client = format!("--repo={}", old.display());
            machine::run("ostree", ["init", &client, "--mode=bare"])?;
            machine::run("ostree", ["pull-local", &client, &www.display().to_string(), NAME])?;
        }
    }
    let without = size(&www)?;
    drop_caches()?;
    let mut command = Command::new("ostree");
    command.args(["static-delta", "generate", &repository, NAME]);
    let cost = cost::of_command(command)?;
    let cost = Cost { megabytes: Some(size(&www)? - without), ..cost };
    report.add(Table::Delta, "ostree static-delta generate", cost);
    machine::run("ostree", ["summary", &repository, "-u"])
}

fn casync(setup: &Setup, report: &mut Report) -> anyhow::Result<()> {
    let www = setup.www("casync");
    fs::create_dir_all(&www)?;
    for (number, tree) in setup.trees.iter().enumerate() {
        drop_caches()?;
        let mut command = Command::new("casync");
        command
            .args(["make", "--without=quota-projid"])
            .arg(format!("--store={}", www.join("default.castr").display()));
        command.arg(www.join(format!("{number}.caidx"))).arg(tree);
        let cost = cost::of_command(command)?;
        add(report, number, "casync make", cost, &www)?;
    }
    Ok(())
}

/// Adds the figures of one version; its bytes are all that are published by then.
fn add(report: &mut Report, number: usize, peer: &str, cost: Cost, www: &Path) -> anyhow::Result<()> {
    let table = if number == 0 { Table::PublishFirst } else { Table::PublishSecond };
    report.add(table, peer, Cost { megabytes: Some(size(www)?), ..cost });
    Ok(())
}
