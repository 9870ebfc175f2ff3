//! Measures updating a machine that has the older version to the newer one.

use std::process::Command;

use crate::cost;
use crate::link::Shape;
use crate::machine::{self, drop_caches};
use crate::report::{Report, Table};
use crate::setup::{NAME, Setup};

/// Updates clients of the older version over the link of a home.
pub fn run(setup: &Setup, report: &mut Report) -> anyhow::Result<()> {
    let old = setup.work.join("client-old");
    for (peer, options) in [("sapwood pull", &[][..]), ("sapwood pull --no-delta", &["--no-delta"][..])] {
        let link = setup.link(Shape::HOME);
        let client = setup.client("client-update", Some(&old))?;
        drop_caches()?;
        report.add(Table::Update, peer, cost::through(&link, || setup.pull(&client, Some(&link), options))?);
        machine::time(setup.sapwood(&client, ["fsck"]))?;
        machine::remove(&client)?;
    }
    let old = setup.work.join("ostree-old");
    for (peer, options) in
        [("ostree pull", &["--require-static-deltas"][..]), ("ostree pull, no delta", &["--disable-static-deltas"][..])]
    {
        let link = setup.link(Shape::HOME);
        let client = setup.ostree_client("ostree-update", &link, Some(&old))?;
        drop_caches()?;
        let cost = cost::through(&link, || {
            let mut command = Command::new("ostree");
            command.args(["pull", &format!("--repo={}", client.display())]).args(options).args(["link", NAME]);
            cost::of_command(command)
        })?;
        report.add(Table::Update, peer, cost);
        machine::remove(&client)?;
    }
    Ok(())
}
