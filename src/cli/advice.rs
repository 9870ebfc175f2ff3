//! The hints: for each error whose next command is known, what to do next.
//!
//! *Not here*: printing them (`error`), and hints that a verb attaches to an error itself (`error::Hint`). *Used by* `error`.

use std::error::Error;
use std::io;

use crate::compose::source::TarEntryError;
use crate::deploy::boot::BootError;
use crate::deploy::error::SysrootError;
use crate::deploy::upgrade::UpdateError;
use crate::model::RefName;
use crate::remote::transport::{CertificateFault, FailureReason, TlsFault};
use crate::store::{OpenError, ReadError, RefError, ResolveError};
use crate::trust::{SignatureError, TrustError};

/// An error for which there may be a hint.
trait Advice: Error + 'static {
    /// Returns what the user can do about the error, usually a command.
    fn hint(&self) -> Option<String>;
}

/// The types of errors with hints.
const ADVISED: &[fn(&(dyn Error + 'static)) -> Option<String>] = &[
    hint_of::<OpenError>,
    hint_of::<ResolveError>,
    hint_of::<ReadError>,
    hint_of::<TrustError>,
    hint_of::<FailureReason>,
    hint_of::<RefError>,
    hint_of::<BootError>,
    hint_of::<SysrootError>,
    hint_of::<UpdateError>,
    hint_of::<TarEntryError>,
    hint_of::<io::Error>,
];

/// Returns the hint for an error whose next command is known.
pub(crate) fn hint_for(cause: &(dyn Error + 'static)) -> Option<String> {
    ADVISED.iter().find_map(|hint_of| hint_of(cause))
}

fn hint_of<E: Advice>(cause: &(dyn Error + 'static)) -> Option<String> {
    cause.downcast_ref::<E>()?.hint()
}

impl Advice for OpenError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::NotARepository(path) => Some(format!("make one with: sapwood --repo {} init", path.display())),
            _ => None,
        }
    }
}

impl Advice for ResolveError {
    fn hint(&self) -> Option<String> {
        let Self::Unknown { similar, .. } = self else { return None };
        Some(match &similar[..] {
            [] => "'sapwood refs' lists what there is".to_owned(),
            names => {
                let names: Vec<&str> = names.iter().take(5).map(RefName::as_str).collect();
                format!("did you mean {}?", names.join(" or "))
            }
        })
    }
}

impl Advice for ReadError {
    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::MissingCommit { .. } => "'sapwood refs' and 'sapwood log' list what there is",
            Self::MissingObject { .. } => {
                "of a commit that is here in part, 'sapwood pull REMOTE:REF' brings the rest; else 'sapwood fsck --all' tells what \
                 is affected"
            }
            _ => "'sapwood fsck --all' tells what else is affected",
        };
        Some(text.to_owned())
    }
}

impl Advice for TrustError {
    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Signature(SignatureError::Unsigned) => {
                "the publisher signs with 'sapwood publish --sign KEY'; --insecure-unsigned takes it as it is"
            }
            Self::Signature(SignatureError::UnknownKey { .. }) => {
                "if the publisher confirms that key: 'sapwood remote key add REMOTE KEY'"
            }
            Self::Signature(SignatureError::OtherRefs { .. }) => {
                "'sapwood remote show REMOTE' lists which key is trusted for which refs; 'sapwood remote key add REMOTE KEY' \
                 with --refs changes that"
            }
            Self::Signature(SignatureError::TooFew { .. }) => {
                "the publisher signs with further keys: 'sapwood publish --sign KEY --sign KEY2'"
            }
            Self::BelowMinimum { .. } => {
                "a cache or a mirror has not caught up, or an old state is shown on purpose: try again later"
            }
            Self::Older { .. } => {
                "a cache, an edge or a mirror has not caught up: try again later, nothing is lost. Only if the publisher \
                 confirms that an older state is meant: --allow-older"
            }
            Self::Replaced { .. } | Self::OtherGeneration { .. } => {
                "the server shows a state of before the change of keys, or the old key is misused: the publisher publishes \
                 every ref with the newest key"
            }
            Self::OtherRepository { .. } => {
                "another repository's files are served there. If the change is meant: 'sapwood remote add --replace … \
                 --identity ID'"
            }
            Self::Rewritten { .. } => "if the publisher confirms that this is meant: --allow-older",
            _ => return None,
        };
        Some(text.to_owned())
    }
}

