//! `sapwood size`.

use std::process::ExitCode;

use anyhow::Result;

use super::{Context, output, repository};
use crate::store::usage;

/// Show how many bytes each ref needs, shared with others and alone
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// When a commit or image cannot be read.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode> {
    let store = repository::open(context)?;
    let _hold = store.hold(repository::announced()).ok();
    let rows = usage(&store)?;
    if args.json {
        output::json(&rows)?;
        return Ok(ExitCode::SUCCESS);
    }
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let numbers = [row.bytes, row.shared, row.unique].map(output::size);
            let objects = output::count(row.objects as u64);
            [vec![row.name.to_string(), row.commits.to_string(), objects], numbers.to_vec()].concat()
        })
        .collect();
    output::table(&["REF", "COMMITS", "OBJECTS", "BYTES", "SHARED", "UNIQUE"], &[1, 2, 3, 4, 5], &cells)?;
    Ok(ExitCode::SUCCESS)
}
