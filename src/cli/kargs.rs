//! The verb `sapwood kargs`.
//!
//! *Not here*: making the new deployment, see `deploying`; applying the edits, see `deploy::kargs`.

use std::env;
use std::fs;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::deploying::{self, DeployArgs, DeployCandidate};
use super::output;
use crate::cli::context::{Context, Run};
use crate::deploy::first_boot::FirstBoot;
use crate::deploy::kargs::{KargEdit, Kargs};
use crate::deploy::status;
use crate::deploy::sysroot::Deployment;

/// Show or change the kernel arguments
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood kargs
      what boots next boots with
  sapwood kargs --append console=ttyS0 --delete quiet
  sapwood kargs --replace root=UUID=1=UUID=2
      where a key has several values: KEY=OLD=NEW
  sapwood kargs --editor

Changes are made in a new deployment of the same commit, so that 'sapwood rollback' takes them back. \
An upgrade keeps them, and follows what commits suggest where nothing was changed here.")]
pub(crate) struct Args {
    /// Add an argument
    #[arg(long, value_name = "KEY[=VALUE]")]
    append: Vec<String>,

    /// Add an argument unless the very same is there
    #[arg(long, value_name = "KEY[=VALUE]")]
    append_if_missing: Vec<String>,

    /// Remove an argument
    #[arg(long, value_name = "KEY[=VALUE]")]
    delete: Vec<String>,

    /// Remove an argument if it is there
    #[arg(long, value_name = "KEY[=VALUE]")]
    delete_if_present: Vec<String>,

    /// Change the value of an argument
    #[arg(long, value_name = "KEY=VALUE[=NEW]")]
    replace: Vec<String>,

    /// Edit them all in $EDITOR
    #[arg(long, conflicts_with_all = ["append", "append_if_missing", "delete", "delete_if_present", "replace"])]
    editor: bool,

    #[command(flatten)]
    common: DeployArgs,
}

impl Run for Args {
    fn run(&self, _context: &Context) -> Result<ExitCode> {
        let opened = self.common.sysroot.open()?;
        let state = opened.state()?;
        state.check_menu()?;
        let Some(current) = state.next_to_boot() else { bail!("nothing is deployed") };
        let before = current_arguments(current);
        let edits = if self.editor { edit_interactively(&before)? } else { requested_edits(self) };
        if edits.is_empty() {
            if self.common.json {
                output::json(
                    &json!({ "deployment": current.id, "kargs": before, "suggested": current.origin.suggested_kargs }),
                )?;
            } else {
                output::line(&before)?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        let store = opened.sysroot.store();
        let chosen = status::choose_again(store, current)?;
        let image = store.image(chosen.commit.image)?;
        // A staged deployment is replaced by one with its commit, and begins with the /etc that runs.
        let base = state.merge_base(current.id.stateroot()).map_or_else(|| before.clone(), current_arguments);
        let edits = if base == before { edits } else { edits_from_base(&base, &before, edits) };
        let candidate = DeployCandidate {
            chosen,
            image: &image,
            stateroot: current.id.stateroot().clone(),
            kargs: edits,
            first_boot: FirstBoot::default(),
            fetched: None,
        };
        if self.common.dry_run {
            deploying::print_plan(&opened, &candidate, &self.common)
        } else {
            deploying::deploy(&opened, &candidate, &self.common)
        }
    }
}

fn current_arguments(deployment: &Deployment) -> Kargs {
    deployment.entry.as_ref().map_or_else(|| deployment.origin.kargs.clone(), |entry| entry.target.options.clone())
}

fn requested_edits(args: &Args) -> Vec<KargEdit> {
    let make = |list: &[String], edit: fn(String) -> KargEdit| list.iter().cloned().map(edit).collect::<Vec<_>>();
    [
        make(&args.delete, KargEdit::Delete),
        make(&args.delete_if_present, KargEdit::DeleteIfPresent),
        make(&args.replace, KargEdit::Replace),
        make(&args.append, KargEdit::Append),
        make(&args.append_if_missing, KargEdit::AppendIfMissing),
    ]
    .concat()
}

/// Returns the edits that turn `from` into `to`, followed by those that were asked for.
fn edits_from_base(from: &Kargs, to: &Kargs, edits: Vec<KargEdit>) -> Vec<KargEdit> {
    edits_between(from, to).into_iter().chain(edits).collect()
}

/// Returns the edits that turn one list into another, except for the order.
fn edits_between(from: &Kargs, to: &Kargs) -> Vec<KargEdit> {
    let missing = |a: &Kargs, b: &Kargs| -> Vec<String> {
        let mut rest: Vec<&str> = b.iter().collect();
        let mut left = Vec::new();
        for argument in a.iter() {
            match rest.iter().position(|other| *other == argument) {
                Some(index) => _ = rest.remove(index),
                None => left.push(argument.to_owned()),
            }
        }
        left
    };
    let deleted = missing(from, to).into_iter().map(KargEdit::Delete);
    deleted.chain(missing(to, from).into_iter().map(KargEdit::Append)).collect()
}

/// Starts an editor with the list of arguments and returns the edits that the user made.
fn edit_interactively(before: &Kargs) -> Result<Vec<KargEdit>> {
    let editor = env::var("VISUAL").or_else(|_| env::var("EDITOR")).unwrap_or_else(|_| "vi".to_owned());
    let path = env::temp_dir().join(format!("sapwood-kargs-{}", std::process::id()));
    let text = format!(
        "# One argument a line; lines that begin with # do not count.\n{}\n",
        before.iter().collect::<Vec<_>>().join("\n")
    );
    crate::disk::replace(&path, text.as_bytes()).context("cannot write a file to edit")?;
    let written = fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600));
    let result = written.context("cannot protect the file to edit").and_then(|()| {
        let status = Command::new("sh").arg("-c").arg(format!("{editor} \"$0\"")).arg(&path).status();
        let status = status.with_context(|| format!("cannot start {editor}"))?;
        if !status.success() {
            bail!("{editor} ended with {status}: nothing was changed");
        }
        let text = fs::read_to_string(&path).context("cannot read what was edited")?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let after: Kargs = lines.map(str::to_owned).collect();
        Ok(edits_between(before, &after))
    });
    if let Err(error) = fs::remove_file(&path) {
        tracing::warn!(%error, "cannot remove {}", path.display());
    }
    result
}
