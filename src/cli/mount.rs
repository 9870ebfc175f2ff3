//! `sapwood mount`: mounts a commit on a directory.
//!
//! *Not here*: starting, supervising and serving a mount (`mount`, `fuse`).
//!
//! *Used by* `cli::main` and `prepare_root`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use super::trust_args::TrustArgs;
use super::{mount_help, output, repository};
use crate::cache::FillScope;
use crate::cli::context::{Context, Run};
use crate::fuse::{Action, MountOptions, MountRequest, remount_read_only};
use crate::model::ImagePath;
use crate::mount::{MountSource, StartRequest, start};
use crate::remote::transport::without_secret;
use crate::source::{self, Attendance, RemoteSource};
use crate::store::{Store, Verify};

/// Show a commit as a read-only directory
#[derive(Debug, Default, clap::Args)]
#[command(after_help = mount_help::short(), after_long_help = mount_help::long())]
pub(crate) struct Args {
    /// Mount options, separated by commas
    #[arg(short = 'o', long = "options", value_name = "OPTIONS")]
    options: Vec<String>,
    /// Stay in the foreground, log to the terminal, unmount on Ctrl-C
    #[arg(long)]
    foreground: bool,
    /// Fetch everything while nothing urgent is to be done, not only what is read
    #[arg(long)]
    background_fill: bool,
    /// Write the figures of this mount, in OpenMetrics, to a file every 10 s
    #[arg(long, value_name = "FILE")]
    metrics_file: Option<PathBuf>,
    /// Serve the figures of this mount, in OpenMetrics, over HTTP
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics_listen: Option<SocketAddr>,
    /// Started by a service, not at a terminal: a remote is asked for no more than 2 s for news of what is here
    #[arg(long, hide = true)]
    unattended: bool,
    #[command(flatten)]
    trust: TrustArgs,
    /// What to mount, also REMOTE:REF or URL#REF; SOURCE:/DIR shows only that directory of it
    source: String,
    /// An existing directory
    mountpoint: PathBuf,
}

impl Args {
    /// Returns the arguments for mounting a directory of a commit of the running system.
    pub(crate) fn for_system(source: String, mountpoint: PathBuf, options: Vec<String>) -> Self {
        Self { options, source, mountpoint, unattended: true, ..Self::default() }
    }

    const fn asking(&self) -> Attendance {
        if self.unattended { Attendance::Unattended } else { Attendance::Attended }
    }
}

impl Run for Args {
    fn run(&self, context: &Context) -> Result<ExitCode> {
        let mut options = MountOptions::parse(&self.options.join(","))?;
        options.metrics_file = self.metrics_file.clone().or(options.metrics_file);
        options.metrics_listen = self.metrics_listen.or(options.metrics_listen);
        if self.background_fill {
            options.background_fill = FillScope::Everything;
        }
        if options.action == Action::Remount {
            let path = absolute(&self.mountpoint)?;
            remount_read_only(&path, &options)?;
            return Ok(ExitCode::SUCCESS);
        }
        let remote = RemoteSource::parse(&self.source)?;
        let repository = match (&options.repository, &remote) {
            (Some(named), _) => named.clone(),
            (None, Some(remote)) => repository::path_for(remote, context)?,
            (None, None) => repository::path(context)?,
        };
        let source = resolve(self, &options, &repository)?;
        let running = start(&StartRequest {
            source: &source,
            mount: MountRequest { source: without_secret(&self.source), mountpoint: self.mountpoint.clone(), options },
            is_foreground: self.foreground,
        })?;
        if !self.foreground {
            return Ok(ExitCode::SUCCESS);
        }
        output::note("mounted; Ctrl-C unmounts");
        Ok(running.wait_for_end()?)
    }
}

/// Resolves the arguments to a commit. Asks the remote if they name one.
fn resolve(args: &Args, options: &MountOptions, repository: &Path) -> Result<MountSource> {
    let Some(remote) = RemoteSource::parse(&args.source)? else {
        let (spec, path) = source::split(&args.source)?;
        let subdir = subdirectory(args, options, path)?;
        let store = Store::open(repository)?;
        let id = store.resolve(spec)?;
        let is_complete = store.commit(id).is_ok() && !store.is_lazy(id);
        let (resolved, config) = if is_complete && options.verify != Verify::OnEntry {
            source::resolve_for_repair(&store, id, args.asking())?
        } else {
            source::resolve_with_remote(&store, id)?
        };
        return Ok(MountSource::new(store, resolved, subdir, config, options));
    };
    let subdir = subdirectory(args, options, remote.path.clone())?;
    let store = source::open_or_init(repository)?;
    let trust = args.trust.to_options();
    let resolved = source::resolve_remote(&store, &remote, &trust, args.asking())?;
    let config = remote.config(&store, &trust)?;
    Ok(MountSource::new(store, resolved, subdir, Some(config), options))
}

/// Returns the directory to mount: `main:/usr` means `main` with `subdir=/usr`.
fn subdirectory(args: &Args, options: &MountOptions, path: ImagePath) -> Result<ImagePath> {
    match (path.is_root(), options.subdir.is_root()) {
        (true, _) => Ok(options.subdir.clone()),
        (false, true) => Ok(path),
        (false, false) => {
            bail!("'{}' and the mount option 'subdir' both name a directory: give one of them", args.source)
        }
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    path.canonicalize().with_context(|| format!("cannot reach {}", path.display()))
}
