//! The verb `sapwood publish`.
//!
//! Its parts: `report` prints plans and results, `prune` runs `--prune` and `--regroup`, `verify` runs `--verify`.
//!
//! *Not here*: publishing itself, see `remote::publish` and `remote::prune`.

mod prune;
mod report;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value};

use super::{output, repository};
use crate::cli::context::{Context, Run};
use crate::model::RefName;
use crate::remote::format::{FRAME_RAW_MAX, ProfileText};
use crate::remote::lease::LeaseTerms;
use crate::remote::publish::{
    DEFAULT_LEVEL, FrameSizes, PACK_SIZE, PublishError, PublishOptions, PublishProgress, PublishRequest, Survey, apply,
    choose_identity, choose_key_chain, estimate, plan, refresh, survey,
};
use crate::remote::transport::Transport;
use crate::remote::{DAY, Remotes, RemotesError};
use crate::source::{environment, keys};
use crate::store::Store;
use crate::trust::{KeyChain, PublicKey, RepositoryId, SecretKey};

/// The text at the end of `-h`, with which the text at the end of `--help` begins.
macro_rules! examples {
    () => {
        "\
Examples:
  sapwood key generate release
  sapwood publish --sign release file:///srv/www/os debian/12
      a directory that a web server shows
  sapwood publish --sign release s3://bucket/os debian/12
      AWS_… variables or ~/.aws as usual
  sapwood publish --dry-run file:///srv/www/os debian/12
      how much would be sent
  sapwood publish --sign release --verify https://os.example.org \\
    file:///srv/www/os debian/12
      publish, then read it as machines do
  sapwood publish --refresh --sign release s3://bucket/os
      sign all refs again before they expire, for example each week
  sapwood publish --prune --keep-last 5 file:///srv/www/os
      remove what is older
  sapwood publish --prune --keep-younger-than 90d --sign release \\
    s3://bucket/os debian/12
      publish, then prune

Only what is not there yet is sent, and the ref is written last: readers see the old state or the new one. \
A publisher that was stopped can be started again; nothing is sent twice. Several may publish to one place."
    };
}

/// Put commits where others can pull and mount them
#[derive(Debug, clap::Args)]
#[command(after_help = examples!(), after_long_help = LONG_HELP)]
pub(crate) struct Args {
    /// The destination: file:///DIR, s3://BUCKET/…, gs://…, az://…, or the name of a remote
    #[arg(value_name = "DEST")]
    destination: String,
    /// The refs to publish
    #[arg(required_unless_present_any = ["prune", "regroup", "refresh"], value_name = "REF")]
    refs: Vec<RefName>,
    /// Until when clients take the refs as new, in days from now; 'never' for no limit
    #[arg(long, value_name = "DAYS", default_value = "30", value_parser = parse_lifetime)]
    expires: Lifetime,
    /// Sign the published refs again, all or those named, with a new expiry; no commit is sent
    #[arg(long, requires = "sign", conflicts_with_all = ["depth", "force", "profile", "dry_run", "verify", "prune", "regroup"])]
    refresh: bool,
    /// The identity to publish as; that of the destination, or of this repository, unless given
    #[arg(long, value_name = "ID")]
    identity: Option<RepositoryId>,
    /// The time of signing in seconds since 1970; for tests
    #[arg(long, value_name = "SECONDS", hide = true)]
    time: Option<i64>,
    /// Sign commits and refs with this key (a name or a file); several are possible
    #[arg(long, value_name = "KEY")]
    sign: Vec<String>,
    /// Also publish this many ancestors of each ref
    #[arg(long, value_name = "N", default_value_t = 0)]
    depth: u64,
    /// Level of zstd, 1 to 22: higher is smaller and slower
    #[arg(long, value_name = "LEVEL", default_value_t = DEFAULT_LEVEL, value_parser = clap::value_parser!(i32).range(1..=22))]
    level: i32,
    /// Make a delta from each of this many published ancestors, for clients that have one of them
    #[arg(long, value_name = "N", default_value_t = 1)]
    deltas: u64,
    /// Pack first what this profile lists, and publish it ('sapwood profile record' makes one)
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Replace the published commit even if it is no ancestor of the new one
    #[arg(long)]
    force: bool,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Afterwards read all of the refs through this address, as a client's lazy mount does, and compare
    #[arg(long, value_name = "URL", requires = "refs", conflicts_with = "dry_run")]
    verify: Option<String>,
    /// The largest size of a pack
    #[arg(long, value_name = "BYTES", hide = true, default_value_t = PACK_SIZE)]
    pack_size: u64,
    /// The size from which a content has a frame of its own; for measuring
    #[arg(long, value_name = "BYTES", hide = true)]
    own_frame: Option<u64>,
    /// The bytes of content that share a frame; for measuring
    #[arg(long, value_name = "BYTES", hide = true, value_parser = parse_shared_frame)]
    shared_frame: Option<usize>,
    /// Seconds after which the lease of a publisher that died expires; for tests
    #[arg(long, value_name = "SECONDS", hide = true)]
    lease: Option<u64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    // It is last because its help heading applies to all arguments that follow.
    #[command(flatten)]
    prune: prune::PruneArgs,
}

