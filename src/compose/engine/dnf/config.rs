//! Writes the configuration of dnf and rpm for one treefile: the `.repo` files beside it and a cache. Nothing of this
//! machine's configuration is used.
//!
//! *Used by* `Dnf`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::super::tool::{io_error, make_directory, read_lossy, write_file};
use super::super::{EngineContext, EngineError};
use super::repo_file::{self, RepoFileError};
use crate::compose::treefile::Treefile;

/// The number of `../` that leads from any root to `/`; more than a root is deep.
const PARENT_STEPS: usize = 20;

/// The configuration files of one compose.
pub(crate) struct DnfConfig {
    directory: PathBuf,
}

impl DnfConfig {
    /// Writes the configuration for a treefile.
    pub(crate) fn write(context: EngineContext<'_>, treefile: &Treefile) -> Result<Self, EngineError> {
        let directory = context.work.join("dnf");
        let cache = context.cache.join("dnf");
        for name in ["repos.d", "empty", "home", "log", "state", "vars"] {
            make_directory(&directory.join(name))?;
        }
        make_directory(&cache)?;
        let mut has_repos = false;
        let entries = fs::read_dir(&treefile.directory).map_err(io_error("list", &treefile.directory))?;
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        files.sort();
        for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "repo")) {
            let text = read_lossy(file)?;
            let text =
                repo_file::read(&text, &|repo| treefile.unsigned_repos.iter().any(|name| name == repo), &|repo| {
                    treefile.repos.is_empty() || treefile.repos.iter().any(|name| name == repo)
                })
                .map_err(|error| match error {
                    RepoFileError::Unverified { repo } => EngineError::Unsigned { repo, how: "gpgcheck=0".to_owned() },
                    RepoFileError::Syntax(_) => EngineError::NoSources(format!("{}: {error}", file.display())),
                })?;
            write_file(&directory.join("repos.d").join(file.file_name().unwrap_or_default()), text)?;
            has_repos = true;
        }
        if !has_repos && treefile.packages.len() + treefile.repos.len() > 0 {
            return Err(EngineError::NoSources(format!(
                "there is no .repo file in {}: they say where dnf gets packages from",
                treefile.directory.display()
            )));
        }
        let config = Self { directory };
        write_file(&config.path(), config.render(&cache, treefile))?;
        write_file(&config.directory.join("home/.rpmmacros"), rpm_macros(treefile))?;
        Ok(config)
    }

    /// Returns the file for `--config`.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.join("dnf.conf")
    }

    /// Returns the values of `$releasever` and the like.
    pub(crate) fn substitutions(&self, treefile: &Treefile) -> Value {
        let mut values = json!({ "basearch": treefile.arch, "arch": treefile.arch });
        if let Some(release) = &treefile.releasever {
            values["releasever"] = json!(release);
        }
        values
    }

    fn render(&self, cache: &Path, treefile: &Treefile) -> String {
        // dnf takes these paths as relative to the root it installs into. `..` above `/` is `/`.
        let outside = |path: &Path| {
            format!("/{}{}", "../".repeat(PARENT_STEPS), path.display().to_string().trim_start_matches('/'))
        };
        let (own, repos) = (outside(&self.directory), self.directory.display());
        let cache = outside(cache);
        let flags = if treefile.documentation { "" } else { "tsflags=nodocs\n" };
        format!(
            "[main]\ngpgcheck=1\nlocalpkg_gpgcheck=0\nbest=1\nstrict=1\nskip_if_unavailable=0\nkeepcache=1\nplugins=0\nobsoletes=1\n\
             reposdir={repos}/repos.d\nvarsdir={repos}/vars\ncachedir={cache}\nsystem_cachedir={cache}\npersistdir=/var/lib/dnf\nlogdir={own}/log\n\
             metadata_expire=0\nzchunk=0\nhistory_record=0\ninstall_weak_deps={}\n{flags}",
            if treefile.recommends { "1" } else { "0" },
        )
    }
}

/// Returns rpm's configuration: the place of its database in the root, and the languages. `/proc` is left as it is: a package
/// may have it, and its owner cannot be set, since it is mounted.
fn rpm_macros(treefile: &Treefile) -> String {
    let mut text = String::from("%_dbpath /usr/lib/sysimage/rpm\n%_db_backend sqlite\n%_netsharedpath /proc\n");
    if !treefile.install_langs.is_empty() {
        text.push_str(&format!("%_install_langs {}\n", treefile.install_langs.join(":")));
    }
    text
}
