//! The verb `sapwood refs`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use serde_json::json;

use super::{output, repository};
use crate::cli::context::{Context, Run};
use crate::model::RefName;
use crate::store::{Expect, RefEdit};

/// List refs, or delete one
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood refs                      name, commit, time and subject of each
  sapwood refs --delete debian/11   the commits stay until 'sapwood gc'")]
pub(crate) struct Args {
    /// Delete this ref; may be given several times
    #[arg(long, value_name = "REF")]
    delete: Vec<RefName>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Run for Args {
    fn run(&self, context: &Context) -> Result<ExitCode> {
        if self.delete.is_empty() { list_refs(self, context) } else { delete_refs(&self.delete, context) }
    }
}

fn list_refs(args: &Args, context: &Context) -> Result<ExitCode> {
    let store = repository::open(context)?;
    let mut rows = Vec::new();
    let mut values = Vec::new();
    for (name, id) in store.refs()? {
        let commit = store.commit(id)?;
        values.push(json!({ "ref": name, "commit": id, "timestamp": commit.timestamp,
                            "version": commit.version, "subject": commit.subject }));
        rows.push(vec![name.to_string(), id.short(), output::time(commit.timestamp), commit.subject]);
    }
    if args.json {
        output::json(&values)?;
    } else if rows.is_empty() {
        output::note("no refs yet; 'sapwood commit --ref NAME DIR' makes one");
    } else {
        output::table(&["REF", "COMMIT", "TIME", "SUBJECT"], &[], &rows)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn delete_refs(names: &[RefName], context: &Context) -> Result<ExitCode> {
    let store = repository::open(context)?;
    let writer = store.writer(repository::wait_with_notice())?;
    for name in names {
        let Some(id) = store.read_ref(name)? else { bail!("there is no ref '{name}'") };
        writer.edit_ref(&RefEdit { name: name.clone(), expect: Expect::Is(id), to: None })?;
        output::note(format_args!("deleted {name}, which was {id}"));
    }
    Ok(ExitCode::SUCCESS)
}
