//! Classifies failures of TLS and describes them in plain words.
//!
//! *Not here*: which certificates are trusted (`tls`).
//!
//! *Invariants*: a certificate that is refused because of a wrong clock is distinguished from a wrong certificate.
//!
//! *Used by* `reason`.

use rustls::pki_types::{ServerName, UnixTime};
use rustls::{AlertDescription, CertificateError, InvalidMessage, PeerIncompatible};

/// The earliest time that a correctly set clock can show: 2026-01-01.
const CLOCK_MIN: u64 = 1_767_225_600;

/// What is wrong with a server's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateFault {
    /// It is valid, but this machine's clock is not set.
    Clock,
    /// It has expired, or is not valid yet.
    Time,
    /// It is for another server.
    Name,
    /// No trusted authority issued it.
    Issuer,
    /// Another fault.
    Other,
}

/// The reason why there is no secure connection, apart from the certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsFault {
    /// The server requires a client certificate.
    WantsCertificate,
    /// The server does not use TLS.
    NotTls,
    /// The server's version of TLS is too old.
    Version,
    /// The server does not serve this name.
    Name,
    /// Another fault.
    Other,
}

/// Returns the kind of a certificate's fault and a sentence about it.
pub(super) fn certificate_fault(why: &CertificateError) -> (CertificateFault, String) {
    match why {
        CertificateError::UnknownIssuer => {
            (CertificateFault::Issuer, "it was issued by an authority that is not trusted here".to_owned())
        }
        CertificateError::ExpiredContext { time, not_after } => (
            CertificateFault::Time,
            format!("it has expired, on {}; {}", format_day(*not_after), describe_clock(*time)),
        ),
        CertificateError::NotValidYetContext { time, not_before } => {
            let fault = if time.as_secs() < CLOCK_MIN { CertificateFault::Clock } else { CertificateFault::Time };
            (fault, format!("it is valid from {} on, and {}", format_day(*not_before), describe_clock(*time)))
        }
        CertificateError::NotValidForNameContext { expected, presented } => (
            CertificateFault::Name,
            format!("it is for {}, not for {}", format_names(presented), format_name(expected)),
        ),
        // The variants are not exported, only their names.
        other if other.to_string().contains("CaUsedAsEndEntity") => (
            CertificateFault::Issuer,
            "it is an authority's own certificate, or signed by itself, and is not trusted here".to_owned(),
        ),
        other if other.to_string().contains("UnsupportedCertVersion") => {
            (CertificateFault::Other, "it has an old form (X.509 version 1), which is not supported".to_owned())
        }
        CertificateError::NotValidForName => (CertificateFault::Name, "it is for another server".to_owned()),
        CertificateError::Expired | CertificateError::NotValidYet => (CertificateFault::Time, why.to_string()),
        other => (CertificateFault::Other, other.to_string()),
    }
}

/// Returns the kind of any other failure of the handshake and a sentence about it.
pub(super) fn tls_fault(why: &rustls::Error) -> (TlsFault, String) {
    match why {
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            (TlsFault::WantsCertificate, "the server wants a client certificate".to_owned())
        }
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            (TlsFault::NotTls, "what answers does not speak TLS; is it http:// at this port?".to_owned())
        }
        rustls::Error::AlertReceived(AlertDescription::ProtocolVersion)
        | rustls::Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::SupportedVersionsExtensionRequired,
        ) => (TlsFault::Version, "the server speaks no TLS newer than 1.1, and 1.2 is needed".to_owned()),
        rustls::Error::AlertReceived(AlertDescription::UnrecognisedName) => {
            (TlsFault::Name, "the server does not know the name in the URL".to_owned())
        }
        other => (TlsFault::Other, other.to_string()),
    }
}

fn format_day(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    let time = jiff::Timestamp::from_second(seconds);
    time.map_or_else(|_| format!("second {seconds}"), |time| time.strftime("%Y-%m-%d").to_string())
}

fn describe_clock(time: UnixTime) -> String {
    format!("this machine's clock says {}", format_day(time))
}

fn format_name(name: &ServerName<'_>) -> String {
    name.to_str().into_owned()
}

/// Formats the names of a certificate, which the library lists as `DnsName("a.example")`.
fn format_names(presented: &[String]) -> String {
    let plain = |text: &String| text.split('"').nth(1).map_or_else(|| text.clone(), str::to_owned);
    if presented.is_empty() {
        "no server".to_owned()
    } else {
        presented.iter().map(plain).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }

    #[test]
    fn each_fault_has_its_kind_and_description() {
        let expected = ServerName::try_from("a.example").expect("a name");
        let cases = [
            (
                CertificateError::ExpiredContext { time: at(1_796_000_000), not_after: at(1_700_000_000) },
                CertificateFault::Time,
                "it has expired, on 2023-11-14; this machine's clock says 2026-11-30",
            ),
            (
                CertificateError::NotValidYetContext { time: at(86_400), not_before: at(1_700_000_000) },
                CertificateFault::Clock,
                "it is valid from 2023-11-14 on, and this machine's clock says 1970-01-02",
            ),
            (
                CertificateError::NotValidForNameContext { expected, presented: vec!["DnsName(\"b.example\")".into()] },
                CertificateFault::Name,
                "it is for b.example, not for a.example",
            ),
            (
                CertificateError::UnknownIssuer,
                CertificateFault::Issuer,
                "it was issued by an authority that is not trusted here",
            ),
        ];
        for (why, fault, words) in cases {
            assert_eq!(certificate_fault(&why), (fault, words.to_owned()));
        }
        let plain = rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType);
        assert_eq!(tls_fault(&plain).0, TlsFault::NotTls);
        let old = rustls::Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13);
        assert_eq!(tls_fault(&old).0, TlsFault::Version);
    }
}
