//! Whom to believe that a server is who it says, and how to say who we are.
//!
//! An initramfs has no certificates of authorities, so they are looked for in this order: the file that was given, the
//! one the environment names, where distributions keep theirs, and the ones built in.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::error::TransportError;
use super::options::TransportOptions;

/// Where distributions keep the authorities: Debian and Arch, Fedora, openSUSE, Alpine.
const SYSTEM_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The TLS part of a client.
pub(super) fn client_config(options: &TransportOptions) -> Result<ClientConfig, TransportError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| TransportError::Tls { what: "the protocol versions".to_owned(), reason: error.to_string() })?
        .with_root_certificates(roots(options)?);
    let mut config = match &options.client_certificate {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let chain = certificates(path)?;
            let key = PrivateKeyDer::from_pem_file(path).map_err(|error| unusable(path, &error))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| unusable(path, &error))?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn roots(options: &TransportOptions) -> Result<RootCertStore, TransportError> {
    let given = options.ca_file.clone().or_else(|| options.setting(&["SSL_CERT_FILE"]).map(PathBuf::from));
    let bundle = given.clone().or_else(|| SYSTEM_BUNDLES.iter().map(PathBuf::from).find(|path| path.exists()));
    let mut roots = RootCertStore::empty();
    if let Some(path) = bundle {
        // One that cannot be parsed does not spoil the others; that is how bundles are treated everywhere.
        let (added, _) = roots.add_parsable_certificates(certificates(&path)?);
        if added > 0 {
            return Ok(roots);
        }
        if given.is_some() {
            return Err(unusable(&path, &"it has no certificate"));
        }
    }
    // Names and keys of the authorities; whole certificates would be three times as large, in every program.
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TransportError> {
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    found.map_err(|error| unusable(path, &error))
}

fn unusable(path: &Path, reason: &dyn std::fmt::Display) -> TransportError {
    TransportError::Tls { what: path.display().to_string(), reason: reason.to_string() }
}
