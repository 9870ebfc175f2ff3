//! The output of the verbs that deploy: plans, summaries and merge decisions, as text and as JSON.
//!
//! *Not here*: any decision, see `deploy::plan` and `deploy::etc`.
//!
//! *Used by* `deploying`, `cleanup`, `etc` and `status`.

use std::io;

use serde_json::{Value, json};

use super::output;
use crate::deploy::etc::{EtcPlan, LoggedDecision, MergeDecision, MergeOutcome, path_to_text};
use crate::deploy::kargs::Kargs;
use crate::deploy::origin::SignedBy;
use crate::deploy::plan::{DeployPlan, When};
use crate::deploy::retention::{DeploymentRole, KeepReason};
use crate::deploy::services::ServiceChanges;
use crate::deploy::skeleton::VarPlan;
use crate::deploy::sysroot::State;
use crate::remote::pull::RefReport;

/// The number of names in a list that are printed as text; the rest is only counted.
const NAMES_SHOWN: usize = 6;

/// The indentation of the lines that continue a row.
const CONTINUATION_INDENT: &str = "             ";

/// Prints a plan as text.
///
/// # Errors
/// When the output is closed.
pub(crate) fn print_plan(plan: &DeployPlan, state: &State, fetched: Option<&RefReport>) -> io::Result<()> {
    let when = match plan.when {
        When::AtShutdown => "at the next shutdown",
        When::Now => "at once",
    };
    output::line(format_args!("would deploy {} and put it into the boot menu {when}", plan.id))?;
    print_row(
        "what",
        format_args!("{}, {}", plan.origin.menu_title(&plan.id), describe_signer(&plan.origin.signed_by)),
    )?;
    if let Some(report) = fetched {
        let (objects, requests) = (output::count(report.objects), output::count(report.requests));
        // Which libraries a lazy deployment needs is known only when its programs have been fetched.
        let least = if report.commits.iter().any(|commit| commit.lazy) { "at least " } else { "" };
        let bytes = output::size(report.download_bytes);
        print_row("fetch", format_args!("{least}{objects} objects, {bytes} in {requests} requests"))?;
    }
    print_row("disk", describe_space(plan.disk.needed, plan.disk.available))?;
    print_row("boot", describe_space(plan.boot.needed, plan.boot.available))?;
    if !plan.remove_first.is_empty() {
        print_continuation(format_args!(
            "there is room only after {} left the menu, which happens first",
            join_ids(&plan.remove_first)
        ))?;
    }
    match &plan.kernel_before {
        Some(before) => print_row("kernel", format_args!("{before} → {}", plan.kernel.record.version))?,
        None if plan.changes_kernel(state) => print_row("kernel", &plan.kernel.record.version)?,
        None => print_row("kernel", format_args!("{}, unchanged", plan.kernel.record.version))?,
    }
    print_row("arguments", describe_argument_changes(&plan.kargs_before, &plan.origin.kargs))?;
    for conflict in &plan.karg_conflicts {
        let kept = conflict.kept.as_deref().unwrap_or("its absence");
        print_continuation(format_args!(
            "the commit suggests '{}' now; {kept} stays, since it was changed here",
            conflict.suggested
        ))?;
    }
    print_etc(&plan.etc)?;
    if plan.var == VarPlan::Filled {
        print_row("/var", "is filled from the commit")?;
    }
    print_services(&plan.services)?;
    for (id, reason) in plan.kept.iter().filter(|(id, _)| *id != plan.id) {
        print_row("keeps", format_args!("{id} ({})", describe_reason(*reason)))?;
    }
    plan.remove.iter().try_for_each(|id| print_row("removes", id))?;
    plan.notices.iter().try_for_each(|notice| print_row("note", notice))
}

/// Prints the deployment that was made, and the changes of `/etc` and notices in short.
///
/// # Errors
/// When the output is closed.
pub(crate) fn print_summary(plan: &DeployPlan) -> io::Result<()> {
    output::line(&plan.id)?;
    let title = plan.origin.menu_title(&plan.id);
    match plan.when {
        When::AtShutdown => output::note(format_args!("{title} is staged: it boots after the next shutdown")),
        When::Now => output::note(format_args!("{title} boots next")),
    }
    let etc = &plan.etc;
    let (updated, conflicts) =
        (etc.count(MergeOutcome::Updated) + etc.count(MergeOutcome::Added), etc.conflicts().count());
    if plan.merge_from.is_some() {
        output::note(format_args!("/etc: {updated} changed with their defaults, {conflicts} in conflict"));
    }
    if conflicts > 0 {
        output::note("'sapwood status' lists the conflicts, 'sapwood etc show PATH' explains one");
    }
    plan.notices.iter().for_each(|notice| output::note(format_args!("note: {notice}")));
    Ok(())
}