impl Advice for FailureReason {
    fn hint(&self) -> Option<String> {
        hint_for_transport(self).map(str::to_owned)
    }
}

impl Advice for RefError {
    fn hint(&self) -> Option<String> {
        matches!(self, Self::Changed { .. }).then(|| "look at it with 'sapwood log' and try again".to_owned())
    }
}

impl Advice for BootError {
    fn hint(&self) -> Option<String> {
        let text = "mount it; if it is a new one, 'sapwood sysroot write-menu' fills it";
        matches!(self, Self::NotMounted(_)).then(|| text.to_owned())
    }
}

impl Advice for SysrootError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::NotASysroot(path) => Some(format!("make it one with: sapwood sysroot init {}", path.display())),
            Self::LostMenu => {
                Some("'sapwood sysroot write-menu' writes it anew, from the deployments there are".to_owned())
            }
            Self::NoDeployment(_) => Some("'sapwood status' lists them".to_owned()),
            _ => None,
        }
    }
}

impl Advice for UpdateError {
    fn hint(&self) -> Option<String> {
        let text = "'sapwood --repo SYSROOT/sapwood/repo remote add NAME URL --key FILE' adds one";
        matches!(self, Self::Url(_)).then(|| text.to_owned())
    }
}

impl Advice for TarEntryError {
    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Whiteout(_) => {
                "--oci imports an image with all of its layers; --whiteouts verbatim takes such names as they are"
            }
            Self::ContainerImage => {
                "'sapwood commit --ref REF --oci FILE' lays its layers over each other and commits the result"
            }
            _ => return None,
        };
        Some(text.to_owned())
    }
}

impl Advice for io::Error {
    fn hint(&self) -> Option<String> {
        let text = match self.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                "nothing was lost; make room ('sapwood gc' removes what no ref needs) and try again"
            }
            io::ErrorKind::PermissionDenied if !nix::unistd::geteuid().is_root() => {
                "that needs root, or the user to whom it belongs: try it with sudo"
            }
            io::ErrorKind::ReadOnlyFilesystem => "choose a repository that can be written with --repo",
            _ => return None,
        };
        Some(text.to_owned())
    }
}

fn hint_for_transport(reason: &FailureReason) -> Option<&'static str> {
    match reason {
        FailureReason::NoCredentials => Some(
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or AWS_SKIP_SIGNATURE=true for a public bucket",
        ),
        FailureReason::Certificate(fault, _) => Some(certificate_hint(*fault)),
        FailureReason::Tls(fault, _) => tls_hint(*fault),
        FailureReason::Status { message, .. } if message.wants_certificate() => tls_hint(TlsFault::WantsCertificate),
        FailureReason::Proxy(_) => Some(
            "name and password belong into its URL: --proxy http://NAME:PASSWORD@HOST:PORT, or http_proxy and https_proxy",
        ),
        FailureReason::System(error) if error.kind() == io::ErrorKind::StorageFull => {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_hints_of_their_types() {
        let cases: [(Box<dyn Error>, Option<&str>); 4] = [
            (Box::new(io::Error::from(io::ErrorKind::StorageFull)), Some("nothing was lost; make room")),
            (Box::new(io::Error::from(io::ErrorKind::NotFound)), None),
            (Box::new(OpenError::NotARepository("/r".into())), Some("make one with: sapwood --repo /r init")),
            (Box::new(std::fmt::Error), None),
        ];
        for (error, beginning) in cases {
            let hint = hint_for(error.as_ref());
            let is_expected = match (&hint, beginning) {
                (Some(hint), Some(beginning)) => hint.starts_with(beginning),
                (hint, beginning) => hint.is_none() && beginning.is_none(),
            };
            assert!(is_expected, "{error}: {hint:?}");
        }
    }
}
