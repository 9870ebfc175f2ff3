//! Returns the package sources for apt: those in the treefile, or those of this machine's own apt.
//!
//! *Used by* `config`.

use std::path::Path;
use std::process::Command;

use super::super::EngineError;
use super::super::tool::{find_program, read_lossy};
use super::output;
use super::source_list::{self, SourceListError};
use crate::compose::process::Runner;
use crate::compose::treefile::{AptSource, Treefile};

/// The format of the lines that `apt-get indextargets` has to print.
const INDEX_TARGETS_FORMAT: &str = "$(SITE)\t$(RELEASE)\t$(COMPONENT)\t$(ORIGIN)\t$(CODENAME)\t$(SIGNED_BY)";

/// Returns the texts of the sources, in apt's deb822 format.
pub(crate) fn source_texts(treefile: &Treefile, runner: Runner<'_>) -> Result<Vec<String>, EngineError> {
    if treefile.apt_sources.is_empty() {
        return Ok(vec![machine_sources(treefile, runner)?]);
    }
    let is_unsigned =
        |uris: &str| treefile.unsigned_repos.iter().any(|name| !name.is_empty() && uris.contains(name.as_str()));
    let read = |source: &AptSource| match source {
        AptSource::Stanzas(text) => source_list::read_stanzas(text, &is_unsigned),
        AptSource::Lines(text) => source_list::read_lines(text, &is_unsigned),
    };
    let texts = treefile.apt_sources.iter().map(|source| read(source).map_err(interpret_error));
    texts.map(|text| embed_keys(&text?, &treefile.directory)).collect()
}

/// Replaces the name of a key file that is relative to the treefile by the key itself, so that neither the sources nor the image
/// depend on where the treefile is.
fn embed_keys(text: &str, directory: &Path) -> Result<String, EngineError> {
    let mut embedded = String::new();
    for line in text.lines() {
        // `source_list` writes the names of fields in small letters.
        let name = line.strip_prefix("signed-by: ").map(str::trim);
        match name.filter(|name| !name.starts_with('/') && name.contains('.')) {
            Some(name) => {
                let path = directory.join(name);
                let key = read_lossy(&path)?;
                if !key.starts_with("-----BEGIN PGP PUBLIC KEY BLOCK-----") {
                    let what =
                        format!("{} is not a key in text form, as 'gpg --armor --export' writes it", path.display());
                    return Err(EngineError::NoSources(what));
                }
                embedded.push_str("Signed-By:\n");
                for line in key.trim_end().lines() {
                    embedded.push_str(&format!(" {}\n", if line.trim().is_empty() { "." } else { line }));
                }
            }
            None => embedded.extend([line, "\n"]),
        }
    }
    Ok(embedded)
}

fn interpret_error(error: SourceListError) -> EngineError {
    match error {
        SourceListError::Unverified { uri, field } => EngineError::Unsigned { repo: uri, how: field.to_owned() },
        SourceListError::Syntax(_) => EngineError::NoSources(error.to_string()),
    }
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
        let release = release.unwrap_or_default();
        let hint = match release.starts_with(|character: char| character.is_ascii_digit()) {
            true => "for apt, 'releasever' is the suite, as in 'bookworm', and no number; if it is right,",
            false => "",
        };
        return Err(EngineError::NoSources(format!(
            "this machine's apt knows no source of {} {release}: {hint} run 'apt-get update', or write 'apt-sources' into the treefile",
            treefile.distribution,
        ).replace(":  ", ": ")));
    }
    Ok(stanzas.into_iter().collect::<Vec<_>>().join("\n"))
}

/// Returns the code name of the release that this machine runs.
fn machine_codename() -> Option<String> {
    let text = std::fs::read_to_string("/etc/os-release").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    Some(line.trim_matches('"').to_owned())
}