/// Returns a plan as JSON.
pub(crate) fn plan_json(plan: &DeployPlan, state: &State, fetched: Option<&RefReport>) -> Value {
    let kept: Vec<Value> = plan.kept.iter().map(|(id, reason)| json!({ "id": id, "reason": reason })).collect();
    json!({
        "deployment": plan.id,
        "commit": plan.origin.commit,
        "version": plan.origin.os_version,
        "title": plan.origin.title,
        "signed_by": plan.origin.signed_by,
        "when": match plan.when { When::AtShutdown => "at-shutdown", When::Now => "now" },
        "fetch": fetched,
        "disk": plan.disk,
        "boot": plan.boot,
        "kernel": plan.kernel.record.version,
        "kernel_before": plan.kernel_before,
        "changes_kernel": plan.changes_kernel(state),
        "kargs_before": plan.kargs_before,
        "kargs": plan.origin.kargs,
        "karg_conflicts": plan.karg_conflicts,
        "etc": etc_plan_json(&plan.etc),
        "fills_var": plan.var == VarPlan::Filled,
        "services": plan.services,
        "kept": kept,
        "removed": plan.remove,
        "notices": plan.notices,
    })
}

/// Returns the decisions of a merge as JSON.
pub(crate) fn etc_plan_json(plan: &EtcPlan) -> Value {
    json!(plan.decisions.iter().map(LoggedDecision::from).collect::<Vec<_>>())
}

/// Describes a decision in one line: its letter, path and reason.
pub(crate) fn describe_decision(decision: &LoggedDecision) -> String {
    let aspects =
        if decision.aspects.is_empty() { String::new() } else { format!(" ({})", decision.aspects.join(", ")) };
    let details: String = decision.details.iter().map(|detail| format!("; {detail}")).collect();
    let aside = decision.sidecar.as_ref().map(|aside| format!("; the default is in {aside}")).unwrap_or_default();
    format!(
        "{} /etc/{}{aspects}: {}{details}{aside}",
        outcome_letter(decision.outcome),
        decision.path,
        describe_outcome(decision.outcome)
    )
}

/// Returns the letter for an outcome, as in the status output of version control.
const fn outcome_letter(outcome: MergeOutcome) -> char {
    match outcome {
        MergeOutcome::Conflict | MergeOutcome::TypeConflict => 'C',
        MergeOutcome::KeptWithoutDefault | MergeOutcome::Kept => 'K',
        MergeOutcome::StaysDeleted | MergeOutcome::InDeletedDirectory => 'X',
        MergeOutcome::Merged => 'G',
        MergeOutcome::ByRule => 'R',
        MergeOutcome::Updated => 'U',
        MergeOutcome::Added => 'A',
        MergeOutcome::Removed => 'D',
        MergeOutcome::Undecided => '?',
    }
}

/// Returns the meaning of an outcome.
pub(crate) const fn describe_outcome(outcome: MergeOutcome) -> &'static str {
    match outcome {
        MergeOutcome::Conflict => "changed here and in the defaults; what is here stays",
        MergeOutcome::TypeConflict => "of another kind here than in the defaults; what is here stays",
        MergeOutcome::KeptWithoutDefault => "changed here and gone from the defaults; stays",
        MergeOutcome::StaysDeleted => "deleted here and changed in the defaults; stays away",
        MergeOutcome::InDeletedDirectory => "new in the defaults, but its directory was deleted here; stays away",
        MergeOutcome::Merged => "changed here and in the defaults; both changes are in",
        MergeOutcome::ByRule => "as /etc/sapwood/merge.toml says",
        MergeOutcome::Kept => "changed here only; stays",
        MergeOutcome::Updated => "follows its new default",
        MergeOutcome::Added => "new in the defaults",
        MergeOutcome::Removed => "gone from the defaults, unchanged here; removed",
        MergeOutcome::Undecided => "is merged when its new default is here",
    }
}

/// Describes who signed a commit, or why it is accepted without a signature.
pub(crate) fn describe_signer(signed_by: &SignedBy) -> String {
    match signed_by {
        SignedBy::Key(key) => format!("signed by {}", key.short()),
        SignedBy::InsecureRemote => "unsigned, from a remote that need not sign".to_owned(),
        SignedBy::Local => "unsigned, made on this machine".to_owned(),
    }
}

