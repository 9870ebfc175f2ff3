//! What an error means to a person: one line that says what, which and why, a hint with the next command, an exit status.

use std::io;
use std::process::ExitCode;

use super::output;
use crate::deploy::apply::Refusal;
use crate::deploy::boot::BootError;
use crate::deploy::error::SysrootError;
use crate::remote::transport::{CertificateFault, Reason, TlsFault};
use crate::store::{OpenError, ReadError, RefError, ResolveError};
use crate::trust::{SignatureError, TrustError};

/// Exit status of wrong usage.
pub const USAGE: u8 = 2;

/// Prints what clap has to say: help and version are results, everything else is wrong usage.
pub fn usage(error: &clap::Error) -> ExitCode {
    // Nothing can be done about an output that is closed.
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS }
}

/// A context that is no part of the message but says what to do next.
#[derive(Debug, Clone, Copy)]
pub struct Hint(pub &'static str);

impl std::fmt::Display for Hint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

/// An error that another process has told already.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the reason was told")]
pub struct Told;

/// Prints an error and its hint.
pub fn report(error: &anyhow::Error) -> ExitCode {
    if error.is::<Told>() {
        return ExitCode::FAILURE;
    }
    if is_broken_pipe(error) {
        // Whoever read our output has seen enough, as in `sapwood log | head`.
        return ExitCode::SUCCESS;
    }
    output::note(format_args!("sapwood: {}", sentence(error)));
    let given = error.downcast_ref::<Hint>().map(|hint| hint.0);
    if let Some(hint) = given.map(str::to_owned).or_else(|| error.chain().find_map(hint)) {
        output::note(format_args!("hint: {hint}"));
    }
    ExitCode::FAILURE
}

/// An error and its causes in one line, without its hint.
pub fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    let given = error.downcast_ref::<Hint>().map(|hint| hint.0);
    for cause in error.chain().map(ToString::to_string).filter(|cause| given != Some(cause)) {
        // Transparent wrappers repeat their source.
        if !text.ends_with(&cause) {
            text = if text.is_empty() { cause } else { format!("{text}: {cause}") };
        }
    }
    text
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// The next command for an error that has an obvious one.
fn hint(cause: &(dyn std::error::Error + 'static)) -> Option<String> {
    if let Some(error) = cause.downcast_ref::<OpenError>() {
        return match error {
            OpenError::NotARepository(path) => Some(format!("make one with: sapwood --repo {} init", path.display())),
            _ => None,
        };
    }
    if let Some(ResolveError::Unknown { similar, .. }) = cause.downcast_ref::<ResolveError>() {
        return Some(match &similar[..] {
            [] => "'sapwood refs' lists what there is".to_owned(),
            names => {
                let names: Vec<&str> = names.iter().take(5).map(crate::model::RefName::as_str).collect();
                format!("did you mean {}?", names.join(" or "))
            }
        });
    }
    if let Some(error) = cause.downcast_ref::<ReadError>() {
        return match error {
            ReadError::MissingCommit { .. } => Some("'sapwood refs' and 'sapwood log' list what there is".to_owned()),
            ReadError::MissingObject { .. } => Some(
                "of a commit that is here in part, 'sapwood pull REMOTE:REF' brings the rest; else 'sapwood fsck --all' tells what \
                 is affected"
                    .to_owned(),
            ),
            _ => Some("'sapwood fsck --all' tells what else is affected".to_owned()),
        };
    }
    if let Some(error) = cause.downcast_ref::<TrustError>() {
        return match error {
            TrustError::Signature(SignatureError::Unsigned) => Some(
                "the publisher signs with 'sapwood publish --sign KEY'; --insecure-unsigned takes it as it is".into(),
            ),
            TrustError::Signature(SignatureError::UnknownKey { .. }) => Some(
                "if the publisher confirms that key, add it with 'sapwood remote add --replace … --key KEY'".into(),
            ),
            TrustError::Older { .. } => Some(
                "a cache, an edge or a mirror has not caught up: try again later, nothing is lost. Only if the publisher \
                 confirms that an older state is meant: --allow-older"
                    .to_owned(),
            ),
            TrustError::Rewritten { .. } => {
                Some("if the publisher confirms that this is meant: --allow-older".to_owned())
            }
            _ => None,
        };
    }
    if let Some(reason) = cause.downcast_ref::<Reason>() {
        return transport_hint(reason).map(str::to_owned);
    }
    if let Some(RefError::Changed { .. }) = cause.downcast_ref::<RefError>() {
        return Some("look at it with 'sapwood log' and try again".to_owned());
    }
    if let Some(Refusal::EmptyMenu) = cause.downcast_ref::<Refusal>() {
        return Some("'sapwood sysroot write-menu' writes it anew, from the deployments there are".to_owned());
    }
    if let Some(BootError::NotMounted(_)) = cause.downcast_ref::<BootError>() {
        return Some("mount it; if it is a new one, 'sapwood sysroot write-menu' fills it".to_owned());
    }
    if let Some(SysrootError::NotASysroot(path)) = cause.downcast_ref::<SysrootError>() {
        return Some(format!("make it one with: sapwood sysroot init {}", path.display()));
    }
    if let Some(SysrootError::NoDeployment(_)) = cause.downcast_ref::<SysrootError>() {
        return Some("'sapwood status' lists them".to_owned());
    }
    match cause.downcast_ref::<io::Error>()?.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Some("nothing was lost; make room ('sapwood gc' removes what no ref needs) and try again".to_owned())
        }
        io::ErrorKind::ReadOnlyFilesystem => Some("choose a repository that can be written with --repo".to_owned()),
        _ => None,
    }
}

fn transport_hint(reason: &Reason) -> Option<&'static str> {
    match reason {
        Reason::NoCredentials => Some(
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or AWS_SKIP_SIGNATURE=true for a public bucket",
        ),
        Reason::Certificate(fault, _) => Some(certificate_hint(*fault)),
        Reason::Tls(fault, _) => tls_hint(*fault),
        Reason::Status { said, .. } if said.wants_certificate() => tls_hint(TlsFault::WantsCertificate),
        Reason::Proxy(_) => Some(
            "name and password belong into its URL: --proxy http://NAME:PASSWORD@HOST:PORT, or http_proxy and https_proxy",
        ),
        Reason::System(error) if error.kind() == io::ErrorKind::StorageFull => {
            Some("nothing was lost; make room there and run the same command again: what was sent is not sent again")
        }
        _ => None,
    }
}

const fn certificate_hint(fault: CertificateFault) -> &'static str {
    match fault {
        CertificateFault::Clock => "set this machine's clock ('timedatectl' or 'date') and try again",
        CertificateFault::Time => {
            "the server's operator has to renew it; if it is not that old, look at this machine's clock ('date')"
        }
        CertificateFault::Name => {
            "the URL has another name than the certificate: look at both, or whether a login page answers"
        }
        CertificateFault::Issuer | CertificateFault::Other => {
            "if the server is the right one: 'sapwood remote add --replace … --ca-file FILE' (or SSL_CERT_FILE) names its authority"
        }
    }
}

const fn tls_hint(fault: TlsFault) -> Option<&'static str> {
    match fault {
        TlsFault::WantsCertificate => {
            Some("'sapwood remote add --replace … --client-certificate FILE' shows the server who is asking")
        }
        TlsFault::NotTls => Some("look at the URL's scheme and port, or whether a login page answers"),
        TlsFault::Version => Some("the server's operator has to allow TLS 1.2 or 1.3"),
        TlsFault::Name => Some("look at the name in the URL: the server has no certificate for it"),
        TlsFault::Other => None,
    }
}
