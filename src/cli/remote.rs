//! The verb `sapwood remote`.
//!
//! *Not here*: the options for talking to the server, see `transport_args`; the files of remotes, see `remote::Remotes`.

use std::num::NonZeroU32;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use serde_json::json;

use super::transport_args::{TransportArgs, changed_options};
use super::{output, repository};
use crate::cli::context::{Context, Run};
use crate::model::{RefName, RefPattern};
use crate::remote::{ExpiredPolicy, LearnKeys, Memory, RemoteConfig, RemoteName, Remotes, RemotesError};
use crate::source::keys;
use crate::store::Store;
use crate::trust::{PublicKey, RepositoryId};

/// Manage remotes: their URLs, and the keys that are trusted for them
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood remote add debian https://os.example.org/repo --key release.pub
  sapwood pull debian:debian/12
  sapwood mount debian:debian/12 /mnt
      without pulling first
  sapwood remote add lab https://10.0.0.5/os --key release.pub \\
    --ca-file lab-ca.pem --mirror https://10.0.0.6/os
  sapwood remote add bucket s3://my-bucket/os --key release.pub
  sapwood remote list

Buckets take credentials, endpoint and region from where their own tools do: AWS_ACCESS_KEY_ID, \
AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL, AWS_PROFILE and ~/.aws; GOOGLE_… and AZURE_… \
variables. AWS_SKIP_SIGNATURE=true reads a public bucket without any.")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Add a remote
    Add {
        /// A name for the remote
        name: RemoteName,
        /// Its URL: https://…, s3://bucket/…, gs://…, az://…, file:///…
        url: String,
        /// Trust what this key signed: a file, a name, or 64 hex digits; several are possible
        #[arg(long = "key", value_name = "KEY")]
        keys: Vec<String>,
        /// Accept everything from the server, signed or not
        #[arg(long, conflicts_with = "keys")]
        insecure_unsigned: bool,
        /// The identity of the repository, as 'sapwood remote show' prints it; that of the first answer unless given
        #[arg(long, value_name = "ID")]
        identity: Option<RepositoryId>,
        /// Whether a key that a trusted one announces takes its place: 'successors' or 'never'
        #[arg(long, value_name = "WHICH", default_value = "successors")]
        learn_keys: LearnKeys,
        /// What to do with a new state whose signature has expired, or is older than --max-age
        #[arg(long, value_name = "HOW", default_value = "warn")]
        expired: ExpiredPolicy,
        /// The most days since a new state was signed, whatever the publisher says
        #[arg(long, value_name = "DAYS")]
        max_age: Option<u32>,
        /// How many of the keys have to sign; one unless given
        #[arg(long, value_name = "N", conflicts_with = "insecure_unsigned")]
        signatures: Option<NonZeroU32>,
        /// Refuse states of REF with a smaller sequence ('sapwood log' shows sequences); several are possible
        #[arg(long, value_name = "REF=SEQUENCE", value_parser = parse_minimum)]
        at_least: Vec<(RefName, u64)>,
        /// Change the remote if there is one already
        #[arg(long)]
        replace: bool,
        #[command(flatten)]
        transport: Box<TransportArgs>,
    },
    /// Add, remove or list the keys that are trusted for a remote
    Key {
        #[command(subcommand)]
        action: KeyAction,
    },
    /// List remotes
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one remote: its trusted keys and the refs that were pulled
    Show {
        /// Its name
        name: RemoteName,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove a remote; what was pulled from it stays
    Remove {
        /// Its name
        name: RemoteName,
    },
}

#[derive(Debug, Subcommand)]
enum KeyAction {
    /// Trust a further key
    Add {
        /// The name of the remote
        name: RemoteName,
        /// A file, a name, or 64 hex digits
        key: String,
        /// Only for refs of this name, or with this beginning and '*' ('testing/*'); several are possible
        #[arg(long, value_name = "PATTERN")]
        refs: Vec<RefPattern>,
    },
    /// Trust a key no longer
    Remove {
        /// The name of the remote
        name: RemoteName,
        /// A file, a name, or 64 hex digits
        key: String,
    },
    /// List the trusted keys, one a line
    List {
        /// The name of the remote
        name: RemoteName,
    },
}

