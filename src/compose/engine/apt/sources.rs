//! Where apt gets packages from: what the treefile says, or what this machine's own apt is configured with.

use std::process::Command;

use super::super::EngineError;
use super::super::tool::find;
use super::output;
use crate::compose::process::Runner;
use crate::compose::treefile::{AptSource, Treefile};

/// What `apt-get indextargets` is asked to print.
const FORMAT: &str = "$(SITE)\t$(RELEASE)\t$(COMPONENT)\t$(ORIGIN)\t$(CODENAME)\t$(SIGNED_BY)";

/// The texts of the sources, each with the suffix that tells apt how to read it.
///
/// # Errors
/// [`EngineError::Unsigned`] and [`EngineError::NoSources`].
pub fn texts(treefile: &Treefile, runner: Runner<'_>) -> Result<Vec<(String, &'static str)>, EngineError> {
    if treefile.apt_sources.is_empty() {
        return Ok(vec![(of_this_machine(treefile, runner)?, "sources")]);
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

/// The distribution's own sources as this machine has them: a machine's extra ones would make two composes differ.
fn of_this_machine(treefile: &Treefile, runner: Runner<'_>) -> Result<String, EngineError> {
    let program = find("apt-get", "apt", "it knows this machine's package sources")?;
    let mut command = Command::new(program);
    command.args(["indextargets", "--format", FORMAT, "Created-By: Packages"]);
    let text = runner.capture("asking apt for this machine's sources", &mut command)?;
    let release = treefile.releasever.clone().or_else(codename);
    let stanzas = output::stanzas(&text, &treefile.distribution, release.as_deref());
    if stanzas.is_empty() {
        return Err(EngineError::NoSources(format!(
            "this machine's apt knows no source of {} {}: run 'apt-get update', or write 'apt-sources' into the treefile",
            treefile.distribution,
            release.unwrap_or_default()
        )));
    }
    Ok(stanzas.into_iter().collect::<Vec<_>>().join("\n"))
}

/// The name of the release that this machine runs.
fn codename() -> Option<String> {
    let text = std::fs::read_to_string("/etc/os-release").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    Some(line.trim_matches('"').to_owned())
}

/// Refuses options that make apt believe anything, unless the treefile says that it is meant.
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
