//! Certificates of a test's own authority: names in, PEM and DER out. Keys and signatures are
//! graviola's, so that no C compiler is needed.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use graviola::hashing::Sha256;
use graviola::signing::ecdsa::{P256, SigningKey};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyUsagePurpose, PublicKeyData,
    SerialNumber, SignatureAlgorithm,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// Issues certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, Key>,
    /// Its own certificate.
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) pem: String,
}

/// A certificate and its key.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) certificate_pem: String,
    pub(crate) key_pem: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let key = Key::generate();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.serial_number = Some(SerialNumber::from(key.serial()));
        let own = params.self_signed(&key).unwrap();
        let (certificate, pem) = (own.der().clone(), own.pem());
        Self { issuer: Issuer::new(params, key), certificate, pem }
    }

    /// A certificate for these DNS names and addresses.
    pub(crate) fn issue(&self, names: &[&str]) -> Identity {
        let key = Key::generate();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.serial_number = Some(SerialNumber::from(key.serial()));
        let issued = params.signed_by(&key, &self.issuer).unwrap();
        let mut buffer = [0; 256];
        let pkcs8 = key.signing.to_pkcs8_der(&mut buffer).unwrap().to_vec();
        Identity {
            certificate: issued.der().clone(),
            certificate_pem: issued.pem(),
            key_pem: format!(
                "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
                BASE64_STANDARD.encode(&pkcs8)
            ),
            key: PrivatePkcs8KeyDer::from(pkcs8).into(),
        }
    }
}

struct Key {
    signing: SigningKey<P256>,
    /// The public key as X9.62 writes it, uncompressed.
    point: Vec<u8>,
}

impl Key {
    fn generate() -> Self {
        let signing = SigningKey::generate().unwrap();
        let mut buffer = [0; 256];
        let public = signing.to_spki_der(&mut buffer).unwrap();
        // RFC 5480: the point is the end of the structure; one byte of form, two of 32.
        let point = public[public.len() - 65..].to_vec();
        Self { signing, point }
    }

    /// Distinct for distinct keys.
    fn serial(&self) -> Vec<u8> {
        self.point[1..9].iter().map(|byte| byte & 0x7f | 1).collect()
    }
}

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let mut buffer = [0; 128];
        let signature = self.signing.sign_asn1::<Sha256>(&[message], &mut buffer);
        signature.map(<[u8]>::to_vec).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}
