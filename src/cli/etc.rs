//! The verb `sapwood etc`, which shows and changes how the `/etc` of a deployment differs from its defaults.
//!
//! *Not here*: merging, undoing and resetting, see `deploy::etc`.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use serde_json::json;

use super::deploy_output::{self, etc_path};
use super::output;
use super::sysroot_args::{OpenSysroot, SysrootArgs, now, ownership};
use crate::cli::context::{Context, Run};
use crate::deploy::etc::{
    Body, EditError, EditMode, Edited, EtcOperation, EtcPath, EtcTree, Item, Journal, LiveEtc, LogEntry,
    LoggedDecision, ignore_policy_labels, path_to_text, scan, scan_defaults, text_difference,
};
use crate::deploy::plan::plan_merge;
use crate::deploy::status::open_conflicts;
use crate::deploy::sysroot::{Deployment, State};
use crate::image::Aspect;
use crate::model::CommitId;

/// See and change how /etc differs from the defaults of the commit
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood etc status
      what was changed here, and conflicts of the last merge
  sapwood etc diff ssh/sshd_config
      how
  sapwood etc show ssh/sshd_config
      what the last merge decided, and why
  sapwood etc merge --dry-run
      what the next upgrade's merge would do (staged or pulled)
  sapwood etc merge --text ssh/sshd_config
      merge the lines of both
  sapwood etc reset ssh/sshd_config
      take the default
  sapwood etc settle passwd
      what is here is right: the conflict is over
  sapwood etc undo
      take back the last of these, or the merge itself

Paths are below /etc. /etc/sapwood/merge.toml says beforehand what is to become of certain paths:
  local = [\"hosts\"]     default = [\"issue\"]     text = [\"fstab\", \"ssh/*\"]")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,

    /// The deployment [default: the one that runs, else the one that boots next]
    #[arg(long, global = true, value_name = "DEPLOYMENT")]
    deployment: Option<String>,

    #[command(flatten)]
    sysroot: SysrootArgs,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List what was added, changed and deleted here, and open conflicts
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show changes line by line, from the default to what is here
    Diff {
        /// Only these paths
        paths: Vec<PathBuf>,
    },
    /// Show what is known about one path
    Show {
        /// The path
        path: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Say what a merge would do, or merge lines of text files
    Merge {
        /// Only say what merging into a commit would do
        #[arg(long, required_unless_present = "text")]
        dry_run: bool,
        /// Merge into this commit or ref [default: the staged deployment's, else the newest pulled of the followed ref]
        #[arg(long, value_name = "SOURCE", conflicts_with = "text")]
        to: Option<String>,
        /// Merge the lines of this file; can be given several times
        #[arg(long, value_name = "PATH")]
        text: Vec<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Take back the last operation, or what was done to these paths last
    Undo {
        /// Only these paths
        paths: Vec<PathBuf>,
        /// Only say what would be changed
        #[arg(long)]
        dry_run: bool,
    },
    /// Declare the conflicts of paths as resolved: what is here stays
    Settle {
        /// The paths
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// Set paths, and what is below them, to their defaults
    Reset {
        /// The paths
        #[arg(required = true)]
        paths: Vec<PathBuf>,
        /// Only say what would be changed
        #[arg(long)]
        dry_run: bool,
    },
}

/// The `/etc` of one deployment, with its journal and defaults.
struct DeployedEtc<'a> {
    opened: &'a OpenSysroot,
    deployment: &'a Deployment,
    directory: PathBuf,
    journal: Journal,
    defaults: EtcTree,
}

impl<'a> DeployedEtc<'a> {
    fn new(opened: &'a OpenSysroot, deployment: &'a Deployment) -> Result<Self> {
        let layout = opened.sysroot.layout().deployment(&deployment.id);
        let (directory, journal) = (layout.etc(), Journal::new(layout.journal()));
        let defaults = read_defaults(opened, deployment.origin.commit)?;
        Ok(Self { opened, deployment, directory, journal, defaults })
    }

    fn live(&self) -> LiveEtc<'_> {
        LiveEtc {
            directory: &self.directory,
            journal: &self.journal,
            store: self.opened.sysroot.store(),
            ownership: ownership(),
            now: now(),
        }
    }

    fn scan(&self) -> Result<EtcTree> {
        let mut tree = scan(&self.directory, ownership())?;
        ignore_policy_labels(&mut tree, [&self.defaults, &self.defaults]);
        Ok(tree)
    }

    fn log(&self) -> Result<Vec<LogEntry>> {
        Ok(self.journal.entries()?.into_iter().map(|(_, entry)| entry).collect())
    }
}