/// The text at the end of `--help`.
const LONG_HELP: &str = concat!(
    examples!(),
    "

Any web server that serves plain files and answers Range requests will do, such as

  server { listen 443 ssl; server_name os.example.org; root /srv/www/os;
    location ~ ^/(packs|images|locators|deltas|profiles)/ {
      add_header Cache-Control immutable; expires max; }
    location / { expires -1; } }

A bucket needs the rights to read, write, list and delete, and conditional writes (S3 itself and most \
compatible servers have them; each publish and prune tests this, and refuses a bucket that ignores the \
conditions). A rule that aborts unfinished multipart uploads removes what killed publishers left.

--verify reads each ref of the command through the address that machines use, into an empty repository that \
is removed afterwards: the names first, then everything, each byte compared with the commit. What a cache \
or a web server on the way does to the files is found there, and not on the machines.

Pruning. Of each ref the newest commit is kept, and those before it as --keep-last or --keep-younger-than \
say, or all. A file that no kept commit needs is marked; when its mark is older than --grace, the next \
prune removes it, so run it regularly, for example by a timer after publishing. A pack of which most is not \
needed any more is copied without that part. Publishers may work at the same time.

A lazy mount of a commit that is kept works whatever is pruned, however long it runs: when contents have \
moved, it asks the remote for their new place. The publisher does not know what is mounted, so a machine \
that lazily mounts a commit that is not kept any more can read only what it fetched before the grace \
period ended. Keep what machines may still run, for example by --keep-younger-than 90d, or have them fetch \
everything (--background-fill). The grace period, a day unless --grace says otherwise, \
is for pulls under way and for caches that still show an older ref: it should be longer than caches keep \
refs and than a pull takes. --grace 0 removes at once: a pull that is under way then has to be repeated.

What a new client fetches. Each publish makes a pack, and packs keep contents that the newest commit does \
not have any more. So a publish packs some older contents again together with new ones: at most two bytes \
for each new one, now or later, so that a new client never needs more than some 40 requests, or 1.6 times \
the bytes that it would need if the commit were published alone. --prune, and --regroup without removing \
anything, do all of it for the newest commit of each ref: then it takes at most 7 requests more, and 1.1 \
times the bytes. Files that this makes superfluous are marked and removed as above; a client that knows \
only the old places can go on.

--json prints one object. Of publishing:
      commits: [{commit, new_objects, again, image_bytes, new_deltas}], packs, pack_bytes, content_bytes, \
      repacked_bytes (those of content_bytes that had been published before), delta_bytes, \
      already_there (bytes that an earlier attempt had sent), traffic: {requests, received, sent}
Of --dry-run:
      refs: [{ref, commit, replaces}], commits: [{commit, is_published, new_objects, again: {objects, bytes}, \
      content_bytes, deltas_from}], content_bytes, estimate: {pack_bytes, metadata_bytes, delta_bytes, \
      delta_objects, requests, sampled_bytes}
Of --prune:
      refs, commits (numbers that stay), dropped: [commit], regroup: [{ref, content_bytes, cost, fresh}] \
      (of which cost and fresh are {requests, bytes}), repack: [{pack, bytes, live_bytes}], supersede, \
      remove: [{path, bytes}], waiting: [{path, bytes, seconds}], restore: [path], kept_bytes, and when it \
      was done: new_packs, new_pack_bytes, traffic
Of several:
      {publish: …, prune: …, verify: {url, refs: [{ref, commit, requests, bytes}]}}"
);

