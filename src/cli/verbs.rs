//! The verbs: one table from which the parser of the command line, the lists of verbs in `--help` and `docs/verbs.md`, and the
//! order of the man pages are made.
//!
//! *Not here*: the options before the verb and the start of a verb (`cli`), and what a verb is about: that is said by the first
//! line of the documentation of its `Args`.
//!
//! *Invariants*: each verb stands in the table once, so it is in one group. *Used by* `cli::main` and `manual`.

use clap::{ArgMatches, Command};

use super::context::Run;
use super::{
    boot, cat, cleanup, commit, compose, config, db, debug, deploy, diff, etc, export, fsck, gc, history, init, kargs,
    key, log, ls, manual, mount, mounts, pin, prefetch, profile, publish, pull, refs, remote, rollback, serve, show,
    size, status, switch, sysroot, umount, undeploy, upgrade, whence,
};

/// The width of the column of names in the help.
const NAME_WIDTH: usize = 10;

/// Verbs that belong together.
pub(crate) struct Group {
    /// The heading above them.
    pub(crate) title: &'static str,
    pub(crate) verbs: &'static [Verb],
}

/// A verb: its name, and the type of its arguments as functions.
pub(crate) struct Verb {
    pub(crate) name: &'static str,
    /// Adds the arguments and texts of the verb to an empty command.
    arguments: fn(Command) -> Command,
    /// Makes the arguments from what was parsed.
    parse: fn(&ArgMatches) -> Result<Box<dyn Run>, clap::Error>,
}

/// The visible verbs, in the order of `--help`.
pub(crate) const GROUPS: &[Group] = &[
    Group {
        title: "Repository",
        verbs: &[
            verb::<init::Args>("init"),
            verb::<config::Args>("config"),
            verb::<commit::Args>("commit"),
            verb::<export::Args>("export"),
            verb::<refs::Args>("refs"),
            verb::<fsck::Args>("fsck"),
            verb::<gc::Args>("gc"),
            verb::<size::Args>("size"),
            #[cfg(feature = "demo")]
            verb::<super::demo::Args>("demo"),
        ],
    },
    Group {
        title: "Look",
        verbs: &[
            verb::<log::Args>("log"),
            verb::<show::Args>("show"),
            verb::<ls::Args>("ls"),
            verb::<cat::Args>("cat"),
            verb::<diff::Args>("diff"),
            verb::<db::Args>("db"),
            verb::<whence::Args>("whence"),
        ],
    },
    Group {
        title: "Mount",
        verbs: &[
            verb::<mount::Args>("mount"),
            verb::<umount::Args>("umount"),
            verb::<mounts::Args>("mounts"),
            verb::<profile::Args>("profile"),
            verb::<debug::Args>("debug"),
        ],
    },
    Group {
        title: "Publish and fetch",
        verbs: &[
            verb::<publish::Args>("publish"),
            verb::<serve::Args>("serve"),
            verb::<remote::Args>("remote"),
            verb::<pull::Args>("pull"),
            verb::<prefetch::Args>("prefetch"),
        ],
    },
    Group { title: "Compose", verbs: &[verb::<compose::Args>("compose")] },
    Group {
        title: "Machine",
        verbs: &[
            verb::<sysroot::Args>("sysroot"),
            verb::<status::Args>("status"),
            verb::<deploy::Args>("deploy"),
            verb::<upgrade::Args>("upgrade"),
            verb::<switch::Args>("switch"),
            verb::<rollback::Args>("rollback"),
            verb::<pin::Args>("pin"),
            verb::<undeploy::Args>("undeploy"),
            verb::<cleanup::Args>("cleanup"),
            verb::<kargs::Args>("kargs"),
            verb::<etc::Args>("etc"),
            verb::<history::Args>("history"),
            verb::<boot::Args>("boot"),
        ],
    },
    Group { title: "Keys", verbs: &[verb::<key::Args>("key")] },
];

/// The verbs that `--help` does not show.
const HIDDEN: &[Verb] = &[verb::<manual::Args>("manual")];

const fn verb<T: clap::Args + Run + 'static>(name: &'static str) -> Verb {
    Verb { name, arguments: T::augment_args, parse: parse_arguments::<T> }
}

fn parse_arguments<T: clap::Args + Run + 'static>(matches: &ArgMatches) -> Result<Box<dyn Run>, clap::Error> {
    Ok(Box::new(T::from_arg_matches(matches)?))
}

impl Verb {
    fn command(&self) -> Command {
        (self.arguments)(Command::new(self.name))
    }
}

/// Adds all verbs to the command of the program, and lists them in its help. clap itself would list them without groups.
pub(crate) fn add_to(program: Command) -> Command {
    let visible = GROUPS.iter().flat_map(|group| group.verbs).map(Verb::command);
    let hidden = HIDDEN.iter().map(|verb| verb.command().hide(true));
    let program = program.subcommands(visible).subcommands(hidden);
    let (heading, list) = (program.get_styles().get_header(), list(&program));
    let template = format!(
        "{{before-help}}{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{list}\
         'sapwood VERB --help' says more.\n\n{heading}Options:{heading:#}\n{{options}}{{after-help}}"
    );
    program.help_template(template).subcommand_required(true).arg_required_else_help(true)
}

/// Returns the lines of the help that list the verbs. They are not wrapped, so what a verb is about has to be short.
fn list(program: &Command) -> String {
    let (heading, name_style) = (program.get_styles().get_header(), program.get_styles().get_literal());
    let mut text = String::new();
    for group in GROUPS {
        text.push_str(&format!("{heading}{}:{heading:#}\n", group.title));
        for Verb { name, .. } in group.verbs {
            let about = program.find_subcommand(name).and_then(Command::get_about).cloned().unwrap_or_default();
            text.push_str(&format!("  {name_style}{name:<NAME_WIDTH$}{name_style:#}{about}\n"));
        }
        text.push('\n');
    }
    text
}

/// Returns the arguments of the verb that was parsed.
///
/// # Errors
/// When the arguments do not fit together in a way that only their type knows.
pub(crate) fn parse(matches: &ArgMatches) -> Result<Box<dyn Run>, clap::Error> {
    let missing = || clap::Error::new(clap::error::ErrorKind::MissingSubcommand);
    let (name, arguments) = matches.subcommand().ok_or_else(missing)?;
    let mut all = GROUPS.iter().flat_map(|group| group.verbs).chain(HIDDEN);
    let verb = all.find(|verb| verb.name == name).ok_or_else(missing)?;
    (verb.parse)(arguments)
}
