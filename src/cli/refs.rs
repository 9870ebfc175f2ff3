//! The verb `sapwood refs`.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::error::Hint;
use super::{output, repository};
use crate::cli::context::{Context, Run};
use crate::model::{CommitId, RefName};
use crate::store::{Expect, RefChange, RefEdit, Store, StoreLayout};

/// The first parts of the names of refs that only other verbs move.
const MOVED_BY_OTHERS: [(&str, &str); 2] = [
    (StoreLayout::DEPLOYMENT_REFS, "keeps the commit of a deployment; 'sapwood deploy' and 'sapwood undeploy' move it"),
    (StoreLayout::REMOTE_REFS, "says what a remote had; 'sapwood pull' moves it"),
];

/// List refs; make, move or delete one, or undo its last change
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "sapwood refs [OPTIONS] [PREFIX]\n       \
                      sapwood refs --create NEW SOURCE\n       \
                      sapwood refs --move REF SOURCE [--expect SOURCE]\n       \
                      sapwood refs <--undo REF|--log REF|--delete REF>",
    after_help = "\
Examples:
  sapwood refs                             name, commit, time and subject
  sapwood refs debian                      those named debian or debian/…
  sapwood refs --create stable debian/12~1 a new ref for a commit that is here
  sapwood refs --move stable debian/12     let it name another commit
  sapwood refs --undo stable               where it was before its last change
  sapwood refs --log stable                what it named, when, moved by what
  sapwood refs --delete debian/11          the commits stay until 'sapwood gc'

Commits do not change when a ref is moved: the same commit may have several refs. A second --undo takes the first back. \
'sapwood gc' removes the commits that a ref no longer leads to, so an --undo after it may come too late. Clients refuse a \
published ref that was moved back; the next commit, whose sequence is higher than any before, reaches them."
)]
pub(crate) struct Args {
    /// List only the refs with this name or below it; for --create and --move: the commit to name
    #[arg(value_name = "PREFIX|SOURCE")]
    argument: Option<String>,

    /// Make this ref; it must not exist
    #[arg(long, value_name = "NEW", requires = "argument", group = "change")]
    create: Option<RefName>,

    /// Let this ref name another commit
    #[arg(long = "move", value_name = "REF", requires = "argument", group = "change")]
    moved: Option<RefName>,

    /// With --move: only if the ref names this commit now
    #[arg(long, value_name = "SOURCE", requires = "moved")]
    expect: Option<String>,

    /// Let this ref name what it named before its last change
    #[arg(long, value_name = "REF", conflicts_with = "argument", group = "change")]
    undo: Option<RefName>,

    /// List the changes of this ref, newest first
    #[arg(long, value_name = "REF", conflicts_with = "argument", group = "change")]
    log: Option<RefName>,

    /// Delete this ref; may be given several times
    #[arg(long, value_name = "REF", conflicts_with = "argument", group = "change")]
    delete: Vec<RefName>,

    /// Print JSON (lists only)
    #[arg(long)]
    json: bool,
}

