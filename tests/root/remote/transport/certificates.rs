//! A certificate authority for tests and the certificates that it issues, as PEM files.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};

use super::fixture::write;

pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// File of the authority's certificate.
    pub file: PathBuf,
    directory: PathBuf,
}

/// A certificate and its key.
pub struct Issued {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// File with both.
    pub both: PathBuf,
}

impl Authority {
    pub fn new(directory: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().expect("randomness");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a key");
        let directory = directory.join(name);
        let file = write(&directory, "authority.pem", &issuer.pem());
        Self { issuer, file, directory }
    }

    /// Issues a certificate for a server with these names, valid now.
    pub fn server(&self, file: &str, names: &[&str]) -> Issued {
        self.issue(file, names, |_| {})
    }

    /// Issues a certificate that has expired.
    pub fn expired(&self, file: &str, names: &[&str]) -> Issued {
        self.issue(file, names, |params| {
            params.not_before = date_time_ymd(2010, 1, 1);
            params.not_after = date_time_ymd(2011, 1, 1);
        })
    }

    /// Issues a certificate for a client.
    pub fn client(&self, file: &str) -> Issued {
        self.issue(file, &[file], |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth])
    }

    fn issue(&self, file: &str, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        change(&mut params);
        let key = KeyPair::generate().expect("randomness");
        let certificate = params.signed_by(&key, &self.issuer).expect("the authority's key");
        let put = |what: &str, text: &str| write(&self.directory, &format!("{file}.{what}.pem"), text);
        Issued {
            certificate: put("certificate", &certificate.pem()),
            key: put("key", &key.serialize_pem()),
            both: put("both", &format!("{}{}", certificate.pem(), key.serialize_pem())),
        }
    }
}