impl Run for Args {
    fn run(&self, _context: &Context) -> Result<ExitCode> {
        let opened = self.sysroot.open()?;
        let state = opened.state()?;
        let deployment = match &self.deployment {
            Some(text) => state.find(text)?,
            None => state
                .booted()
                .or_else(|| state.default())
                .or_else(|| state.next_to_boot())
                .context("nothing is deployed")?,
        };
        let scene = DeployedEtc::new(&opened, deployment)?;
        match &self.action {
            Action::Status { json } => print_status(&scene, *json),
            Action::Diff { paths } => print_diff(&scene, &parse_etc_paths(paths)),
            Action::Show { path, json } => print_path(&scene, &parse_etc_path(path), *json),
            Action::Merge { text, dry_run, .. } if !text.is_empty() => {
                merge_texts(&scene, &parse_etc_paths(text), edit_mode(*dry_run))
            }
            Action::Merge { to, json, .. } => print_merge_plan(&scene, &state, to.as_deref(), *json),
            Action::Settle { paths } => settle(&scene, &parse_etc_paths(paths)),
            Action::Undo { paths, dry_run } => undo(&scene, &parse_etc_paths(paths), edit_mode(*dry_run)),
            Action::Reset { paths, dry_run } => reset(&scene, &parse_etc_paths(paths), edit_mode(*dry_run)),
        }
    }
}

const fn edit_mode(dry_run: bool) -> EditMode {
    if dry_run { EditMode::DryRun } else { EditMode::Apply }
}

/// Returns a path relative to `/etc`, whether it was given with or without `/etc/`.
fn parse_etc_path(path: &std::path::Path) -> EtcPath {
    let path = path.strip_prefix("/etc").unwrap_or(path);
    let bytes = path.as_os_str().as_encoded_bytes();
    bytes
        .strip_prefix(b"/")
        .unwrap_or(bytes)
        .strip_suffix(b"/")
        .unwrap_or(bytes.strip_prefix(b"/").unwrap_or(bytes))
        .into()
}

fn parse_etc_paths(paths: &[PathBuf]) -> Vec<EtcPath> {
    paths.iter().map(|path| parse_etc_path(path)).collect()
}

fn read_defaults(opened: &OpenSysroot, commit: CommitId) -> Result<EtcTree> {
    let store = opened.sysroot.store();
    Ok(scan_defaults(&store.image(store.commit(commit)?.image)?, ownership())?)
}

/// A difference between `/etc` and its defaults at one path.
struct EtcChange<'a> {
    letter: char,
    path: &'a EtcPath,
    aspects: Vec<Aspect>,
}

fn list_changes<'a>(defaults: &'a EtcTree, here: &'a EtcTree) -> Vec<EtcChange<'a>> {
    let mut found = Vec::new();
    for (path, item) in &here.entries {
        match defaults.get(path) {
            None => found.push(EtcChange { letter: 'A', path, aspects: Vec::new() }),
            Some(default) if !default.is_same(item) => {
                found.push(EtcChange { letter: 'M', path, aspects: item.differences(default) });
            }
            Some(_) => {}
        }
    }
    let deleted = defaults.entries.keys().filter(|path| here.get(path).is_none());
    found.extend(deleted.map(|path| EtcChange { letter: 'D', path, aspects: Vec::new() }));
    found.sort_by_key(|change| change.path);
    found
}

fn print_status(scene: &DeployedEtc<'_>, as_json: bool) -> Result<ExitCode> {
    let here = scene.scan()?;
    let changed = list_changes(&scene.defaults, &here);
    let conflicts = open_conflicts(&scene.opened.sysroot, &scene.deployment.id)?;
    let words = |aspects: &[Aspect]| aspects.iter().map(|aspect| aspect.word()).collect::<Vec<_>>();
    if as_json {
        let changes: Vec<_> = changed
            .iter()
            .map(|c| json!({ "path": path_to_text(c.path), "change": c.letter.to_string(), "aspects": words(&c.aspects) }))
            .collect();
        output::json(&json!({ "deployment": scene.deployment.id, "changes": changes, "conflicts": conflicts }))?;
        return Ok(ExitCode::SUCCESS);
    }
    for change in &changed {
        let aspects =
            if change.aspects.is_empty() { String::new() } else { format!("  ({})", words(&change.aspects).join(",")) };
        output::line(format_args!("{} {}{aspects}", change.letter, etc_path(change.path)))?;
    }
    for conflict in &conflicts {
        output::line(deploy_output::describe_decision(conflict))?;
    }
    let (changed, conflicts) = (output::count(changed.len() as u64), conflicts.len());
    output::note(format_args!("{changed} changes of the defaults of {}, {conflicts} conflicts", scene.deployment.id));
    Ok(ExitCode::SUCCESS)
}