impl Run for Args {
    fn run(&self, context: &Context) -> Result<ExitCode> {
        let store = repository::open(context)?;
        let remotes = Remotes::of(&store);
        match &self.action {
            Action::Add {
                name,
                url,
                keys,
                insecure_unsigned,
                identity,
                learn_keys,
                expired,
                max_age,
                signatures,
                at_least,
                replace,
                transport,
            } => {
                match remotes.read(name) {
                    Ok(_) if !replace => return Err(RemotesError::Exists(name.clone()).into()),
                    Ok(_) | Err(RemotesError::Unknown(_)) => {}
                    Err(error) => return Err(error.into()),
                }
                let config = RemoteConfig {
                    identity: *identity,
                    learn_keys: *learn_keys,
                    expired: *expired,
                    max_age: *max_age,
                    signatures: *signatures,
                    at_least: at_least.iter().cloned().collect(),
                    transport: transport.to_options()?,
                    ..make_config(name, url, keys, *insecure_unsigned)?
                };
                check_signatures(name, &config)?;
                remotes.write(name, &config)?;
            }
            Action::Key { action } => change_keys(&remotes, action)?,
            Action::List { json } => list_remotes(&remotes, *json)?,
            Action::Show { name, json } => show_remote(&store, &remotes, name, *json)?,
            Action::Remove { name } => remotes.remove(name)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn make_config(name: &RemoteName, url: &str, keys: &[String], insecure_unsigned: bool) -> Result<RemoteConfig> {
    if keys.is_empty() && !insecure_unsigned {
        bail!(
            "no key is trusted for '{name}': give --key FILE (the publisher's public key), or --insecure-unsigned to accept \
             everything from the server"
        );
    }
    if !url.contains("://") {
        bail!("'{url}' is no URL; for a directory write file://{url}");
    }
    let keys = keys.iter().map(|key| keys::read_public(key)).collect::<Result<_, _>>()?;
    Ok(RemoteConfig { url: url.to_owned(), keys, insecure_unsigned, ..RemoteConfig::default() })
}

fn change_keys(remotes: &Remotes, action: &KeyAction) -> Result<()> {
    match action {
        KeyAction::Add { name, key, refs } => {
            let (mut config, key) = (remotes.read(name)?, keys::read_public(key)?);
            if !config.keys.contains(&key) {
                config.keys.push(key);
            }
            config.key_refs.remove(&key);
            if !refs.is_empty() {
                config.key_refs.insert(key, refs.clone());
            }
            remotes.write(name, &config)?;
        }
        KeyAction::Remove { name, key } => {
            let (mut config, key) = (remotes.read(name)?, keys::read_public(key)?);
            if !config.keys.contains(&key) {
                bail!("key {key} is not trusted for '{name}': 'sapwood remote key list {name}' lists those that are");
            }
            if config.keys == [key] && !config.insecure_unsigned {
                bail!("key {key} is the only one of '{name}': add another one before, or remove the remote");
            }
            config.keys.retain(|known| *known != key);
            config.key_refs.remove(&key);
            check_signatures(name, &config)?;
            remotes.write(name, &config)?;
        }
        KeyAction::List { name } => {
            let config = remotes.read(name)?;
            config.keys.iter().try_for_each(|key| output::line(describe_key(&config, *key)))?;
        }
    }
    Ok(())
}

/// Checks that there are as many keys as have to sign.
fn check_signatures(name: &RemoteName, config: &RemoteConfig) -> Result<()> {
    let (required, keys) = (config.signatures.map_or(0, NonZeroU32::get), config.keys.len());
    if keys < usize::try_from(required)? {
        bail!("{required} of the keys of '{name}' would have to sign, and it would have only {keys}");
    }
    Ok(())
}

fn parse_minimum(text: &str) -> Result<(RefName, u64)> {
    let (name, sequence) = text.split_once('=').context("REF=SEQUENCE, for example debian/12=40")?;
    Ok((name.parse()?, sequence.parse().with_context(|| format!("'{sequence}' is no sequence"))?))
}

/// Returns a key, with the refs that it is limited to.
fn describe_key(config: &RemoteConfig, key: PublicKey) -> String {
    let Some(refs) = config.key_refs.get(&key) else { return key.to_string() };
    let refs: Vec<String> = refs.iter().map(RefPattern::to_string).collect();
    format!("{key} for {}", refs.join(" "))
}

fn describe_trust(config: &RemoteConfig) -> String {
    if config.insecure_unsigned {
        return "anybody".to_owned();
    }
    config.keys.iter().map(|key| key.short()).collect::<Vec<_>>().join(" ")
}

fn list_remotes(remotes: &Remotes, as_json: bool) -> Result<()> {
    let mut rows = Vec::new();
    let mut values = Vec::new();
    for name in remotes.names()? {
        let config = remotes.read(&name)?;
        let config = config.without_secrets();
        rows.push(vec![name.to_string(), config.url.clone(), describe_trust(&config)]);
        values.push(json!({ "name": name, "config": config }));
    }
    if as_json {
        output::json(&values)?;
    } else if rows.is_empty() {
        output::note("no remotes yet; 'sapwood remote add NAME URL --key FILE' adds one");
    } else {
        output::table(&["NAME", "URL", "TRUSTS"], &[], &rows)?;
    }
    Ok(())
}

fn show_remote(store: &Store, remotes: &Remotes, name: &RemoteName, as_json: bool) -> Result<()> {
    let config = remotes.read(name)?;
    let memory = Memory::of(store, name, &config);
    let identity = config.identity.map_or_else(|| memory.pinned(), |id| Ok(Some(id)))?;
    let config = config.without_secrets();
    let prefix = format!("remotes/{name}/");
    let mut pulled = store.refs()?;
    pulled.retain(|(local, _)| local.as_str().starts_with(&prefix));
    let pulled = pulled.iter().map(|(local, commit)| (&local.as_str()[prefix.len()..], commit));
    if as_json {
        let refs: Vec<_> = pulled.map(|(name, commit)| json!({ "ref": name, "commit": commit })).collect();
        return Ok(output::json(&json!({ "name": name, "config": config, "refs": refs, "identity": identity }))?);
    }
    output::line(format_args!("name    {name}"))?;
    output::line(format_args!("url     {}", config.url))?;
    match &config.keys[..] {
        _ if config.insecure_unsigned => output::line("trusts  anybody: nothing is checked")?,
        keys => {
            keys.iter().try_for_each(|key| output::line(format_args!("trusts  {}", describe_key(&config, *key))))?;
        }
    }
    if let Some(required) = config.signatures {
        output::line(format_args!("required  {required} signatures"))?;
    }
    for (name, minimum) in &config.at_least {
        output::line(format_args!("at least  {name} {minimum}"))?;
    }
    if let Some(identity) = identity {
        for announcement in memory.key_chain(identity)?.announcements() {
            let (old, new, when) =
                (announcement.old.short(), announcement.new.short(), output::time(announcement.timestamp));
            output::line(format_args!(
                "keys      generation {}: {new} replaced {old}, announced {when}",
                announcement.generation
            ))?;
        }
        output::line(format_args!("identity  {identity}"))?;
    }
    for (name, value) in changed_options(&config.transport) {
        output::line(format_args!("{name}  {value}"))?;
    }
    for (name, commit) in pulled {
        output::line(format_args!("ref     {name} {}", commit.short()))?;
    }
    Ok(())
}
