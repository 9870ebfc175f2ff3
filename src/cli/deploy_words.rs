//! What a deployment would do, in words and as JSON.

use std::io;

use serde_json::{Value, json};

use super::output;
use crate::deploy::etc::{Decision, EtcPlan, LoggedDecision, Outcome, path_to_text};
use crate::deploy::kargs::Kargs;
use crate::deploy::origin::Voucher;
use crate::deploy::plan::{DeployPlan, When};
use crate::deploy::roots::{Reason, Role};
use crate::deploy::services::ServiceChanges;
use crate::deploy::skeleton::VarPlan;
use crate::deploy::sysroot::State;
use crate::remote::pull::RefReport;

/// Lists of names are cut after so many for people.
const NAMES_SHOWN: usize = 6;

/// How far words are indented below their headings.
const INDENT: &str = "             ";

/// Prints a plan.
///
/// # Errors
/// When the output is closed.
pub fn print(plan: &DeployPlan, state: &State, fetched: Option<&RefReport>) -> io::Result<()> {
    let when = match plan.when {
        When::AtShutdown => "at the next shutdown",
        When::Now => "at once",
    };
    output::line(format_args!("would deploy {} and put it into the boot menu {when}", plan.id))?;
    line("what", format_args!("{}, {}", plan.origin.menu_title(&plan.id), voucher(&plan.origin.voucher)))?;
    if let Some(report) = fetched {
        let (objects, requests) = (output::count(report.objects), output::count(report.requests));
        // Which libraries a lazy deployment needs is known when its programs are here.
        let least = if report.commits.iter().any(|commit| commit.lazy) { "at least " } else { "" };
        let bytes = output::size(report.download_bytes);
        line("fetch", format_args!("{least}{objects} objects, {bytes} in {requests} requests"))?;
    }
    line("disk", room(plan.disk.needed, plan.disk.available))?;
    line("boot", room(plan.boot.needed, plan.boot.available))?;
    if !plan.remove_first.is_empty() {
        more(format_args!("there is room only after {} left the menu, which happens first", ids(&plan.remove_first)))?;
    }
    match &plan.kernel_before {
        Some(before) => line("kernel", format_args!("{before} → {}", plan.kernel.record.version))?,
        None if plan.changes_kernel(state) => line("kernel", &plan.kernel.record.version)?,
        None => line("kernel", format_args!("{}, unchanged", plan.kernel.record.version))?,
    }
    line("arguments", arguments(&plan.kargs_before, &plan.origin.kargs))?;
    for conflict in &plan.karg_conflicts {
        let kept = conflict.kept.as_deref().unwrap_or("its absence");
        more(format_args!(
            "the commit suggests '{}' now; {kept} stays, since it was changed here",
            conflict.suggested
        ))?;
    }
    etc(&plan.etc)?;
    if plan.var == VarPlan::Filled {
        line("/var", "is filled from the commit")?;
    }
    services(&plan.services)?;
    for (id, reason) in plan.kept.iter().filter(|(id, _)| *id != plan.id) {
        line("keeps", format_args!("{id} ({})", reason_word(*reason)))?;
    }
    plan.remove.iter().try_for_each(|id| line("removes", id))?;
    plan.notices.iter().try_for_each(|notice| line("note", notice))
}

/// Says what was done.
///
/// # Errors
/// When the output is closed.
pub fn summary(plan: &DeployPlan) -> io::Result<()> {
    output::line(&plan.id)?;
    let title = plan.origin.menu_title(&plan.id);
    match plan.when {
        When::AtShutdown => output::note(format_args!("{title} is staged: it boots after the next shutdown")),
        When::Now => output::note(format_args!("{title} boots next")),
    }
    let etc = &plan.etc;
    let (updated, conflicts) = (etc.count(Outcome::Updated) + etc.count(Outcome::Added), etc.conflicts().count());
    if plan.merge_from.is_some() {
        output::note(format_args!("/etc: {updated} changed with their defaults, {conflicts} in conflict"));
    }
    if conflicts > 0 {
        output::note("'sapwood status' lists the conflicts, 'sapwood etc show PATH' explains one");
    }
    plan.notices.iter().for_each(|notice| output::note(format_args!("note: {notice}")));
    Ok(())
}

/// A plan for a program.
#[must_use]
pub fn json(plan: &DeployPlan, state: &State, fetched: Option<&RefReport>) -> Value {
    let kept: Vec<Value> = plan.kept.iter().map(|(id, reason)| json!({ "id": id, "reason": reason })).collect();
    json!({
        "deployment": plan.id,
        "commit": plan.origin.commit,
        "version": plan.origin.os_version,
        "title": plan.origin.title,
        "voucher": plan.origin.voucher,
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
        "etc": etc_json(&plan.etc),
        "fills_var": plan.var == VarPlan::Filled,
        "services": plan.services,
        "kept": kept,
        "removed": plan.remove,
        "notices": plan.notices,
    })
}

/// The decisions of a merge for a program.
#[must_use]
pub fn etc_json(plan: &EtcPlan) -> Value {
    json!(plan.decisions.iter().map(LoggedDecision::from).collect::<Vec<_>>())
}

/// The words for a decision: where, and why.
#[must_use]
pub fn decision(decision: &LoggedDecision) -> String {
    let aspects =
        if decision.aspects.is_empty() { String::new() } else { format!(" ({})", decision.aspects.join(", ")) };
    let details: String = decision.details.iter().map(|detail| format!("; {detail}")).collect();
    let aside = decision.aside.as_ref().map(|aside| format!("; the default is in {aside}")).unwrap_or_default();
    format!(
        "{} /etc/{}{aspects}: {}{details}{aside}",
        letter(decision.outcome),
        decision.path,
        outcome(decision.outcome)
    )
}