/// Returns why a deployment is kept.
pub(crate) const fn describe_reason(reason: KeepReason) -> &'static str {
    match reason {
        KeepReason::Role(DeploymentRole::New) => "new",
        KeepReason::Role(DeploymentRole::Booted) => "it runs",
        KeepReason::Role(DeploymentRole::Staged) => "staged",
        KeepReason::Role(DeploymentRole::Default) => "it boots next",
        KeepReason::Role(DeploymentRole::First) => "the first of its stateroot",
        KeepReason::Role(DeploymentRole::Rollback) => "to go back to",
        KeepReason::Role(DeploymentRole::Pinned) => "pinned",
        KeepReason::Role(DeploymentRole::OtherStateroot) => "of another stateroot",
        KeepReason::Role(DeploymentRole::Complete | DeploymentRole::Trusted | DeploymentRole::Failed) => "needed",
        KeepReason::OnlyComplete => "until everything of another one is here",
        KeepReason::OnlyTrusted => "until another one came up",
    }
}

fn print_etc(plan: &EtcPlan) -> io::Result<()> {
    let counts = [
        (MergeOutcome::Conflict, "in conflict"),
        (MergeOutcome::TypeConflict, "of another kind"),
        (MergeOutcome::Merged, "merged"),
        (MergeOutcome::Updated, "updated"),
        (MergeOutcome::Added, "added"),
        (MergeOutcome::Removed, "removed"),
        (MergeOutcome::Kept, "kept"),
        (MergeOutcome::KeptWithoutDefault, "kept without a default"),
        (MergeOutcome::StaysDeleted, "stay deleted"),
        (MergeOutcome::InDeletedDirectory, "in deleted directories"),
        (MergeOutcome::ByRule, "by rule"),
        (MergeOutcome::Undecided, "decided when fetched"),
    ];
    let words: Vec<String> = counts
        .iter()
        .map(|(outcome, word)| (plan.count(*outcome), word))
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{} {word}", output::count(count as u64)))
        .collect();
    print_row("/etc", if words.is_empty() { "unchanged".to_owned() } else { words.join(", ") })?;
    let worth_a_line = |found: &&MergeDecision| found.outcome.is_notable() || found.outcome == MergeOutcome::Undecided;
    plan.decisions
        .iter()
        .filter(worth_a_line)
        .try_for_each(|found| print_continuation(describe_decision(&LoggedDecision::from(found))))
}

fn print_services(changes: &ServiceChanges) -> io::Result<()> {
    for (word, names) in [("changed", &changes.changed), ("new", &changes.added), ("gone", &changes.removed)] {
        if !names.is_empty() {
            let shown = names.iter().take(NAMES_SHOWN).cloned().collect::<Vec<_>>().join(" ");
            let rest = names.len().saturating_sub(NAMES_SHOWN);
            let rest = if rest > 0 { format!(" and {rest} more") } else { String::new() };
            print_row("services", format_args!("{word}: {shown}{rest}"))?;
        }
    }
    Ok(())
}

fn describe_argument_changes(before: &Kargs, after: &Kargs) -> String {
    if before == after {
        return "unchanged".to_owned();
    }
    let missing = |from: &Kargs, other: &Kargs, sign: char| -> Vec<String> {
        from.iter()
            .filter(|argument| !other.iter().any(|other| other == *argument))
            .map(|argument| format!("{sign} {argument}"))
            .collect()
    };
    let words = [missing(before, after, '-'), missing(after, before, '+')].concat();
    if words.is_empty() { "in another order".to_owned() } else { words.join("  ") }
}

fn describe_space(needed: u64, available: Option<u64>) -> String {
    let free = available.map_or_else(|| "unknown".to_owned(), output::size);
    format!("{} needed, {free} free", output::size(needed))
}

fn join_ids(ids: &[crate::deploy::id::DeploymentId]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn print_row(word: &str, text: impl std::fmt::Display) -> io::Result<()> {
    output::line(format_args!("  {word:<10} {text}"))
}

fn print_continuation(text: impl std::fmt::Display) -> io::Result<()> {
    output::line(format_args!("{CONTINUATION_INDENT}{text}"))
}

/// Returns the full path of a path below `/etc`, as text.
pub(crate) fn etc_path(path: &[u8]) -> String {
    format!("/etc/{}", path_to_text(path))
}
