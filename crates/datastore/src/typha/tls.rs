//! Both sides show a certificate of one CA, and each says whom it expects: a common name or a URI. Host names are not
//! looked at, as in Calico: typha is reached by an address that changes.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};

/// Where certificates are, as PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    pub ca: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Whom a side expects; when both are said, one of them is enough.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Common name of the subject.
    pub common_name: Option<String>,
    /// A URI among the subject's alternative names.
    pub uri_san: Option<String>,
}

/// Why there can be no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{path}: {reason}")]
    File { path: String, reason: String },
    #[error("certificates cannot be used: {0}")]
    Unusable(String),
}

impl Identity {
    /// Is nobody in particular expected?
    pub fn is_any(&self) -> bool {
        self.common_name.is_none() && self.uri_san.is_none()
    }
}

/// Octets of the three files.
#[derive(Clone, PartialEq, Eq)]
struct Loaded {
    ca: Vec<u8>,
    certificate: Vec<u8>,
    key: Vec<u8>,
}

struct Parsed {
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Files {
    fn load(&self) -> Result<Loaded, TlsError> {
        let read = |path: &Path| std::fs::read(path).map_err(|error: io::Error| of_file(path, &error));
        Ok(Loaded { ca: read(&self.ca)?, certificate: read(&self.certificate)?, key: read(&self.key)? })
    }

    fn parse(&self, loaded: &Loaded) -> Result<Parsed, TlsError> {
        let certificates = |path: &Path, pem: &[u8]| {
            let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
            match all {
                Ok(found) if !found.is_empty() => Ok(found),
                Ok(_) => Err(of_file(path, &"there is no certificate in it")),
                Err(error) => Err(of_file(path, &error)),
            }
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.ca, &loaded.ca)? {
            roots.add(certificate).map_err(|error| of_file(&self.ca, &error))?;
        }
        let chain = certificates(&self.certificate, &loaded.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&loaded.key).map_err(|error| of_file(&self.key, &error))?;
        Ok(Parsed { roots: Arc::new(roots), chain, key })
    }
}

fn of_file(path: &Path, reason: &dyn std::fmt::Display) -> TlsError {
    TlsError::File { path: path.display().to_string(), reason: reason.to_string() }
}

fn unusable(error: impl std::fmt::Display) -> TlsError {
    TlsError::Unusable(error.to_string())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Settings for one connection of a client; files are read each time, so that new ones count from the next on.
///
/// # Errors
/// When a file cannot be read or used.
pub fn client_config(files: &Files, server: &Identity) -> Result<Arc<ClientConfig>, TlsError> {
    let Parsed { roots, chain, key } = files.parse(&files.load()?)?;
    let provider = provider();
    let verifier = Verifier { roots, server: server.clone(), provider: provider.clone() };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(chain, key)
        .map_err(unusable)?;
    Ok(Arc::new(config))
}

/// TLS of a server, which follows its files.
pub struct ServerTls {
    files: Files,
    loaded: Loaded,
    config: Arc<ServerConfig>,
}

impl ServerTls {
    /// Reads the files.
    ///
    /// # Errors
    /// When one cannot be read or used.
    pub fn load(files: Files) -> Result<Self, TlsError> {
        let loaded = files.load()?;
        let config = server_config(files.parse(&loaded)?)?;
        Ok(Self { files, loaded, config })
    }

    /// For the next connection.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    /// Looks at the files again. Gives back whether something new is in force; what was stays otherwise.
    ///
    /// # Errors
    /// When one cannot be read or used.
    pub fn reload(&mut self) -> Result<bool, TlsError> {
        let loaded = self.files.load()?;
        if loaded == self.loaded {
            return Ok(false);
        }
        self.config = server_config(self.files.parse(&loaded)?)?;
        self.loaded = loaded;
        Ok(true)
    }
}

fn server_config(Parsed { roots, chain, key }: Parsed) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = provider();
    let clients =
        WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build().map_err(unusable)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)
        .map_err(unusable)?;
    // A session that is resumed shows no certificate: everyone shows one, each time.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Is the first of the certificates that a side has shown the one that is expected?
pub fn peer_matches(certificates: Option<&[CertificateDer<'_>]>, expected: &Identity) -> bool {
    expected.is_any() || certificates.and_then(<[_]>::first).is_some_and(|shown| matches(shown, expected))
}

fn matches(certificate: &CertificateDer<'_>, expected: &Identity) -> bool {
    let Ok(parsed) = webpki::EndEntityCert::try_from(certificate) else { return false };
    let has_uri = |wanted: &String| parsed.valid_uri_names().any(|uri| uri == wanted);
    let has_name = |wanted: &String| common_name(parsed.subject()) == Some(wanted.as_bytes());
    expected.uri_san.as_ref().is_some_and(has_uri) || expected.common_name.as_ref().is_some_and(has_name)
}

/// id-at-commonName, 2.5.4.3.
const COMMON_NAME: [u8; 3] = [0x55, 0x04, 0x03];

/// The last common name of a subject (RFC 5280 §4.1.2.6): sets of pairs of an identifier and a text.
fn common_name(mut subject: &[u8]) -> Option<&[u8]> {
    let mut found = None;
    while let Some((mut set, rest)) = element(subject) {
        subject = rest;
        while let Some((pair, rest)) = element(set) {
            set = rest;
            let (identifier, text) = element(pair)?;
            if identifier == COMMON_NAME {
                found = Some(element(text)?.0);
            }
        }
    }
    found
}

/// The content of the first DER element, and what follows it.
fn element(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = der.get(1..)?.split_first()?;
    let (length, rest) = match length {
        0x81 => rest.split_first().map(|(length, rest)| (usize::from(*length), rest))?,
        0x82 => rest.split_first_chunk::<2>().map(|(l, rest)| (usize::from(u16::from_be_bytes(*l)), rest))?,
        0x80.. => return None,
        _ => (usize::from(length), rest),
    };
    rest.split_at_checked(length)
}

/// Verifies that typha's certificate is of our CA and typha's.
#[derive(Debug)]
struct Verifier {
    roots: Arc<RootCertStore>,
    server: Identity,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        if !peer_matches(Some(std::slice::from_ref(end_entity)), &self.server) {
            return Err(rustls::Error::General("this certificate is not typha's".to_owned()));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_name_is_found_in_a_subject() {
        // O=a, CN=typha-server
        let mut subject = vec![0x31, 10, 0x30, 8, 6, 3, 0x55, 4, 10, 12, 1, b'a'];
        let name = b"typha-server";
        let pair = [[6, 3, 0x55, 4, 3, 12, 12].as_slice(), name].concat();
        subject.extend([0x31, 21, 0x30, 19]);
        subject.extend(pair);

        assert_eq!(common_name(&subject), Some(name.as_slice()));
        for end in 0..subject.len() {
            assert_ne!(common_name(&subject[..end]), Some(name.as_slice()));
        }
    }
}