impl Run for Args {
    fn run(&self, context: &Context) -> Result<ExitCode> {
        if self.refresh {
            sign_again(self, context).with_context(|| format!("cannot sign the refs of {} again", self.destination))?;
            return Ok(ExitCode::SUCCESS);
        }
        let published = match self.refs[..] {
            [] => None,
            _ => Some(publish(self, context).with_context(|| format!("cannot publish to {}", self.destination))?),
        };
        let pruned = if self.prune.is_wanted() {
            Some(prune::run(self, context).with_context(|| format!("cannot prune {}", self.destination))?)
        } else {
            None
        };
        let verified = self.verify.as_ref().map(|url| verify::run(self, url, context)).transpose()?;
        if self.json {
            let parts = [("publish", published), ("prune", pruned), ("verify", verified)];
            let mut parts: Vec<(&str, Value)> =
                parts.into_iter().filter_map(|(name, part)| Some((name, part?))).collect();
            match parts.len() {
                1 => output::json(&parts.remove(0).1)?,
                _ => {
                    output::json(&parts.into_iter().map(|(name, part)| (name.to_owned(), part)).collect::<Map<_, _>>())?
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Publishes, or plans it for `--dry-run`, and prints the result unless it is wanted as JSON. Returns the JSON.
fn publish(args: &Args, context: &Context) -> Result<serde_json::Value> {
    let begin = Instant::now();
    let store = repository::open(context)?;
    let transport = open_destination(&args.destination, context)?;
    let (mut request, mut options) = request(args)?;
    let survey = survey(&store, &transport, &request).map_err(with_hint)?;
    if !args.dry_run {
        if let Err(error) = bind(args, &store, &transport, &survey, &mut options) {
            // That the history is another one says more than that the repository is.
            plan(&store, &survey, &request).map_err(with_hint)?;
            return Err(error);
        }
        request.repository = options.repository;
    }
    let plan = plan(&store, &survey, &request).map_err(with_hint)?;
    if args.dry_run {
        let estimate = estimate(&store, &transport, &plan, &options).map_err(with_hint)?;
        return report::print_plan(&plan, &estimate, args);
    }
    if options.signers.is_empty() {
        output::note("nothing is signed: clients need --insecure-unsigned ('sapwood key generate' makes a key)");
    }
    let progress = PublishProgress::default();
    let work = || apply(&store, &transport, &survey, &plan, &options, &progress);
    let report = output::while_publishing(&progress, work).map_err(with_hint)?;
    report::print_report(&plan, &report, args, begin)
}

/// Signs the published refs again, and prints until when they are to be taken as new.
fn sign_again(args: &Args, context: &Context) -> Result<()> {
    let store = repository::open(context)?;
    let transport = open_destination(&args.destination, context)?;
    let (_, mut options) = request(args)?;
    let survey = survey(&store, &transport, &PublishRequest::default()).map_err(with_hint)?;
    bind(args, &store, &transport, &survey, &mut options)?;
    let records = refresh(&transport, &survey, &args.refs, &options).map_err(with_hint)?;
    if args.json {
        return Ok(output::json(&records)?);
    }
    for record in &records {
        let expires = record.binding.and_then(|binding| binding.expires);
        let until = expires.map_or_else(|| "never".to_owned(), output::time);
        output::line(format_args!("{} {} expires {until}", record.name, record.commit.short()))?;
    }
    Ok(())
}

/// Determines the repository that is published and the generation of its keys.
fn bind(
    args: &Args,
    store: &Store,
    transport: &Transport,
    survey: &Survey,
    options: &mut PublishOptions,
) -> Result<()> {
    let signers: Vec<PublicKey> = options.signers.iter().map(SecretKey::public).collect();
    let chosen = choose_identity(store, survey, &signers, args.identity, new_identity()?);
    options.repository = Some(chosen.map_err(with_hint)?);
    let own = std::mem::take(&mut options.key_chain);
    options.key_chain = choose_key_chain(transport, survey, own, &signers).map_err(with_hint)?;
    Ok(())
}

/// Returns a random identity.
fn new_identity() -> Result<RepositoryId> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).context("the system gives no random numbers")?;
    Ok(RepositoryId::from_bytes(bytes))
}

/// For how many seconds refs are to be taken as new; `None` for ever.
#[derive(Debug, Clone, Copy)]
struct Lifetime(Option<i64>);

fn parse_lifetime(text: &str) -> Result<Lifetime> {
    if text == "never" {
        return Ok(Lifetime(None));
    }
    let days: u32 = text.parse().context("a number of days, or 'never'")?;
    Ok(Lifetime(Some(i64::from(days) * DAY)))
}

/// Returns the request and the options that the arguments make.
fn request(args: &Args) -> Result<(PublishRequest, PublishOptions)> {
    let signers = args.sign.iter().map(|key| keys::read_secret(key)).collect::<Result<Vec<_>, _>>()?;
    let chains = args.sign.iter().map(|key| keys::read_key_chain(key)).collect::<Result<Vec<_>, _>>()?;
    let profile = args.profile.as_deref().map(ProfileText::read).transpose()?;
    let request = PublishRequest {
        names: args.refs.clone(),
        depth: args.depth,
        deltas: args.deltas,
        force: args.force,
        signers: signers.iter().map(SecretKey::public).collect(),
        repository: None,
        profile: profile.clone(),
        pack_size: args.pack_size,
    };
    let frames = FrameSizes::default();
    let options = PublishOptions {
        level: args.level,
        frames: FrameSizes {
            own: args.own_frame.unwrap_or(frames.own),
            shared: args.shared_frame.unwrap_or(frames.shared),
        },
        pack_size: args.pack_size,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        signers,
        key_chain: chains.into_iter().max_by_key(KeyChain::generation).unwrap_or_default(),
        profile,
        now: args.time.unwrap_or_else(|| jiff::Timestamp::now().as_second()),
        repository: None,
        lifetime: args.expires.0,
        lease: args.lease_terms(),
        announce: Box::new(print_waiting),
    };
    Ok((request, options))
}

impl Args {
    fn lease_terms(&self) -> LeaseTerms {
        self.lease.map_or_else(LeaseTerms::default, |seconds| LeaseTerms { expiry: Duration::from_secs(seconds) })
    }
}

fn print_waiting(holder: &str) {
    output::note(format_args!("waiting for {holder}, which is writing names or removing files there…"));
}

fn parse_shared_frame(text: &str) -> Result<usize> {
    let bytes: usize = text.parse()?;
    if bytes > FRAME_RAW_MAX {
        bail!("a frame has at most {FRAME_RAW_MAX} bytes");
    }
    Ok(bytes)
}

/// Opens the destination: a URL, or a configured remote.
fn open_destination(text: &str, context: &Context) -> Result<Transport> {
    if text.contains("://") {
        return Ok(Transport::open_destination(text, &environment::transport_options())?);
    }
    let name = text.parse().with_context(|| format!("'{text}' is neither a URL nor a remote"))?;
    match Remotes::of(&repository::open(context)?).read(&name) {
        Err(RemotesError::Unknown(_)) => {
            bail!("'{text}' is neither a URL nor a remote; for a directory write file://{text}")
        }
        other => {
            let config = environment::with_environment(other?);
            Ok(Transport::open_destination(&config.url, &config.transport)?)
        }
    }
}

/// Adds a hint to an error whose next command is known.
fn with_hint(error: PublishError) -> anyhow::Error {
    let hint = match &error {
        PublishError::OtherRepository { .. }
        | PublishError::SeveralRepositories(..)
        | PublishError::UnsignedIdentity(_) => "if that destination is meant, name its identity: --identity ID",
        PublishError::ReplacedKey { .. } => "sign with the newer key: --sign NAME",
        PublishError::OtherKeys { .. } => {
            "announce the new key by the newest one of the destination: 'sapwood key generate NEW --announced-by OLD'"
        }
        PublishError::NoKeyChain { .. } => {
            "put NAME.announcement, which 'sapwood key generate' wrote, beside the key, or keys/generations back in its place"
        }
        PublishError::NotSigned { .. } => {
            "only a ref that one of the keys signed before is signed again; publish it instead"
        }
        PublishError::NoSuchRef(_) => "'sapwood refs' lists what there is",
        PublishError::Diverged { .. } => "pull and build on it, or replace it with --force",
        PublishError::RefChanged { .. } | PublishError::Pruned { .. } | PublishError::NotPacked { .. } => {
            "run the same command again: what was sent is not sent again"
        }
        _ => return error.into(),
    };
    anyhow::Error::from(error).context(super::error::Hint(hint))
}
