//! `sapwood publish --verify URL`: reads what is published through its public address, as a machine does that mounts it lazily.
//!
//! Into an empty repository beside the own one, which goes afterwards: nothing that is here makes up for what is not there.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::Args;
use crate::cache::{LazyOptions, Patience, Selection, Visit, Wholeness};
use crate::cli::{Context, environment, keys, output, repository};
use crate::model::{CommitId, RefName};
use crate::remote::{Remote, RemoteConfig, RemoteName};
use crate::store::{Config, Store};
use crate::trust::SecretKey;

/// An empty repository that is removed in the end.
struct Scratch {
    path: PathBuf,
    store: Store,
}

impl Scratch {
    fn new(beside: &Store) -> Result<Self> {
        let path = beside.layout().temporary().join(format!("verify-{}", std::process::id()));
        remove(&path);
        let store = Store::init(&path, &Config::default())?;
        Ok(Self { path, store })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn remove(path: &Path) {
    if let Err(error) = crate::disk::remove_directory(path) {
        tracing::warn!("{} stays behind: {error}", path.display());
    }
}

/// Reads all refs of `args` through `url` and compares them with the repository. Returns what a program would read.
///
/// # Errors
/// When a ref is another commit there, or not all of it can be read.
pub(super) fn run(args: &Args, url: &str, context: &Context) -> Result<Value> {
    let store = repository::open(context)?;
    let mut told = Vec::new();
    for name in &args.refs {
        let expected = store.read_ref(name)?.with_context(|| format!("there is no ref '{name}' in this repository"))?;
        let (requests, bytes) =
            verify(&store, args, url, name, expected).with_context(|| format!("'{name}' cannot be had from {url}"))?;
        if !args.json {
            let (requests, bytes) = (output::count(requests), output::size(bytes));
            output::note(format_args!("{name} was read from {url} and is right: {bytes} in {requests} requests"));
        }
        told.push(json!({ "ref": name, "commit": expected, "requests": requests, "bytes": bytes }));
    }
    Ok(json!({ "url": url, "refs": told }))
}

/// Reads one ref; every byte is compared with what the commit says. Returns the requests and the bytes received.
fn verify(store: &Store, args: &Args, url: &str, name: &RefName, expected: CommitId) -> Result<(u64, u64)> {
    let scratch = Scratch::new(store)?;
    let signers = args.sign.iter().map(|key| keys::secret(key)).collect::<Result<Vec<_>>>()?;
    let config = environment::complete(RemoteConfig {
        url: url.to_owned(),
        keys: signers.iter().map(SecretKey::public).collect(),
        insecure_unsigned: signers.is_empty(),
        transport: environment::transport_options(),
    });
    let remote = Remote::open(&scratch.store, "verified".parse::<RemoteName>()?, &config)?;
    let visit = Visit::remote(&scratch.store, &remote, name)?;
    if visit.id() != expected {
        bail!(
            "it is commit {} there, and {expected} here: something on the way keeps older refs, or shows another directory",
            visit.id()
        );
    }
    let tree = visit.open(&scratch.store, LazyOptions { patience: Patience::default(), ..LazyOptions::default() })?;
    let plan = tree.plan_prefetch(&Selection::Everything)?;
    let wholeness = tree.prefetch(&plan, &Selection::Everything)?;
    let figures = tree.figures();
    tree.flush();
    match wholeness {
        Wholeness::Whole => Ok((figures.requests, figures.bytes_fetched)),
        Wholeness::Incomplete => bail!("not all of it came"),
    }
}