fn settle(scene: &DeployedEtc<'_>, paths: &[EtcPath]) -> Result<ExitCode> {
    let open = open_conflicts(&scene.opened.sysroot, &scene.deployment.id)?;
    let mut settled = Vec::new();
    for path in paths {
        let text = path_to_text(path);
        match open.iter().find(|conflict| conflict.path == text) {
            Some(conflict) => settled.push(conflict.clone()),
            None => bail!("{} is not in conflict", etc_path(path)),
        }
    }
    scene.live().settle(settled)?;
    paths.iter().try_for_each(|path| output::line(format_args!("settled {}", etc_path(path))))?;
    Ok(ExitCode::SUCCESS)
}

fn print_diff(scene: &DeployedEtc<'_>, paths: &[EtcPath]) -> Result<ExitCode> {
    let here = scene.scan()?;
    let live = scene.live();
    let is_wanted = |path: &[u8]| {
        let below = |top: &EtcPath| path.starts_with(top) && (path.len() == top.len() || path[top.len()] == b'/');
        paths.is_empty() || paths.iter().any(below)
    };
    for path in paths.iter().filter(|path| !path.is_empty()) {
        if here.get(path).is_none() && scene.defaults.get(path).is_none() {
            bail!("there is no {}, neither here nor in the defaults", etc_path(path));
        }
    }
    for change in list_changes(&scene.defaults, &here).iter().filter(|change| is_wanted(change.path)) {
        let is_file = |item: Option<&Item>| item.is_none_or(|item| matches!(item.body, Body::File { .. }));
        let (old, new) = (scene.defaults.get(change.path), here.get(change.path));
        let name = path_to_text(change.path);
        if !is_file(old) || !is_file(new) {
            output::line(format_args!(
                "{} {}: {} → {}",
                change.letter,
                etc_path(change.path),
                describe_kind(old),
                describe_kind(new)
            ))?;
            continue;
        }
        let before = old.map(|old| live.read_default(old)).transpose()?.flatten().unwrap_or_default();
        let after = new.map(|_| live.read(change.path)).transpose()?.unwrap_or_default();
        if before == after {
            let words: Vec<&str> = change.aspects.iter().map(|aspect| aspect.word()).collect();
            output::line(format_args!("{} {} ({})", change.letter, etc_path(change.path), words.join(",")))?;
            continue;
        }
        match text_difference((&format!("default/{name}"), &before), (&format!("etc/{name}"), &after)) {
            Some(patch) => output::bytes(&patch)?,
            None => output::line(format_args!("{} {}: not a text", change.letter, etc_path(change.path)))?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn describe_kind(item: Option<&Item>) -> String {
    match item.map(|item| &item.body) {
        None => "nothing".to_owned(),
        Some(Body::Directory) => "directory".to_owned(),
        Some(Body::File { .. }) => "file".to_owned(),
        Some(Body::Symlink(target)) => format!("link to {}", path_to_text(target)),
        Some(Body::Fifo) => "fifo".to_owned(),
        Some(Body::Socket) => "socket".to_owned(),
        Some(Body::CharDevice(device)) => format!("character device {}:{}", device.major, device.minor),
        Some(Body::BlockDevice(device)) => format!("block device {}:{}", device.major, device.minor),
    }
}

/// Returns the last merge in the log.
fn last_merge(entries: &[LogEntry]) -> Option<&LogEntry> {
    entries.iter().rev().find(|entry| entry.operation == EtcOperation::Merge)
}

fn print_path(scene: &DeployedEtc<'_>, path: &EtcPath, as_json: bool) -> Result<ExitCode> {
    let log = scene.log()?;
    let merge = last_merge(&log);
    let text = path_to_text(path);
    let decision = merge.and_then(|merge| merge.decisions.iter().find(|decision| decision.path == text));
    let here = scene.scan()?;
    // The commit of an older deployment may have been removed by garbage collection since.
    let old = merge.and_then(|merge| merge.from).and_then(|from| read_defaults(scene.opened, from).ok());
    let states = [
        ("old default", old.as_ref().and_then(|old| old.get(path))),
        ("new default", scene.defaults.get(path)),
        ("here", here.get(path)),
    ];
    if decision.is_none() && states.iter().all(|(_, item)| item.is_none()) {
        bail!("there is no {}, neither here nor in the defaults", etc_path(path));
    }
    let later = || log.iter().filter(|entry| entry.operation != EtcOperation::Merge);
    let done: Vec<_> = later().filter(|entry| entry.changes.iter().any(|change| change.path == text)).collect();
    if as_json {
        let states: serde_json::Map<String, _> =
            states.iter().map(|(word, item)| (word.replace(' ', "_"), item.map(describe_item).into())).collect();
        let done: Vec<_> =
            done.iter().map(|entry| json!({ "operation": entry.operation, "time": entry.time })).collect();
        output::json(&json!({ "path": text, "states": states, "decision": decision, "since": done }))?;
        return Ok(ExitCode::SUCCESS);
    }
    for (word, item) in states {
        let words = item.map_or_else(|| "nothing".to_owned(), describe_item);
        output::line(format_args!("{word:<12} {words}"))?;
    }
    match decision {
        Some(decision) => {
            output::line(format_args!("{:<12} {}", "last merge", deploy_output::describe_decision(decision)))?
        }
        None => output::line(format_args!("{:<12} {}", "last merge", "had nothing to decide"))?,
    }
    for entry in done {
        output::line(format_args!("{:<12} {} at {}", "since", entry.operation.word(), output::time(entry.time)))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn describe_item(item: &Item) -> String {
    let content = match &item.body {
        Body::File { content, size } => format!("file of {}, {}", output::size(*size), content.short()),
        _ => describe_kind(Some(item)),
    };
    let owner = item.owner.map(|(uid, gid)| format!(", owner {uid}:{gid}")).unwrap_or_default();
    let xattrs: Vec<String> = item.xattrs.iter().map(|(name, _)| path_to_text(name)).collect();
    let xattrs = if xattrs.is_empty() { String::new() } else { format!(", {}", xattrs.join(" ")) };
    format!("{content}, mode {:04o}{owner}, {}{xattrs}", item.mode, output::time(item.mtime.seconds))
}

fn print_merge_plan(scene: &DeployedEtc<'_>, state: &State, to: Option<&str>, as_json: bool) -> Result<ExitCode> {
    let sysroot = &scene.opened.sysroot;
    let store = sysroot.store();
    let commit = match (to, state.staged(), &scene.deployment.origin.upstream) {
        (Some(source), ..) => store.resolve(source)?,
        (None, Some(staged), _) => staged.origin.commit,
        (None, None, Some(upstream)) => store.resolve(&upstream.to_string())?,
        (None, None, None) => bail!("nothing is staged, and no remote is followed: say --to SOURCE"),
    };
    let image = store.image(store.commit(commit)?.image)?;
    let plan = plan_merge(sysroot, scene.deployment, &image, ownership())?;
    if as_json {
        output::json(
            &json!({ "from": scene.deployment.id, "to": commit, "decisions": deploy_output::etc_plan_json(&plan) }),
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    for decision in &plan.decisions {
        output::line(deploy_output::describe_decision(&LoggedDecision::from(decision)))?;
    }
    let (decisions, conflicts) = (output::count(plan.decisions.len() as u64), plan.conflicts().count());
    output::note(format_args!(
        "merging the /etc of {} into commit {}: {decisions} decisions, {conflicts} conflicts",
        scene.deployment.id,
        commit.short()
    ));
    Ok(ExitCode::SUCCESS)
}

fn merge_texts(scene: &DeployedEtc<'_>, paths: &[EtcPath], mode: EditMode) -> Result<ExitCode> {
    let lock = scene.opened.lock()?;
    let merged = scene.live().merge_texts(paths, &scene.defaults, mode);
    drop(lock);
    match merged {
        Err(EditError::TextConflict { path, marked }) => {
            output::bytes(&marked)?;
            bail!(
                "the same lines of /etc/{path} were changed here and in the defaults: edit it by hand (both are above)"
            )
        }
        other => print_edited(&other?, mode),
    }
}

fn undo(scene: &DeployedEtc<'_>, paths: &[EtcPath], mode: EditMode) -> Result<ExitCode> {
    let _lock = scene.opened.lock()?;
    print_edited(&scene.live().undo(paths, mode)?, mode)
}

fn reset(scene: &DeployedEtc<'_>, paths: &[EtcPath], mode: EditMode) -> Result<ExitCode> {
    let _lock = scene.opened.lock()?;
    print_edited(&scene.live().reset(paths, &scene.defaults, mode)?, mode)
}

fn print_edited(edited: &Edited, mode: EditMode) -> Result<ExitCode> {
    let verb = if mode == EditMode::DryRun { "would change" } else { "changed" };
    let print = |path: &EtcPath| -> io::Result<()> { output::line(format_args!("{verb} {}", etc_path(path))) };
    edited.paths.iter().try_for_each(print)?;
    if edited.paths.is_empty() {
        output::note("nothing to change");
    }
    Ok(ExitCode::SUCCESS)
}
