//! `sapwood publish --verify URL`: reads the published refs through their public address, as a client's lazy mount does.
//!
//! *Invariants*: everything is read into an empty repository, which is removed afterwards. So contents that are missing at the
//! address cannot be taken from the local repository.
//!
//! *Used by* `publish::mod`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::Args;
use crate::cache::{LazyOptions, Patience, ResolvedCommit, Selection};
use crate::cli::context::Context;
use crate::cli::{output, repository};
use crate::model::{CommitId, RefName};
use crate::remote::{Remote, RemoteConfig, RemoteName};
use crate::source::{environment, keys};
use crate::store::{CommitCompleteness, Config, Store};
use crate::trust::SecretKey;

/// An empty repository that is removed when it is dropped.
struct ScratchRepository {
    path: PathBuf,
    store: Store,
}

impl ScratchRepository {
    fn new(beside: &Store) -> Result<Self> {
        let path = beside.layout().temporary().join(format!("verify-{}", std::process::id()));
        remove(&path);
        let store = Store::init(&path, &Config::default())?;
        Ok(Self { path, store })
    }
}

impl Drop for ScratchRepository {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn remove(path: &Path) {
    if let Err(error) = crate::disk::remove_directory(path) {
        tracing::warn!("cannot remove {}: {error}", path.display());
    }
}

/// Reads all refs of `args` through `url` and compares them with the repository. Returns the result as JSON.
///
/// # Errors
/// When a ref is another commit there, or not all of it can be read.
pub(super) fn run(args: &Args, url: &str, context: &Context) -> Result<Value> {
    let store = repository::open(context)?;
    let mut results = Vec::new();
    for name in &args.refs {
        let expected = store.read_ref(name)?.with_context(|| format!("there is no ref '{name}' in this repository"))?;
        let (requests, bytes) = verify_ref(&store, args, url, name, expected)
            .with_context(|| format!("cannot read '{name}' from {url}"))?;
        if !args.json {
            let (requests, bytes) = (output::count(requests), output::size(bytes));
            output::note(format_args!(
                "{name} was read from {url} and is complete and correct: {bytes} in {requests} requests"
            ));
        }
        results.push(json!({ "ref": name, "commit": expected, "requests": requests, "bytes": bytes }));
    }
    Ok(json!({ "url": url, "refs": results }))
}

/// Reads one ref completely and verifies every byte. Returns the number of requests and of bytes received.
fn verify_ref(store: &Store, args: &Args, url: &str, name: &RefName, expected: CommitId) -> Result<(u64, u64)> {
    let scratch = ScratchRepository::new(store)?;
    let signers = args.sign.iter().map(|key| keys::read_secret(key)).collect::<Result<Vec<_>, _>>()?;
    let config = environment::with_environment(RemoteConfig {
        url: url.to_owned(),
        keys: signers.iter().map(SecretKey::public).collect(),
        insecure_unsigned: signers.is_empty(),
        transport: environment::transport_options(),
        ..RemoteConfig::default()
    });
    let remote = Remote::open(&scratch.store, "verified".parse::<RemoteName>()?, &config)?;
    let resolved = ResolvedCommit::from_remote(&scratch.store, &remote, name)?;
    if resolved.id() != expected {
        bail!(
            "it is commit {} there, but {expected} here: a cache on the way keeps older refs, or the address is of another directory",
            resolved.id()
        );
    }
    let tree =
        resolved.open(&scratch.store, LazyOptions { patience: Patience::default(), ..LazyOptions::default() })?;
    let plan = tree.plan_prefetch(&Selection::Everything)?;
    let wholeness = tree.prefetch(&plan, &Selection::Everything)?;
    let figures = tree.figures();
    tree.close();
    match wholeness {
        CommitCompleteness::Complete => Ok((figures.requests, figures.bytes_fetched)),
        CommitCompleteness::Incomplete => bail!("not all contents were received"),
    }
}
