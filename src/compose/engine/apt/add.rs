//! Installs packages into the root of a base, with this machine's apt, in a sandbox and from the cache.
//!
//! Purpose: runs apt on a root that has packages already; it finds the order in which dpkg unpacks and configures.
//!
//! Not here: a root that is made from nothing (`install`).
//!
//! Invariants: apt has no network and may choose only the packages of the resolution; it removes none.
//!
//! Used by: `Apt`.

use std::path::Path;
use std::time::Duration;

use super::super::tool::{copy_file, make_directory, write_file};
use super::super::{EngineError, Resolution};
use super::config::{self, AptConfig};
use super::install::path_filters;
use super::{Apt, exact_spec};
use crate::compose::sandbox::{EngineView, SandboxedCommand};
use crate::compose::treefile::Treefile;

/// The longest time that installing may take.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(4 * 3600);

/// Installs the packages of `resolution` into `root`.
pub(super) fn add(
    apt: &Apt<'_>,
    treefile: &Treefile,
    resolution: &Resolution,
    root: &Path,
    time: i64,
) -> Result<(), EngineError> {
    let context = apt.context;
    if resolution.packages.is_empty() {
        return Ok(());
    }
    context.runner.stage(&format!("installing {} packages", resolution.packages.len()));
    let allowed = config::preferences_allowing_only(&context.expected(resolution));
    let config = AptConfig::write(context, treefile, &allowed)?;
    let own = context.work.join("apt-add");
    for name in ["archives/partial", "cache", "log"] {
        make_directory(&own.join(name))?;
    }
    for resolved in &resolution.packages {
        copy_file(&apt.package_file(resolved), &own.join("archives").join(&resolved.file))?;
    }
    write_file(&own.join("apt.conf"), render(&config, treefile, context.cache, &own, root))?;
    let words =
        ["--yes", "--no-download", "--no-remove", "--allow-downgrades", "--no-install-recommends", "install", "--"];
    let apt_get = apt.apt_get.to_string_lossy();
    let specs: Vec<String> = resolution.packages.iter().map(|resolved| exact_spec(&resolved.package)).collect();
    let command = [&[apt_get.as_ref()], &words[..], &specs.iter().map(String::as_str).collect::<Vec<_>>()].concat();
    let directory = context.work.join("apt");
    let mut readable = vec![config.lists(), config.local_list(), directory.join("preferences")];
    readable.extend(config.local().map(Path::to_owned).into_iter().chain(config.sources().to_vec()));
    let view = EngineView { root: Some(root.to_owned()), readable, writable: vec![own.clone()] };
    let sandbox = SandboxedCommand::engine(view, &command)
        .with_variable("APT_CONFIG", &own.join("apt.conf").to_string_lossy())
        .with_variable("LC_ALL", "C.UTF-8")
        .with_variable("DEBIAN_FRONTEND", "noninteractive")
        .with_variable("SOURCE_DATE_EPOCH", &time.to_string())
        .with_variable("INITRD", "No")
        .with_variable("PYTHONHASHSEED", "0");
    Ok(sandbox.run(context.runner, "installing packages", INSTALL_TIMEOUT)?)
}

/// Returns the configuration: that of resolving, but for the root, and without proxies, whose addresses have passwords.
fn render(config: &AptConfig, treefile: &Treefile, cache: &Path, own: &Path, root: &Path) -> String {
    let (own, root) = (own.display(), root.display());
    let mut text = config.render(cache, treefile);
    text.push_str(&format!(
        r#"Dir::State "{own}";
Dir::State::status "{root}/var/lib/dpkg/status";
Dir::Cache "{own}/cache";
Dir::Cache::archives "{own}/archives";
Dir::Log "{own}/log";
DPkg::Options {{ "--root={root}"; "--log={root}/var/log/dpkg.log"; "--force-unsafe-io"; }};
"#
    ));
    for line in path_filters(treefile) {
        text.push_str(&format!("DPkg::Options {{ \"--{line}\"; }};\n"));
    }
    text
}
