//! The settings for remotes that come from the environment. No other module reads them.
//!
//! These are the variables `AWS_…`, `GOOGLE_…` and `AZURE_…`, with the names that the tools of these clouds use, the variables
//! for proxies, `SSL_CERT_FILE`, and the profile in `~/.aws` that the AWS tools would use.
//!
//! *Not here*: the variables that begin with `SAPWOOD_`, see `cli` and `keys`.
//!
//! *Invariants*: a variable has precedence over a file.
//!
//! *Used by* `remote`, `resolve` and `cli`.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io;
use std::path::PathBuf;

use crate::remote::RemoteConfig;
use crate::remote::transport::TransportOptions;

/// The beginnings of the names of variables for buckets.
const BUCKET_PREFIXES: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];

/// The other variables that are read.
const OTHER_VARIABLES: [&str; 8] =
    ["SSL_CERT_FILE", "http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"];

/// The keys in a profile of the AWS tools that are read, each with the variable of the same meaning.
const PROFILE_KEYS: [(&str, &str); 5] = [
    ("aws_access_key_id", "AWS_ACCESS_KEY_ID"),
    ("aws_secret_access_key", "AWS_SECRET_ACCESS_KEY"),
    ("aws_session_token", "AWS_SESSION_TOKEN"),
    ("region", "AWS_REGION"),
    ("endpoint_url", "AWS_ENDPOINT_URL"),
];

/// Returns the options for a URL that is not configured as a remote.
pub(crate) fn transport_options() -> TransportOptions {
    TransportOptions { settings: read_settings(), ..TransportOptions::default() }
}

/// Returns the configuration of a remote with the settings of the environment added.
pub(crate) fn with_environment(config: RemoteConfig) -> RemoteConfig {
    let mut settings = read_settings();
    // Credentials for buckets are only added for remotes in buckets.
    let in_bucket = |url: &String| ["s3://", "gs://", "az://"].iter().any(|scheme| url.starts_with(scheme));
    let is_bucket = in_bucket(&config.url) || config.transport.mirrors.iter().any(in_bucket);
    settings.retain(|name, _| is_bucket || OTHER_VARIABLES.contains(&name.as_str()));
    let transport = TransportOptions { settings, ..config.transport };
    RemoteConfig { transport, ..config }
}

fn read_settings() -> BTreeMap<String, String> {
    let counts =
        |name: &str| OTHER_VARIABLES.contains(&name) || BUCKET_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    let mut settings: BTreeMap<String, String> =
        env::vars_os().filter_map(text).filter(|(name, value)| counts(name) && !value.is_empty()).collect();
    add_profile(&mut settings);
    settings
}

/// Adds the values from the profile of the AWS tools for which no variable is set.
fn add_profile(settings: &mut BTreeMap<String, String>) {
    let profile = settings.get("AWS_PROFILE").cloned().unwrap_or_else(|| "default".to_owned());
    let file = |variable: &str, name: &str| match settings.get(variable) {
        Some(path) => Some(PathBuf::from(path)),
        None => env::home_dir().map(|home| home.join(".aws").join(name)),
    };
    // Both files may have either kind of value; the one for credentials wins, as with the AWS tools.
    let sections = [
        (file("AWS_SHARED_CREDENTIALS_FILE", "credentials"), profile.clone()),
        (file("AWS_CONFIG_FILE", "config"), config_section(&profile)),
    ];
    let has_key = settings.contains_key("AWS_ACCESS_KEY_ID");
    let has_region = ["AWS_REGION", "AWS_DEFAULT_REGION"].iter().any(|name| settings.contains_key(*name));
    for (path, section) in sections.into_iter().filter_map(|(path, section)| Some((path?, section))) {
        for (name, value) in section_of(&read_or_empty(&path), &section) {
            // The keys of a pair belong together: one from a variable and one from a file would not match.
            let is_taken = match name {
                "AWS_ACCESS_KEY_ID" | "AWS_SECRET_ACCESS_KEY" | "AWS_SESSION_TOKEN" => has_key,
                "AWS_REGION" => has_region,
                _ => false,
            };
            if !is_taken {
                settings.entry(name.to_owned()).or_insert(value);
            }
        }
    }
}

fn config_section(profile: &str) -> String {
    if profile == "default" { profile.to_owned() } else { format!("profile {profile}") }
}

fn read_or_empty(path: &std::path::Path) -> String {
    match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!("{}: {error}", path.display());
            }
            String::new()
        }
    }
}

/// Returns the values of one section of an INI file, each with the name of the variable of the same meaning.
fn section_of(text: &str, section: &str) -> Vec<(&'static str, String)> {
    let mut values = Vec::new();
    let mut is_inside = false;
    for line in text.lines().filter(|line| !line.trim_start().starts_with(['#', ';'])) {
        // Indented lines belong to a nested setting.
        if line.starts_with([' ', '\t']) {
            continue;
        }
        if let Some(name) = line.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            is_inside = name.trim() == section;
        } else if let Some((key, value)) = line.split_once('=').filter(|_| is_inside) {
            let known = PROFILE_KEYS.iter().find(|(name, _)| *name == key.trim());
            values.extend(known.map(|(_, variable)| (*variable, value.trim().to_owned())));
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profile_section_gives_only_its_own_values() {
        let text = "[default]\nregion = eu-central-1\ns3 =\n  endpoint_url = nested\n# region = no\n\
                    [profile build]\naws_access_key_id=AKIA\naws_secret_access_key = a=b\noutput = json\n";
        assert_eq!(section_of(text, "default"), [("AWS_REGION", "eu-central-1".to_owned())]);
        let build = [("AWS_ACCESS_KEY_ID", "AKIA".to_owned()), ("AWS_SECRET_ACCESS_KEY", "a=b".to_owned())];
        assert_eq!(section_of(text, &config_section("build")), build);
        assert_eq!(section_of(text, "other"), []);
    }

    #[test]
    fn variable_overrides_profile_and_key_pairs_are_not_mixed() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("credentials");
        let text = "[build]\naws_access_key_id=FILE\naws_secret_access_key=file\naws_session_token=t\nregion=r\n";
        crate::disk::replace(&path, text.as_bytes()).expect("writable");
        let given = |pairs: &[(&str, &str)]| {
            let mut settings: BTreeMap<String, String> =
                pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let file = path.to_str().expect("UTF-8").to_owned();
            settings.insert("AWS_SHARED_CREDENTIALS_FILE".to_owned(), file);
            settings.insert("AWS_CONFIG_FILE".to_owned(), "/nonexistent".to_owned());
            settings.insert("AWS_PROFILE".to_owned(), "build".to_owned());
            add_profile(&mut settings);
            settings
        };
        let from_file = given(&[]);
        assert_eq!(from_file["AWS_ACCESS_KEY_ID"], "FILE");
        assert_eq!((&*from_file["AWS_SESSION_TOKEN"], &*from_file["AWS_REGION"]), ("t", "r"));
        let mixed = given(&[("AWS_ACCESS_KEY_ID", "ENV"), ("AWS_DEFAULT_REGION", "env")]);
        assert_eq!(mixed["AWS_ACCESS_KEY_ID"], "ENV");
        assert!(!mixed.contains_key("AWS_SECRET_ACCESS_KEY") && !mixed.contains_key("AWS_SESSION_TOKEN"));
        assert!(!mixed.contains_key("AWS_REGION"));
    }
}
