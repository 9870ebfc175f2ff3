//! The options of `remote add` that say how to talk to the server, and how `remote show` prints them.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::remote::transport::{TransportOptions, check_proxy, without_secret};

/// How to talk to the server
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "How to talk to the server")]
pub(crate) struct TransportArgs {
    /// Another URL with the same content, tried when the first fails; several are possible, in order
    #[arg(long = "mirror", value_name = "URL")]
    mirrors: Vec<String>,
    /// Accept servers whose certificates these authorities (a PEM file) issued, instead of the system's
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Show the server this certificate; its PEM file has the key, too
    #[arg(long, value_name = "FILE")]
    client_certificate: Option<PathBuf>,
    /// Send the token in this file as 'Authorization: Bearer …', to the server of the URL and no other
    #[arg(long, value_name = "FILE")]
    bearer_file: Option<PathBuf>,
    /// Use this proxy instead of what http_proxy, https_proxy, all_proxy and no_proxy say
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
    /// Receive at most this many bytes a second; K, M and G are understood
    #[arg(long, value_name = "BYTES", value_parser = parse_size)]
    rate_limit: Option<u64>,
    /// Seconds to wait for a connection [default: 10]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    connect_timeout: Option<u64>,
    /// Seconds with less than --min-rate after which a request is sent again [default: 20]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    stall_timeout: Option<u64>,
    /// Bytes a second below which a transfer is stalled [default: 1000]
    #[arg(long, value_name = "BYTES", value_parser = parse_size)]
    min_rate: Option<u64>,
    /// Seconds after which a request that keeps failing is given up [default: 120]
    #[arg(long, value_name = "SECONDS")]
    patience: Option<u64>,
}

impl TransportArgs {
    /// Returns the options that the arguments make. Files must exist; they are stored by their absolute paths.
    ///
    /// # Errors
    /// When a file, a mirror or the proxy cannot be used.
    pub(crate) fn to_options(&self) -> Result<TransportOptions> {
        if let Some(mirror) = self.mirrors.iter().find(|mirror| !mirror.contains("://")) {
            bail!("'{mirror}' is no URL; for a directory write file://{mirror}");
        }
        if let Some(proxy) = &self.proxy {
            check_proxy(proxy)?;
        }
        let default = TransportOptions::default();
        Ok(TransportOptions {
            bearer_file: absolute(self.bearer_file.as_deref())?,
            client_certificate: absolute(self.client_certificate.as_deref())?,
            ca_file: absolute(self.ca_file.as_deref())?,
            mirrors: self.mirrors.clone(),
            rate_limit: self.rate_limit,
            proxy: self.proxy.clone(),
            connect_timeout: self.connect_timeout.unwrap_or(default.connect_timeout),
            stall_timeout: self.stall_timeout.unwrap_or(default.stall_timeout),
            min_rate: self.min_rate.unwrap_or(default.min_rate),
            patience: self.patience.unwrap_or(default.patience),
            settings: default.settings,
        })
    }
}

fn absolute(path: Option<&Path>) -> Result<Option<PathBuf>> {
    let canonical = |path: &Path| path.canonicalize().with_context(|| format!("cannot use {}", path.display()));
    path.map(canonical).transpose()
}

fn parse_size(text: &str) -> Result<u64> {
    let size = crate::model::parse_size(text).filter(|size| *size > 0);
    size.with_context(|| format!("'{text}' is no number of bytes: write 500000, 500K, 2M or 1G"))
}

/// Returns the names and values of the options that differ from the defaults.
pub(crate) fn changed_options(options: &TransportOptions) -> Vec<(&'static str, String)> {
    let default = TransportOptions::default();
    let file = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    let number = |value: u64, default: u64| (value != default).then(|| value.to_string());
    let mut lines: Vec<(&'static str, String)> =
        options.mirrors.iter().map(|url| ("mirror", without_secret(url))).collect();
    let others = [
        ("ca-file", file(&options.ca_file)),
        ("client-certificate", file(&options.client_certificate)),
        ("bearer-file", file(&options.bearer_file)),
        ("proxy", options.proxy.as_deref().map(without_secret)),
        ("rate-limit", options.rate_limit.map(|rate| rate.to_string())),
        ("connect-timeout", number(options.connect_timeout, default.connect_timeout)),
        ("stall-timeout", number(options.stall_timeout, default.stall_timeout)),
        ("min-rate", number(options.min_rate, default.min_rate)),
        ("patience", number(options.patience, default.patience)),
    ];
    lines.extend(others.into_iter().filter_map(|(name, value)| Some((name, value?))));
    lines
}
