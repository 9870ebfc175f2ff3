//! Measures pulling everything by a machine that has nothing.

use std::process::Command;

use crate::cost;
use crate::link::Shape;
use crate::machine::{self, drop_caches};
use crate::report::{Report, Table};
use crate::setup::{NAME, Setup};

/// Pulls the newer version over the link of a home.
pub fn run(setup: &Setup, report: &mut Report) -> anyhow::Result<()> {
    let link = setup.link(Shape::HOME);
    drop_caches()?;
    let client = setup.client("client-pull", None)?;
    report.add(Table::Pull, "sapwood pull", cost::through(&link, || setup.pull(&client, Some(&link), &[]))?);
    machine::remove(&client)?;
    let client = setup.ostree_client("ostree-pull", &link, None)?;
    let pulled = cost::through(&link, || {
        let mut command = Command::new("ostree");
        command.args(["pull", &format!("--repo={}", client.display()), "link", NAME]);
        cost::of_command(command)
    })?;
    report.add(Table::Pull, "ostree pull", pulled);
    machine::remove(&client)?;
    let target = setup.work.join("whole.squashfs");
    let fetched = cost::through(&link, || {
        let mut command = Command::new("curl");
        command.args(["-sSf", "-o"]).arg(&target).arg(setup.url(Some(&link), "squashfs/1.squashfs"));
        cost::of_command(command)
    })?;
    report.add(Table::Pull, "curl of the squashfs", fetched);
    machine::remove(&target)
}