/// One letter for an outcome, as version control writes it.
const fn letter(outcome: Outcome) -> char {
    match outcome {
        Outcome::Conflict | Outcome::TypeConflict => 'C',
        Outcome::KeptWithoutDefault | Outcome::Kept => 'K',
        Outcome::StaysDeleted | Outcome::InDeletedDirectory => 'X',
        Outcome::Merged => 'G',
        Outcome::ByRule => 'R',
        Outcome::Updated => 'U',
        Outcome::Added => 'A',
        Outcome::Removed => 'D',
        Outcome::Undecided => '?',
    }
}

/// What an outcome means.
#[must_use]
pub const fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Conflict => "changed here and in the defaults; what is here stays",
        Outcome::TypeConflict => "of another kind here than in the defaults; what is here stays",
        Outcome::KeptWithoutDefault => "changed here and gone from the defaults; stays",
        Outcome::StaysDeleted => "deleted here and changed in the defaults; stays away",
        Outcome::InDeletedDirectory => "new in the defaults, but its directory was deleted here; stays away",
        Outcome::Merged => "changed here and in the defaults; both changes are in",
        Outcome::ByRule => "as /etc/sapwood/merge.toml says",
        Outcome::Kept => "changed here only; stays",
        Outcome::Updated => "follows its new default",
        Outcome::Added => "new in the defaults",
        Outcome::Removed => "gone from the defaults, unchanged here; removed",
        Outcome::Undecided => "is merged when its new default is here",
    }
}

/// Who vouches for a commit.
#[must_use]
pub fn voucher(voucher: &Voucher) -> String {
    match voucher {
        Voucher::Signed(key) => format!("signed by {}", key.short()),
        Voucher::InsecureRemote => "unsigned, from a remote that need not sign".to_owned(),
        Voucher::Local => "unsigned, made on this machine".to_owned(),
    }
}

/// Why a deployment stays.
#[must_use]
pub const fn reason_word(reason: Reason) -> &'static str {
    match reason {
        Reason::Role(Role::New) => "new",
        Reason::Role(Role::Booted) => "it runs",
        Reason::Role(Role::Staged) => "staged",
        Reason::Role(Role::Default) => "it boots next",
        Reason::Role(Role::Rollback) => "to go back to",
        Reason::Role(Role::Pinned) => "pinned",
        Reason::Role(Role::Elsewhere) => "of another stateroot",
        Reason::Role(Role::Whole | Role::Trusted | Role::Failed) => "needed",
        Reason::OnlyWhole => "until everything of another one is here",
        Reason::OnlyTrusted => "until another one came up",
    }
}

fn etc(plan: &EtcPlan) -> io::Result<()> {
    let counts = [
        (Outcome::Conflict, "in conflict"),
        (Outcome::TypeConflict, "of another kind"),
        (Outcome::Merged, "merged"),
        (Outcome::Updated, "updated"),
        (Outcome::Added, "added"),
        (Outcome::Removed, "removed"),
        (Outcome::Kept, "kept"),
        (Outcome::KeptWithoutDefault, "kept without a default"),
        (Outcome::StaysDeleted, "stay deleted"),
        (Outcome::InDeletedDirectory, "in deleted directories"),
        (Outcome::ByRule, "by rule"),
        (Outcome::Undecided, "decided when fetched"),
    ];
    let words: Vec<String> = counts
        .iter()
        .map(|(outcome, word)| (plan.count(*outcome), word))
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{} {word}", output::count(count as u64)))
        .collect();
    line("/etc", if words.is_empty() { "unchanged".to_owned() } else { words.join(", ") })?;
    let worth_a_line = |found: &&Decision| found.outcome.is_notable() || found.outcome == Outcome::Undecided;
    plan.decisions.iter().filter(worth_a_line).try_for_each(|found| more(decision(&LoggedDecision::from(found))))
}

fn services(changes: &ServiceChanges) -> io::Result<()> {
    for (word, names) in [("changed", &changes.changed), ("new", &changes.added), ("gone", &changes.removed)] {
        if !names.is_empty() {
            let shown = names.iter().take(NAMES_SHOWN).cloned().collect::<Vec<_>>().join(" ");
            let rest = names.len().saturating_sub(NAMES_SHOWN);
            let rest = if rest > 0 { format!(" and {rest} more") } else { String::new() };
            line("services", format_args!("{word}: {shown}{rest}"))?;
        }
    }
    Ok(())
}

fn arguments(before: &Kargs, after: &Kargs) -> String {
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

fn room(needed: u64, available: Option<u64>) -> String {
    let free = available.map_or_else(|| "unknown".to_owned(), output::size);
    format!("{} needed, {free} free", output::size(needed))
}

fn ids(ids: &[crate::deploy::id::DeploymentId]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn line(word: &str, text: impl std::fmt::Display) -> io::Result<()> {
    output::line(format_args!("  {word:<10} {text}"))
}

fn more(text: impl std::fmt::Display) -> io::Result<()> {
    output::line(format_args!("{INDENT}{text}"))
}

/// A path below `/etc` for people.
#[must_use]
pub fn etc_path(path: &[u8]) -> String {
    format!("/etc/{}", path_to_text(path))
}
