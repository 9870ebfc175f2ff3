//! The verb `sapwood key`.
//!
//! *Not here*: finding and reading keys, see `source::keys`; signing, see `crate::trust`.

use std::fs::{self, DirBuilder};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use serde_json::json;

use super::output;
use crate::cli::context::{Context, Run};
use crate::disk;
use crate::source::keys;
use crate::trust::{PublicKey, SecretKey};

/// Make and show the keys that sign what is published
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood key generate release
      makes release.key and release.pub
  sapwood publish --sign release s3://bucket/os debian/12
  sapwood key export release > release.pub
      what clients need: sapwood remote add --key release.pub …

  sapwood key generate release-2 --announced-by release
      the new key replaces the old one: clients that trust the old one trust the new one instead

Keys are in $SAPWOOD_KEYS, else /etc/sapwood/keys for root, else $XDG_CONFIG_HOME/sapwood/keys.")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a new key
    Generate {
        /// Its name, also the name of its files
        name: String,
        /// A comment for the files of the key, such as its owner; the name unless given
        #[arg(long, default_value = "")]
        comment: String,
        /// An older key that this one replaces: clients that trust it come to trust this one instead
        #[arg(long, value_name = "KEY")]
        announced_by: Option<String>,
    },
    /// List the keys there are
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the public half of a key
    Export {
        /// Its name or file
        key: String,
    },
}

impl Run for Args {
    fn run(&self, _context: &Context) -> Result<ExitCode> {
        match &self.action {
            Action::Generate { name, comment, announced_by } => generate(name, comment, announced_by.as_deref())?,
            Action::List { json } => list_keys(*json)?,
            Action::Export { key } => output::line(public_line(key)?.trim_end())?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn generate(name: &str, comment: &str, announced_by: Option<&str>) -> Result<()> {
    if name.contains(['/', '.']) || name.is_empty() {
        bail!("'{name}' cannot name a key: it may contain neither '/' nor '.'");
    }
    let old = announced_by
        .map(|old| Ok::<_, keys::KeyFileError>((keys::read_secret(old)?, keys::read_key_chain(old)?)))
        .transpose()?;
    let directory = keys::directory()?;
    let mut maker = DirBuilder::new();
    maker
        .recursive(true)
        .mode(0o700)
        .create(&directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let path = directory.join(name).with_extension(keys::SECRET_SUFFIX);
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).context("the system gives no random numbers")?;
    let key = SecretKey::from_seed(&seed);
    let comment = if comment.is_empty() { name } else { comment };
    write_secret(&path, &key.to_line(comment))?;
    let public = path.with_extension(keys::PUBLIC_SUFFIX);
    write_public_file(&public, key.public().to_line(comment).as_bytes())?;
    if let Some((old, chain)) = old {
        let chain = chain.announce(&old, &key, jiff::Timestamp::now().as_second())?;
        write_public_file(&path.with_extension(keys::ANNOUNCEMENT_SUFFIX), &chain.encode())?;
        output::note(format_args!(
            "from the next publish with it, it replaces key {} (generation {}); publish every ref with it",
            old.public().short(),
            chain.generation()
        ));
    }
    output::note(format_args!("wrote {} (keep it secret) and {}", path.display(), public.display()));
    Ok(output::line(key.public())?)
}

/// Writes a secret key into a new file. An existing file is never overwritten.
fn write_secret(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let opened = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = match opened {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            bail!("there is a key {} already: choose another name", path.display())
        }
        other => other.with_context(|| format!("cannot create {}", path.display()))?,
    };
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .with_context(|| format!("cannot write {}", path.display()))
}

fn write_public_file(path: &Path, bytes: &[u8]) -> Result<()> {
    disk::replace(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

fn public_line(key: &str) -> Result<String> {
    match keys::read_secret(key) {
        Ok(secret) => Ok(secret.public().to_line(key.rsplit('/').next().unwrap_or(key))),
        Err(_) => Ok(keys::read_public(key)?.to_line("")),
    }
}

fn list_keys(as_json: bool) -> Result<()> {
    let directory = keys::directory()?;
    let mut keys: Vec<(String, PublicKey, &str)> = Vec::new();
    let entries = match fs::read_dir(&directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        other => other.and_then(Iterator::collect).with_context(|| format!("cannot list {}", directory.display()))?,
    };
    for entry in entries {
        let path = entry.path();
        if path.extension().is_none_or(|suffix| suffix != keys::PUBLIC_SUFFIX) {
            continue;
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let key = text.parse().with_context(|| format!("{}", path.display()))?;
        let can_sign = path.with_extension(keys::SECRET_SUFFIX).exists();
        keys.push((name, key, if can_sign { "signs" } else { "verifies" }));
    }
    keys.sort();
    if as_json {
        let values: Vec<_> =
            keys.iter().map(|(name, key, use_)| json!({ "name": name, "key": key, "use": use_ })).collect();
        return Ok(output::json(&values)?);
    }
    if keys.is_empty() {
        output::note(format_args!("no keys in {}; 'sapwood key generate NAME' makes one", directory.display()));
        return Ok(());
    }
    let rows: Vec<_> = keys.into_iter().map(|(name, key, use_)| vec![name, key.to_string(), use_.to_owned()]).collect();
    Ok(output::table(&["NAME", "KEY", "USE"], &[], &rows)?)
}
