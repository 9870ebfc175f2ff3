//! The verb `sapwood size`.

use std::process::ExitCode;

use anyhow::Result;

use super::{output, repository};
use crate::cli::context::{Context, Run};
use crate::store::usage;

/// Show how many bytes each ref needs, shared with others and alone
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Run for Args {
    fn run(&self, context: &Context) -> Result<ExitCode> {
        let store = repository::open(context)?;
        let _removal_guard = store.block_removal(repository::wait_with_notice()).ok();
        let rows = usage(&store)?;
        if self.json {
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
}
