//! Two versions put where others can fetch them: time, memory, bytes; and what leads from one to the other.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use nix::mount::{MntFlags, umount2};

use crate::cost::{self, Cost, size};
use crate::ground::{Ground, NAME, PLAIN, PROFILED};
use crate::lazy;
use crate::machine::{self, drop_caches};
use crate::report::{Report, Table};

/// Publishes everything anew.
pub fn run(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    machine::remove(&ground.work.join("published"))?;
    machine::fresh_directory(ground.work.join("www"))?;
    sapwood(ground, report)?;
    squashfs(ground, report)?;
    ostree(ground, report)?;
    casync(ground, report)?;
    ground.set_published()
}

fn sapwood(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    ground.make_key()?;
    let publisher = ground.client("publisher", None)?;
    let www = ground.www(PLAIN);
    for (number, tree) in ground.trees.iter().enumerate() {
        let words = [OsStr::new("commit"), "--ref".as_ref(), NAME.as_ref(), tree.as_os_str()];
        machine::time(ground.sapwood(&publisher, words))?;
        drop_caches()?;
        let cost = ground.publish(&publisher, PLAIN, &["--deltas", "0"])?;
        add(report, number, "sapwood publish", cost, &www)?;
        if number == 0 {
            let old = ground.client("client-old", None)?;
            ground.pull(&old, None, &[])?;
        }
    }
    let without = size(&www)?;
    drop_caches()?;
    let cost = ground.publish(&publisher, PLAIN, &["--deltas", "1"])?;
    let cost = Cost { megabytes: Some(size(&www)? - without), ..cost };
    report.add(Table::Delta, "sapwood publish --deltas 1", cost);
    with_profile(ground, &publisher)
}

/// The newer version once more, packed in the order in which a first program reads it.
fn with_profile(ground: &Ground, publisher: &Path) -> anyhow::Result<()> {
    let (target, profile) = (ground.chroot.join(NAME), ground.work.join("first.profile"));
    let mount = ["mount", "-o", "suid,dev,allow_other", NAME].map(OsStr::new);
    machine::time(ground.sapwood(publisher, mount.into_iter().chain([target.as_os_str()])))?;
    let words = [OsStr::new("profile"), "record".as_ref(), target.as_os_str(), "-o".as_ref(), profile.as_os_str()];
    let mut record = ground.sapwood(publisher, words);
    record.args(["--", "sh", "-c", lazy::FIRST]);
    machine::time(lazy::with_places(ground, record))?;
    umount2(&target, MntFlags::empty())?;
    let profile = profile.to_str().context("paths of the benchmark are UTF-8")?;
    ground.publish(publisher, PROFILED, &["--deltas", "0", "--profile", profile]).map(drop)
}

fn squashfs(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let www = ground.www("squashfs");
    fs::create_dir_all(&www)?;
    for (number, tree) in ground.trees.iter().enumerate() {
        drop_caches()?;
        let mut command = Command::new("mksquashfs");
        command.arg(tree).arg(www.join(format!("{number}.squashfs")));
        command.args(["-comp", "zstd", "-Xcompression-level", "3", "-noappend", "-no-progress", "-quiet"]);
        let cost = cost::of_command(command)?;
        add(report, number, "mksquashfs zstd-3", cost, &www)?;
    }
    Ok(())
}

fn ostree(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let www = ground.www("ostree");
    let repository = format!("--repo={}", www.display());
    machine::run("ostree", ["init", &repository, "--mode=archive"])?;
    for (number, tree) in ground.trees.iter().enumerate() {
        drop_caches()?;
        let mut command = Command::new("ostree");
        command.args(["commit", &repository, &format!("--branch={NAME}"), "--subject=benchmark"]);
        command.arg(format!("--tree=dir={}", tree.display()));
        let cost = cost::of_command(command)?;
        add(report, number, "ostree commit (archive)", cost, &www)?;
        if number == 0 {
            let old = ground.work.join("ostree-old");
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

fn casync(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let www = ground.www("casync");
    fs::create_dir_all(&www)?;
    for (number, tree) in ground.trees.iter().enumerate() {
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

/// One version more; its bytes are all that are there by now.
fn add(report: &mut Report, number: usize, peer: &str, cost: Cost, www: &Path) -> anyhow::Result<()> {
    let table = if number == 0 { Table::PublishFirst } else { Table::PublishSecond };
    report.add(table, peer, Cost { megabytes: Some(size(www)?), ..cost });
    Ok(())
}
