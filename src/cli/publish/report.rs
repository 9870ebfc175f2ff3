//! The output of `sapwood publish`: the plan of `--dry-run` and the result, as text or JSON.
//!
//! *Used by* `publish::mod`.

use std::time::Instant;

use anyhow::Result;
use serde_json::{Value, json};

use super::Args;
use crate::cli::output;
use crate::remote::publish::{Estimate, PublishPlan, PublishReport};

/// Prints the plan, or returns it as JSON.
pub(super) fn print_plan(plan: &PublishPlan, estimate: &Estimate, args: &Args) -> Result<Value> {
    if args.json {
        let refs = plan.refs.iter().map(|it| json!({ "ref": it.name, "commit": it.commit, "replaces": it.replaces }));
        let commits = plan.commits.iter().map(|it| {
            json!({
                "commit": it.id,
                "is_published": it.is_published(),
                "new_objects": it.new_objects(),
                "repacked": it.repacked,
                "content_bytes": it.raw_bytes(),
                "deltas_from": it.deltas,
            })
        });
        return Ok(json!({
            "refs": refs.collect::<Vec<_>>(),
            "commits": commits.collect::<Vec<_>>(),
            "content_bytes": plan.raw_bytes(),
            "estimate": estimate,
        }));
    }
    if plan.is_empty() {
        output::note("everything is published already");
        return Ok(Value::Null);
    }
    for it in &plan.refs {
        let before = match it.replaces {
            None => "new".to_owned(),
            Some(id) if id == it.commit => "published already; something is added".to_owned(),
            Some(id) => format!("instead of {}", id.short()),
        };
        output::line(format_args!("{} {} ({before})", it.name, it.commit.short()))?;
    }
    let new = plan.commits.iter().filter(|commit| !commit.is_published()).count();
    output::line(format_args!(
        "{new} new commits, {} new objects with {} of content",
        output::count(plan.new_objects() as u64),
        output::size(plan.raw_bytes() - plan.repacked_bytes()),
    ))?;
    if plan.repacked_bytes() > 0 {
        let again = output::size(plan.repacked_bytes());
        output::line(format_args!("{again} of published content packed again, so that new clients fetch less"))?;
    }
    for it in &plan.commits {
        for from in &it.deltas {
            output::line(format_args!("a delta from {} to {}", from.short(), it.id.short()))?;
        }
    }
    Ok(output::line(format_args!("{}", describe_estimate(plan, estimate))).map(|()| Value::Null)?)
}

/// Describes how much would be sent, and how exact that number is.
fn describe_estimate(plan: &PublishPlan, estimate: &Estimate) -> String {
    let basis = if estimate.sampled_bytes == plan.raw_bytes() && plan.deltas() == 0 {
        "all contents were compressed to tell this".to_owned()
    } else {
        format!("an estimate from {} that were compressed", output::size(estimate.sampled_bytes))
    };
    format!(
        "would send about {} in {} requests: {} of packs, {} of deltas, {} of images and locators ({basis})",
        output::size(estimate.upload_bytes()),
        output::count(estimate.requests),
        output::size(estimate.pack_bytes),
        output::size(estimate.delta_bytes),
        output::size(estimate.metadata_bytes),
    )
}

/// Prints the result, or returns it as JSON.
pub(super) fn print_report(plan: &PublishPlan, report: &PublishReport, args: &Args, begin: Instant) -> Result<Value> {
    if args.json {
        return Ok(serde_json::to_value(report)?);
    }
    if plan.is_empty() {
        output::note("everything was published already");
        return Ok(Value::Null);
    }
    for it in &plan.refs {
        output::line(format_args!("{} {}", it.name, it.commit))?;
    }
    let mut parts = vec![format!(
        "{} new objects, {} in {} of packs",
        output::count(plan.new_objects() as u64),
        output::size(report.content_bytes),
        output::size(report.pack_bytes),
    )];
    if report.repacked_bytes > 0 {
        parts.push(format!("{} of these packed again for new clients", output::size(report.repacked_bytes)));
    }
    if report.delta_bytes > 0 {
        parts.push(format!("{} of deltas", output::size(report.delta_bytes)));
    }
    if report.already_there > 0 {
        parts.push(format!("{} were there already", output::size(report.already_there)));
    }
    let (requests, sent) = (output::count(report.traffic.requests), output::size(report.traffic.sent));
    parts.push(format!("{requests} requests, {sent} sent, {}", output::duration(begin.elapsed())));
    output::note(parts.join("; "));
    Ok(Value::Null)
}
