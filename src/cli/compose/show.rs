//! The output of `sapwood compose`: stages and progress while it runs, and the outcome.
//!
//! *Used by* the worker process in `compose::mod`.

use std::io::{self, IsTerminal as _};

use anyhow::Result;
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::super::{db, output};
use super::Args;
use crate::compose::engine::EngineError;
use crate::compose::pipeline::{ComposeError, ComposeOutcome, ComposePlan, Composed};
use crate::compose::process::{ComposeEvent, ProcessError};
use crate::compose::root::InstalledRootError;
use crate::compose::treefile::Treefile;

/// The number of characters of an engine's line that are shown beside the spinner.
const ENGINE_LINE_MAX_CHARS: usize = 70;

/// The number of characters of a line of the log that are shown after a failure. The log has command lines with hundreds of
/// packages.
const LOG_LINE_MAX_CHARS: usize = 200;

/// A display of a compose that runs: stages as lines and, on a terminal, the engine's last line beside a spinner.
pub(crate) struct StageDisplay(Option<ProgressBar>);

impl StageDisplay {
    /// Makes a display that shows nothing yet.
    pub(crate) fn new() -> Self {
        Self(io::stderr().is_terminal().then(ProgressBar::new_spinner))
    }

    /// Shows an event of the compose.
    pub(crate) fn show(&self, event: ComposeEvent<'_>) {
        match (event, &self.0) {
            (ComposeEvent::Stage(text), Some(bar)) => bar.suspend(|| output::note(text)),
            (ComposeEvent::Note(text), Some(bar)) => bar.suspend(|| output::note(format_args!("note: {text}"))),
            (ComposeEvent::Stage(text), None) => output::note(text),
            (ComposeEvent::Note(text), None) => output::note(format_args!("note: {text}")),
            (ComposeEvent::Line(text), Some(bar)) => {
                let text = output::without_controls(text);
                bar.set_message(text.chars().take(ENGINE_LINE_MAX_CHARS).collect::<String>());
                bar.tick();
            }
            (ComposeEvent::Line(_), None) => {}
        }
    }

    /// Removes the spinner.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// Prints one note about the keys of a treefile that have no effect.
pub(crate) fn print_keys_without_effect(treefile: &Treefile) {
    let keys: Vec<String> = treefile.notes.iter().map(|(key, why)| format!("'{key}' ({why})")).collect();
    if !keys.is_empty() {
        output::note(format_args!("note: these keys have no effect: {}", keys.join(", ")));
    }
}

/// Prints the last lines of the program that failed and the path of its whole log.
pub(crate) fn print_log_tail(error: &anyhow::Error) {
    let process = match error.downcast_ref::<ComposeError>() {
        Some(
            ComposeError::Engine(EngineError::Process(error)) | ComposeError::Root(InstalledRootError::Process(error)),
        ) => error,
        _ => return,
    };
    if let ProcessError::Failed { tail, log, .. } = process {
        for line in tail {
            let cut: String = line.chars().take(LOG_LINE_MAX_CHARS).collect();
            let dots = if cut.len() < line.len() { "…" } else { "" };
            output::note(format_args!("  | {cut}{dots}"));
        }
        output::note(format_args!("all of it is in {}", log.display()));
    }
}

/// Prints the outcome of a compose, as text or JSON.
///
/// # Errors
/// When the output is closed.
pub(crate) fn print_outcome(args: &Args, outcome: &ComposeOutcome) -> Result<()> {
    match outcome {
        ComposeOutcome::Planned(plan) if args.json => Ok(output::json(&plan_json(plan))?),
        ComposeOutcome::Planned(plan) => print_plan(plan),
        ComposeOutcome::Unchanged(id, _) if args.json => Ok(output::json(&json!({ "id": id, "unchanged": true }))?),
        ComposeOutcome::Unchanged(id, _) => {
            output::note("nothing changed since the last commit");
            Ok(output::line(id)?)
        }
        ComposeOutcome::Composed(composed) if args.json => Ok(output::json(&commit_json(composed))?),
        ComposeOutcome::Composed(composed) => {
            // In a first commit every package is new, so the changes are not printed; 'db list' lists the packages.
            if composed.commit.parent.is_some() {
                composed.changes.iter().for_each(|change| output::note(db::describe_change(change)));
            }
            print_summary(composed);
            Ok(output::line(composed.id)?)
        }
    }
}

fn plan_json(plan: &ComposePlan) -> Value {
    json!({
        "unchanged": plan.unchanged,
        "packages": plan.resolution.list(),
        "download_bytes": plan.resolution.bytes(),
        "changes": plan.changes,
    })
}

fn print_plan(plan: &ComposePlan) -> Result<()> {
    for change in &plan.changes {
        output::line(db::describe_change(change))?;
    }
    let (count, bytes) = (plan.resolution.packages.len() as u64, output::size(plan.resolution.bytes()));
    let changed = if plan.unchanged { "nothing changed since the last commit" } else { "a new commit would be made" };
    let changes = output::count(plan.changes.len() as u64);
    Ok(output::line(format_args!("{} packages ({bytes}), {changes} of them changed; {changed}", output::count(count)))?)
}

fn commit_json(composed: &Composed) -> Value {
    json!({
        "id": composed.id,
        "commit": composed.commit,
        "unchanged": composed.unchanged,
        "changes": composed.changes,
        "seconds": {
            "engine": composed.engine_time.as_secs_f64(),
            "scripts": composed.scripts_time.as_secs_f64(),
            "image": composed.image_time.as_secs_f64(),
        },
    })
}

fn print_summary(composed: &Composed) {
    let commit = &composed.commit;
    let (entries, bytes) = (output::count(commit.entries), output::size(commit.content_bytes));
    let what = if composed.unchanged { "unchanged, no new commit" } else { commit.ref_name.as_str() };
    let version = commit.version.as_ref().map_or_else(String::new, |version| format!(" {version}"));
    let [engine, scripts, image] =
        [composed.engine_time, composed.scripts_time, composed.image_time].map(output::duration);
    output::note(format_args!(
        "{what}{version}: {entries} entries, {bytes}; packages {engine}, scripts and initramfs {scripts}, image {image}"
    ));
}
