//! `sapwood remote`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Subcommand;
use serde_json::json;

use super::transport_args::{TransportArgs, differences};
use super::{Context, keys, output, repository};
use crate::remote::{RemoteConfig, RemoteName, Remotes, RemotesError};
use crate::store::Store;

/// Manage the places commits are pulled from
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood remote add debian https://os.example.org/repo --key release.pub
  sapwood pull debian:debian/12
  sapwood mount debian:debian/12 /mnt        without pulling first
  sapwood remote add lab https://10.0.0.5/os --key release.pub --ca-file lab-ca.pem --mirror https://10.0.0.6/os
  sapwood remote add bucket s3://my-bucket/os --key release.pub
  sapwood remote list

Buckets take credentials, endpoint and region from where their own tools do: AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL, AWS_PROFILE and ~/.aws; GOOGLE_… and AZURE_…
variables. AWS_SKIP_SIGNATURE=true reads a public bucket without any.")]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Add a remote
    Add {
        /// How to call it
        name: RemoteName,
        /// Where it is: https://…, s3://bucket/…, gs://…, az://…, file:///…
        url: String,
        /// Trust what this key signed: a file, a name, or 64 hex digits; several are possible
        #[arg(long = "key", value_name = "KEY")]
        keys: Vec<String>,
        /// Believe whatever the server says, signed or not
        #[arg(long, conflicts_with = "keys")]
        insecure_unsigned: bool,
        /// Change the remote if there is one already
        #[arg(long)]
        replace: bool,
        #[command(flatten)]
        transport: Box<TransportArgs>,
    },
    /// List remotes
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one remote: whom it trusts and which refs were pulled
    Show {
        /// Which
        name: RemoteName,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove a remote; what was pulled from it stays
    Remove {
        /// Which
        name: RemoteName,
    },
}

/// Runs the verb.
///
/// # Errors
/// When the remote exists, does not exist, or cannot be written.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode> {
    let store = repository::open(context)?;
    let remotes = Remotes::of(&store);
    match &args.action {
        Action::Add { name, url, keys, insecure_unsigned, replace, transport } => {
            match remotes.read(name) {
                Ok(_) if !replace => return Err(RemotesError::Exists(name.clone()).into()),
                Ok(_) | Err(RemotesError::Unknown(_)) => {}
                Err(error) => return Err(error.into()),
            }
            let config = config(name, url, keys, *insecure_unsigned)?;
            remotes.write(name, &RemoteConfig { transport: transport.to_options()?, ..config })?;
        }
        Action::List { json } => list(&remotes, *json)?,
        Action::Show { name, json } => show(&store, &remotes, name, *json)?,
        Action::Remove { name } => remotes.remove(name)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn config(name: &RemoteName, url: &str, keys: &[String], insecure_unsigned: bool) -> Result<RemoteConfig> {
    if keys.is_empty() && !insecure_unsigned {
        bail!(
            "whom to trust for '{name}'? Give --key FILE (the publisher's public key), or --insecure-unsigned to believe \
             whatever the server says"
        );
    }
    if !url.contains("://") {
        bail!("'{url}' is no URL; for a directory write file://{url}");
    }
    let keys = keys.iter().map(|key| keys::public(key)).collect::<Result<_>>()?;
    Ok(RemoteConfig { url: url.to_owned(), keys, insecure_unsigned, ..RemoteConfig::default() })
}

fn trust(config: &RemoteConfig) -> String {
    if config.insecure_unsigned {
        return "anybody".to_owned();
    }
    config.keys.iter().map(|key| key.short()).collect::<Vec<_>>().join(" ")
}

fn list(remotes: &Remotes, as_json: bool) -> Result<()> {
    let mut rows = Vec::new();
    let mut values = Vec::new();
    for name in remotes.names()? {
        let config = remotes.read(&name)?;
        let config = config.without_secrets();
        rows.push(vec![name.to_string(), config.url.clone(), trust(&config)]);
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

fn show(store: &Store, remotes: &Remotes, name: &RemoteName, as_json: bool) -> Result<()> {
    let config = remotes.read(name)?.without_secrets();
    let prefix = format!("remotes/{name}/");
    let mut pulled = store.refs()?;
    pulled.retain(|(local, _)| local.as_str().starts_with(&prefix));
    let pulled = pulled.iter().map(|(local, commit)| (&local.as_str()[prefix.len()..], commit));
    if as_json {
        let refs: Vec<_> = pulled.map(|(name, commit)| json!({ "ref": name, "commit": commit })).collect();
        return Ok(output::json(&json!({ "name": name, "config": config, "refs": refs }))?);
    }
    output::line(format_args!("name    {name}"))?;
    output::line(format_args!("url     {}", config.url))?;
    match &config.keys[..] {
        _ if config.insecure_unsigned => output::line("trusts  anybody: nothing is checked")?,
        keys => keys.iter().try_for_each(|key| output::line(format_args!("trusts  {key}")))?,
    }
    for (name, value) in differences(&config.transport) {
        output::line(format_args!("{name}  {value}"))?;
    }
    for (name, commit) in pulled {
        output::line(format_args!("ref     {name} {}", commit.short()))?;
    }
    Ok(())
}