impl Run for Args {
    fn run(&self, context: &Context) -> Result<ExitCode> {
        let store = repository::open(context)?;
        let source = self.argument.as_deref().unwrap_or_default();
        if let Some(name) = &self.create {
            create_ref(&store, name, source)?;
        } else if let Some(name) = &self.moved {
            move_ref(&store, name, source, self.expect.as_deref())?;
        } else if let Some(name) = &self.undo {
            undo_change(&store, name)?;
        } else if let Some(name) = &self.log {
            list_changes(&store, name, self.json)?;
        } else if self.delete.is_empty() {
            list_refs(&store, self.argument.as_deref(), self.json)?;
        } else {
            delete_refs(&store, &self.delete)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn list_refs(store: &Store, prefix: Option<&str>, as_json: bool) -> Result<()> {
    let prefix = prefix.map(|text| text.trim_end_matches('/'));
    let is_wanted = |name: &RefName| {
        prefix.is_none_or(|prefix| {
            name.as_str().strip_prefix(prefix).is_some_and(|rest| matches!(rest.as_bytes(), [] | [b'/', ..]))
        })
    };
    let mut rows = Vec::new();
    let mut values = Vec::new();
    for (name, id) in store.refs()?.into_iter().filter(|(name, _)| is_wanted(name)) {
        let commit = store.commit(id)?;
        values.push(json!({ "ref": name, "commit": id, "timestamp": commit.timestamp,
                            "version": commit.version, "subject": commit.subject }));
        rows.push(vec![name.to_string(), id.short(), output::time(commit.timestamp), commit.subject]);
    }
    if as_json {
        output::json(&values)?;
    } else if let (true, Some(prefix)) = (rows.is_empty(), prefix) {
        output::note(format_args!("no ref is named '{prefix}' or '{prefix}/…'; 'sapwood refs' lists all"));
    } else if rows.is_empty() {
        output::note("no refs yet; 'sapwood commit --ref NAME DIR' makes one");
    } else {
        output::table(&["REF", "COMMIT", "TIME", "SUBJECT"], &[], &rows)?;
    }
    Ok(())
}

fn create_ref(store: &Store, name: &RefName, source: &str) -> Result<()> {
    check_may_move(name)?;
    let writer = store.writer(repository::wait_with_notice())?;
    let to = existing_commit(store, source)?;
    if let Some(id) = store.read_ref(name)? {
        let error = anyhow::anyhow!("there is a ref '{name}' already: it is {id}");
        return Err(error.context(Hint("'sapwood refs --move REF SOURCE' lets it name another commit")));
    }
    let edit = RefEdit { name: name.clone(), expect: Expect::Absent, to: Some(to) };
    writer.edit_ref_logged(&edit, "refs --create")?;
    output::note(format_args!("{name} is {to}"));
    Ok(())
}

fn move_ref(store: &Store, name: &RefName, source: &str, expected: Option<&str>) -> Result<()> {
    check_may_move(name)?;
    let writer = store.writer(repository::wait_with_notice())?;
    let from = store.read_ref(name)?;
    let from = from.with_context(|| format!("there is no ref '{name}'"));
    let from =
        from.context(Hint("'sapwood refs --create NEW SOURCE' makes one; 'sapwood refs' lists what there is"))?;
    let expected = expected.map_or(Ok(from), |text| store.resolve(text))?;
    let to = existing_commit(store, source)?;
    let edit = RefEdit { name: name.clone(), expect: Expect::Is(expected), to: Some(to) };
    writer.edit_ref_logged(&edit, "refs --move")?;
    if to == from {
        output::note(format_args!("{name} is {to} already"));
    } else {
        output::note(format_args!("{name} is {to}; it was {from}, to which 'sapwood refs --undo {name}' goes back"));
    }
    Ok(())
}

fn undo_change(store: &Store, name: &RefName) -> Result<()> {
    check_may_move(name)?;
    let writer = store.writer(repository::wait_with_notice())?;
    let now = store.read_ref(name)?;
    let changes = store.ref_log(name)?;
    let Some(change) = changes.iter().rev().find(|change| change.to == now && change.from != now) else {
        let state = describe(now);
        let error = anyhow::anyhow!("cannot undo: the log of the ref '{name}' does not say how it came to be {state}");
        return Err(
            error.context(Hint("'sapwood log REF' lists its ancestors; 'sapwood refs --move REF SOURCE' moves it"))
        );
    };
    if let Some(id) = change.from {
        store.commit(id).with_context(|| format!("cannot undo: '{name}' was {id} before, which is no longer here"))?;
    }
    let expect = now.map_or(Expect::Absent, Expect::Is);
    writer.edit_ref_logged(&RefEdit { name: name.clone(), expect, to: change.from }, "refs --undo")?;
    output::note(format_args!("{name} is {}; it was {}", describe(change.from), describe(now)));
    Ok(())
}

fn describe(id: Option<CommitId>) -> String {
    id.map_or_else(|| "absent".to_owned(), |id| id.to_string())
}

fn list_changes(store: &Store, name: &RefName, as_json: bool) -> Result<()> {
    let mut changes = store.ref_log(name)?;
    changes.reverse();
    if as_json {
        output::json(&changes)?;
    } else if changes.is_empty() {
        output::note(format_args!("no change of '{name}' is logged"));
    } else {
        let short = |id: Option<CommitId>| id.map_or_else(|| "-".to_owned(), |id| id.short());
        let row = |change: &RefChange| {
            vec![output::time(change.time), short(change.from), short(change.to), change.by.clone()]
        };
        output::table(&["TIME", "FROM", "TO", "BY"], &[], &changes.iter().map(row).collect::<Vec<_>>())?;
    }
    Ok(())
}

fn delete_refs(store: &Store, names: &[RefName]) -> Result<()> {
    let writer = store.writer(repository::wait_with_notice())?;
    for name in names {
        let Some(id) = store.read_ref(name)? else { bail!("there is no ref '{name}'") };
        writer.edit_ref_logged(&RefEdit { name: name.clone(), expect: Expect::Is(id), to: None }, "refs --delete")?;
        output::note(format_args!("deleted {name}, which was {id}"));
    }
    Ok(())
}

/// Returns the commit that `source` names, if it and its image are in the repository.
fn existing_commit(store: &Store, source: &str) -> Result<CommitId> {
    let id = store.resolve(source)?;
    store.image(store.commit(id)?.image)?;
    Ok(id)
}

/// Fails for a ref that follows something else.
fn check_may_move(name: &RefName) -> Result<()> {
    let first = name.as_str().split('/').next().unwrap_or_default();
    match MOVED_BY_OTHERS.iter().find(|(part, _)| *part == first) {
        Some((_, reason)) => bail!("the ref '{name}' cannot be made or moved by hand: it {reason}"),
        None => Ok(()),
    }
}
