//! The server's own certificate authority, its serving certificate and one client certificate.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SerialNumber,
};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;

use crate::persist::Disk;

/// Names that the serving certificate has beside those that the caller asks for.
const NAMES: [&str; 7] = [
    "127.0.0.1",
    "::1",
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

/// Credentials of the server and of its administrator; kept in the store, so they survive a restart.
#[derive(Debug, Clone)]
pub(crate) struct Pki {
    pub(crate) ca_pem: String,
    ca_key_pem: String,
    pub(crate) client_pem: String,
    pub(crate) client_key_pem: String,
    pub(crate) token: String,
}

impl Pki {
    /// Loads what an earlier run left in the store, or makes and keeps it. A `token` of the caller wins.
    pub(crate) fn load_or_create(disk: Option<&Disk>, token: Option<String>) -> anyhow::Result<Self> {
        let stored = |name: &str| -> anyhow::Result<Option<String>> {
            let bytes = disk.map(|d| d.meta(name)).transpose()?.flatten();
            Ok(bytes.map(String::from_utf8).transpose()?)
        };
        let mut pki =
            match (stored("ca.crt")?, stored("ca.key")?, stored("client.crt")?, stored("client.key")?) {
                (Some(ca_pem), Some(ca_key_pem), Some(client_pem), Some(client_key_pem)) => {
                    let token = stored("token")?.unwrap_or_else(crate::clock::token);
                    Self { ca_pem, ca_key_pem, client_pem, client_key_pem, token }
                }
                _ => Self::create()?,
            };
        if let Some(token) = token {
            pki.token = token;
        }
        if let Some(disk) = disk {
            for (name, value) in [
                ("ca.crt", &pki.ca_pem),
                ("ca.key", &pki.ca_key_pem),
                ("client.crt", &pki.client_pem),
                ("client.key", &pki.client_key_pem),
                ("token", &pki.token),
            ] {
                disk.set_meta(name, value.as_bytes())?;
            }
        }
        Ok(pki)
    }

    fn create() -> anyhow::Result<Self> {
        let ca_key = KeyPair::generate().context("make the key of the certificate authority")?;
        let ca_pem = ca_params()?.self_signed(&ca_key)?.pem();
        let ca_key_pem = ca_key.serialize_pem();
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "system:masters");
        params.distinguished_name.push(DnType::CommonName, "kubernetes-admin");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(serial());
        let client_key = KeyPair::generate().context("make the key of the client certificate")?;
        let client_pem = params.signed_by(&client_key, &Issuer::new(ca_params()?, ca_key))?.pem();
        let client_key_pem = client_key.serialize_pem();
        Ok(Self { ca_pem, ca_key_pem, client_pem, client_key_pem, token: crate::clock::token() })
    }

    /// TLS settings of a listener: a fresh serving certificate for `names`, client certificates optional.
    pub(crate) fn server_config(&self, names: &[String]) -> anyhow::Result<rustls::ServerConfig> {
        let mut all: Vec<String> = NAMES.iter().map(|n| (*n).to_owned()).collect();
        all.extend(names.iter().filter(|n| n.parse::<IpAddr>().is_ok() || !n.contains(':')).cloned());
        all.dedup();
        let mut params = CertificateParams::new(all).context("names of the serving certificate")?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.serial_number = Some(serial());
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().context("make the serving key")?;
        let issuer =
            Issuer::new(ca_params()?, KeyPair::from_pem(&self.ca_key_pem).context("read the CA's key")?);
        let certificate = params.signed_by(&key, &issuer).context("sign the serving certificate")?;

        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(certificate_der(&self.ca_pem)?)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()
            .context("client certificate verifier")?;
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// The authority's certificate parameters; the same each time, so that a new issuer signs for an old certificate.
fn ca_params() -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "kubernetes-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params.serial_number = Some(serial());
    Ok(params)
}

fn serial() -> SerialNumber {
    let mut bytes = crate::clock::uid().into_bytes();
    bytes.truncate(16);
    SerialNumber::from_slice(&bytes)
}

fn certificate_der(pem: &str) -> anyhow::Result<CertificateDer<'static>> {
    use rustls::pki_types::pem::PemObject;
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|e| anyhow::anyhow!("read the CA's certificate: {e}"))
}
