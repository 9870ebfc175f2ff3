//! What a compose tells: stages and progress while it runs, and the outcome.

use std::io::{self, IsTerminal as _};

use anyhow::Result;
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::super::{db, output};
use super::Args;
use crate::compose::engine::EngineError;
use crate::compose::journey::{ComposeError, Composed, Outcome, Plan};
use crate::compose::process::{Event, ProcessError};
use crate::compose::root::RootError;

/// Longest part of an engine's line that is shown while it works.
const LINE_SHOWN: usize = 70;

/// Longest part of a line of the log that is shown after a failure: command lines of hundreds of packages are in it.
const TAIL_SHOWN: usize = 200;

/// Shows stages as lines, and on a terminal what the engine says beside a spinner.
pub struct Display(Option<ProgressBar>);

impl Display {
    /// Nothing is shown yet.
    pub fn new() -> Self {
        Self(io::stderr().is_terminal().then(ProgressBar::new_spinner))
    }

    /// Shows what happens.
    pub fn event(&self, event: Event<'_>) {
        match (event, &self.0) {
            (Event::Stage(text), Some(bar)) => bar.suspend(|| output::note(text)),
            (Event::Note(text), Some(bar)) => bar.suspend(|| output::note(format_args!("note: {text}"))),
            (Event::Stage(text), None) => output::note(text),
            (Event::Note(text), None) => output::note(format_args!("note: {text}")),
            (Event::Line(text), Some(bar)) => {
                bar.set_message(text.chars().take(LINE_SHOWN).collect::<String>());
                bar.tick();
            }
            (Event::Line(_), None) => {}
        }
    }

    /// Takes away what only concerned the work.
    pub fn finish(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// Prints the last lines of the program that failed, and where all of them are.
pub fn tail(error: &anyhow::Error) {
    let process = match error.downcast_ref::<ComposeError>() {
        Some(ComposeError::Engine(EngineError::Process(error)) | ComposeError::Root(RootError::Process(error))) => {
            error
        }
        _ => return,
    };
    if let ProcessError::Failed { tail, log, .. } = process {
        for line in tail {
            let cut: String = line.chars().take(TAIL_SHOWN).collect();
            let dots = if cut.len() < line.len() { "…" } else { "" };
            output::note(format_args!("  | {cut}{dots}"));
        }
        output::note(format_args!("all of it is in {}", log.display()));
    }
}

/// Prints what came out.
///
/// # Errors
/// When the output is closed.
pub fn outcome(args: &Args, outcome: &Outcome) -> Result<()> {
    match outcome {
        Outcome::Planned(plan) if args.json => Ok(output::json(&planned(plan))?),
        Outcome::Planned(plan) => plan_text(plan),
        Outcome::Unchanged(id) if args.json => Ok(output::json(&json!({ "id": id, "unchanged": true }))?),
        Outcome::Unchanged(id) => {
            output::note("nothing changed since the last commit");
            Ok(output::line(id)?)
        }
        Outcome::Composed(composed) if args.json => Ok(output::json(&made(composed))?),
        Outcome::Composed(composed) => {
            // Of a first commit everything is new: 'db list' lists it.
            if composed.commit.parent.is_some() {
                composed.changes.iter().for_each(|change| output::note(db::words(change)));
            }
            summary(composed);
            Ok(output::line(composed.id)?)
        }
    }
}

fn planned(plan: &Plan) -> Value {
    json!({
        "unchanged": plan.unchanged,
        "packages": plan.resolution.list(),
        "download_bytes": plan.resolution.bytes(),
        "changes": plan.changes,
    })
}

fn plan_text(plan: &Plan) -> Result<()> {
    for change in &plan.changes {
        output::line(db::words(change))?;
    }
    let (count, bytes) = (plan.resolution.packages.len() as u64, output::size(plan.resolution.bytes()));
    let changed = if plan.unchanged { "nothing changed since the last commit" } else { "a new commit would be made" };
    let changes = output::count(plan.changes.len() as u64);
    Ok(output::line(format_args!("{} packages ({bytes}), {changes} of them changed; {changed}", output::count(count)))?)
}

fn made(composed: &Composed) -> Value {
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

fn summary(composed: &Composed) {
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
