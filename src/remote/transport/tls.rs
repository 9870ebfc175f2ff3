//! The TLS configuration: trusted authorities and the client's certificate.
//!
//! An initramfs has no certificates of authorities, so they are searched in this order: the file in the options, the
//! file in the environment, the usual files of distributions, and the built-in ones.
//!
//! *Used by* `http`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::error::TransportError;
use super::options::TransportOptions;

/// The files in which distributions keep the authorities: Debian and Arch, Fedora, openSUSE, Alpine.
const SYSTEM_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Returns the TLS configuration of a client, which shows `certificate` to servers that ask for one.
pub(super) fn client_config(
    options: &TransportOptions,
    certificate: Option<&Path>,
) -> Result<ClientConfig, TransportError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| TransportError::Tls { what: "the protocol versions".to_owned(), reason: error.to_string() })?
        .with_root_certificates(load_roots(options)?);
    let mut config = match certificate {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let chain = read_certificates(path)?;
            let key = PrivateKeyDer::from_pem_file(path).map_err(|error| unusable(path, &error))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| unusable(path, &error))?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn load_roots(options: &TransportOptions) -> Result<RootCertStore, TransportError> {
    let given = options.ca_file.clone().or_else(|| options.setting(&["SSL_CERT_FILE"]).map(PathBuf::from));
    let bundle = given.clone().or_else(|| SYSTEM_BUNDLES.iter().map(PathBuf::from).find(|path| path.exists()));
    let mut roots = RootCertStore::empty();
    if let Some(path) = bundle {
        // A certificate that cannot be parsed is ignored, as is usual for bundles.
        let (added, _) = roots.add_parsable_certificates(read_certificates(&path)?);
        if added > 0 {
            return Ok(roots);
        }
        if given.is_some() {
            return Err(unusable(&path, &"it has no certificate"));
        }
    }
    // Only names and keys of the authorities are built in; whole certificates would be three times as large, in every
    // program.
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    Ok(roots)
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TransportError> {
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    found.map_err(|error| unusable(path, &error))
}

fn unusable(path: &Path, reason: &dyn std::fmt::Display) -> TransportError {
    TransportError::Tls { what: path.display().to_string(), reason: reason.to_string() }
}
