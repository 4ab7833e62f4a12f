//! The webhook's own certificate authority and serving certificate, kept in a Secret so that every replica and
//! every restart has the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context;
use datastore::Datastore;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Name of the Secret.
pub const SECRET: &str = "ocicat-webhook";

/// What the webhook serves with, as PEM. Never shown: it holds a key.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub ca: String,
    certificate: String,
    key: String,
    /// Names in the certificate, joined by commas.
    names: String,
}

impl Credentials {
    /// Those in the Secret; made anew when there are none, or they are for other names.
    ///
    /// # Errors
    /// When the API server cannot be reached or refuses.
    pub async fn load_or_create(
        datastore: &Datastore,
        namespace: &str,
        names: &[String],
    ) -> anyhow::Result<Self> {
        if let Some(found) = Self::load(datastore, namespace, names).await? {
            return Ok(found);
        }
        let made = Self::create(names)?;
        datastore.write_secret(namespace, SECRET, &made.data()).await.context("keep the credentials")?;
        // Another replica may have been faster or slower: what is kept counts.
        let kept = Self::load(datastore, namespace, names).await?;
        Ok(kept.unwrap_or(made))
    }

    async fn load(datastore: &Datastore, namespace: &str, names: &[String]) -> anyhow::Result<Option<Self>> {
        let Some(data) = datastore.secret_data(namespace, SECRET).await.context("read the credentials")?
        else {
            return Ok(None);
        };
        let text = |key: &str| data.get(key).and_then(|bytes| String::from_utf8(bytes.clone()).ok());
        let (Some(ca), Some(certificate), Some(key), Some(of)) =
            (text("ca.crt"), text("tls.crt"), text("tls.key"), text("names"))
        else {
            return Ok(None);
        };
        let found = Self { ca, certificate, key, names: of };
        // What cannot be read is made anew, too.
        Ok((found.names == names.join(",") && found.server_config().is_ok()).then_some(found))
    }

    /// A new authority, whose key is thrown away, and a certificate for `names` by it.
    ///
    /// # Errors
    /// When a name can stand in no certificate.
    pub fn create(names: &[String]) -> anyhow::Result<Self> {
        let ca_key = KeyPair::generate().context("make the key of the authority")?;
        let mut ca = CertificateParams::new(Vec::new())?;
        ca.distinguished_name = common_name("ocicat-webhook-ca");
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let ca_pem = ca.self_signed(&ca_key)?.pem();
        let mut leaf = CertificateParams::new(names.to_vec()).context("names of the certificate")?;
        leaf.distinguished_name = common_name("ocicat-webhook");
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().context("make the serving key")?;
        let certificate = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).context("sign the certificate")?;
        Ok(Self {
            ca: ca_pem,
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            names: names.join(","),
        })
    }

    fn data(&self) -> BTreeMap<String, Vec<u8>> {
        let all = [
            ("ca.crt", &self.ca),
            ("tls.crt", &self.certificate),
            ("tls.key", &self.key),
            ("names", &self.names),
        ];
        all.into_iter().map(|(key, value)| (key.to_owned(), value.clone().into_bytes())).collect()
    }

    /// TLS as the webhook speaks it.
    ///
    /// # Errors
    /// When certificate or key cannot be read.
    pub fn server_config(&self) -> anyhow::Result<Arc<rustls::ServerConfig>> {
        let certificate = CertificateDer::from_pem_slice(self.certificate.as_bytes())?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)?;
        Ok(Arc::new(config))
    }
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_can_be_served_with() {
        let names = ["127.0.0.1".to_owned(), "webhook.kube-system.svc".to_owned()];

        let made = Credentials::create(&names).unwrap();

        assert!(made.server_config().is_ok());
        assert!(made.ca.contains("BEGIN CERTIFICATE"));
        assert_eq!(made.data()["names"], b"127.0.0.1,webhook.kube-system.svc");
    }
}
