//! Returns the package sources for apt: those in the treefile, or those of this machine's own apt.
//!
//! *Used by* `config`.

use std::process::Command;

use super::super::EngineError;
use super::super::tool::find_program;
use super::output;
use crate::compose::process::Runner;
use crate::compose::treefile::{AptSource, Treefile};

/// The format of the lines that `apt-get indextargets` has to print.
const INDEX_TARGETS_FORMAT: &str = "$(SITE)\t$(RELEASE)\t$(COMPONENT)\t$(ORIGIN)\t$(CODENAME)\t$(SIGNED_BY)";

/// Returns the texts of the sources, each with the file suffix by which apt knows their syntax.
pub(crate) fn source_texts(
    treefile: &Treefile,
    runner: Runner<'_>,
) -> Result<Vec<(String, &'static str)>, EngineError> {
    if treefile.apt_sources.is_empty() {
        return Ok(vec![(machine_sources(treefile, runner)?, "sources")]);
    }
    let mut texts = Vec::new();
    for source in &treefile.apt_sources {
        let (text, suffix) = match source {
            AptSource::Stanzas(text) => (text, "sources"),
            AptSource::Lines(text) => (text, "list"),
        };
        refuse_unsigned(text, treefile)?;
        texts.push((format!("{}\n", text.trim_end()), suffix));
    }
    Ok(texts)
}

/// Returns the distribution's sources as this machine has them. The machine's other sources are left out: they would make
/// composes on different machines differ.
fn machine_sources(treefile: &Treefile, runner: Runner<'_>) -> Result<String, EngineError> {
    let program = find_program("apt-get", "apt", "it knows this machine's package sources")?;
    let mut command = Command::new(program);
    command.args(["indextargets", "--format", INDEX_TARGETS_FORMAT, "Created-By: Packages"]);
    let text = runner.capture("asking apt for this machine's sources", &mut command)?;
    let release = treefile.releasever.clone().or_else(machine_codename);
    let stanzas = output::source_stanzas(&text, &treefile.distribution, release.as_deref());
    if stanzas.is_empty() {
        return Err(EngineError::NoSources(format!(
            "this machine's apt knows no source of {} {}: run 'apt-get update', or write 'apt-sources' into the treefile",
            treefile.distribution,
            release.unwrap_or_default()
        )));
    }
    Ok(stanzas.into_iter().collect::<Vec<_>>().join("\n"))
}

/// Returns the code name of the release that this machine runs.
fn machine_codename() -> Option<String> {
    let text = std::fs::read_to_string("/etc/os-release").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    Some(line.trim_matches('"').to_owned())
}

/// Refuses options that switch verification off, unless the treefile names the source in `unsigned-repos`.
fn refuse_unsigned(text: &str, treefile: &Treefile) -> Result<(), EngineError> {
    const OPTIONS: [&str; 4] = ["trusted", "allow-insecure", "allow-weak", "allow-downgrade-to-insecure"];
    let stanzas: Vec<&str> = if text.lines().any(|line| line.to_lowercase().starts_with("types:")) {
        text.split("\n\n").collect()
    } else {
        text.lines().collect()
    };
    for stanza in stanzas {
        let is_named = treefile.unsigned_repos.iter().any(|name| !name.is_empty() && stanza.contains(name.as_str()));
        let plain: String = stanza.to_lowercase().chars().filter(|c| !matches!(c, ' ' | '\t')).collect();
        let used = OPTIONS.iter().find(|option| {
            let values = ["yes", "true", "1", "on"];
            values.iter().any(|value| {
                plain.contains(&format!("{option}={value}")) || plain.contains(&format!("{option}:{value}"))
            })
        });
        if let (Some(option), false) = (used, is_named) {
            let repo = stanza.split_whitespace().find(|word| word.contains(":/")).unwrap_or("a source of apt");
            return Err(EngineError::Unsigned { repo: repo.to_owned(), how: (*option).to_owned() });
        }
    }
    Ok(())
}
