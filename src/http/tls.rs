//! TLS of the HTTP server: the section of the web configuration file and the bytes of its PEM
//! files in, what a handshake needs out.
//!
//! The cryptography is graviola's: Rust and verified assembler in Rust's own syntax, so that a
//! build for any platform needs no C compiler. It needs a processor with AES and vector
//! instructions (x86-64 since 2014, 64-bit Arm with its cryptographic extension); where it is
//! missing the file is refused, and plain HTTP works.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, NamedGroup, RootCertStore,
    ServerConfig, SignatureScheme, SupportedProtocolVersion, version,
};
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::config::web_file::{ClientAuth, TlsSection};

/// The PEM texts that a [`TlsSection`] names.
#[derive(Debug)]
pub(super) struct PemTexts {
    /// Our certificates.
    pub(super) certificate: Vec<u8>,
    /// Our key.
    pub(super) key: Vec<u8>,
    /// Whose client certificates are trusted.
    pub(super) client_ca: Option<Vec<u8>>,
}

/// What handshakes need, or why there can be none, with the key of the file that is at fault.
pub(super) fn server_config(tls: &TlsSection, texts: &PemTexts) -> Result<ServerConfig, String> {
    if !graviola::util::is_cpu_supported() {
        return Err("tls_server_config: this processor lacks the instructions that our TLS needs \
                    (x86-64: AES, AVX2, ADX; Arm: AES, SHA-2); leave it out"
            .to_owned());
    }
    let provider = Arc::new(provider(tls));
    let versions: Vec<&'static SupportedProtocolVersion> =
        [(tls.tls13, &version::TLS13), (tls.tls12, &version::TLS12)]
            .into_iter()
            .filter_map(|(spoken, version)| spoken.then_some(version))
            .collect();
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&texts.certificate).collect();
    let chain = chain.map_err(|error| format!("cert: {error:?}"))?;
    if chain.is_empty() {
        return Err("cert: there is no certificate in it; write PEM".to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(&texts.key)
        .map_err(|_| "key: there is no private key in it; write PEM without a password")?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions)
        .map_err(|error| format!("tls_server_config: {error}"))?;
    let builder = match clients(tls, texts, &provider)? {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
        Error::InconsistentKeys(_) => "key: is not the key of this certificate".to_owned(),
        error => format!("cert and key: {error}"),
    })?;
    config.ignore_client_order = tls.prefer_own_order;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The library's suites and curves, or those of them that the file names, in its order.
fn provider(tls: &TlsSection) -> CryptoProvider {
    let mut provider = rustls_graviola::default_provider();
    if !tls.cipher_suites.is_empty() {
        let (mut newer, older): (Vec<_>, Vec<_>) =
            provider.cipher_suites.iter().copied().partition(|suite| suite.tls13().is_some());
        let named = tls.cipher_suites.iter().filter_map(|name| {
            older.iter().find(|suite| format!("{:?}", suite.suite()) == **name).copied()
        });
        newer.extend(named);
        provider.cipher_suites = newer;
    }
    if !tls.curves.is_empty() {
        let groups = std::mem::take(&mut provider.kx_groups);
        let group = |name: &&str| match *name {
            "CurveP256" => NamedGroup::secp256r1,
            "CurveP384" => NamedGroup::secp384r1,
            _ => NamedGroup::X25519,
        };
        let named = tls.curves.iter().map(group);
        provider.kx_groups = named
            .filter_map(|name| groups.iter().find(|group| group.name() == name).copied())
            .collect();
    }
    provider
}

/// Who looks at the clients' certificates, if anybody does.
fn clients(
    tls: &TlsSection,
    texts: &PemTexts,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, String> {
    let mandatory = match tls.client_auth {
        ClientAuth::NoClientCert => return Ok(None),
        ClientAuth::RequestClientCert | ClientAuth::VerifyClientCertIfGiven => false,
        ClientAuth::RequireAnyClientCert | ClientAuth::RequireAndVerifyClientCert => true,
    };
    let verifies = matches!(
        tls.client_auth,
        ClientAuth::VerifyClientCertIfGiven | ClientAuth::RequireAndVerifyClientCert
    );
    let issuers = match &texts.client_ca {
        Some(text) if verifies => Some(issuers(text, provider)?),
        _ => None,
    };
    Ok(Some(Arc::new(Clients {
        issuers,
        algorithms: provider.signature_verification_algorithms,
        mandatory,
        allowed_sans: tls.client_allowed_sans.clone(),
    })))
}

/// Trust in the certificates of a PEM text.
fn issuers(
    text: &[u8],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(text) {
        let certificate = certificate.map_err(|error| format!("client_ca: {error:?}"))?;
        roots.add(certificate).map_err(|error| format!("client_ca: {error}"))?;
    }
    if roots.is_empty() {
        return Err("client_ca: there is no certificate in it; write PEM".to_owned());
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map(|verifier| verifier as Arc<dyn ClientCertVerifier>)
        .map_err(|error| format!("client_ca: {error}"))
}

/// Looks at clients' certificates as far as the file asks for it. A client always has to show, by
/// a signature, that it has the key of its certificate.
#[derive(Debug)]
struct Clients {
    /// Whom to trust; `None` if any certificate will do.
    issuers: Option<Arc<dyn ClientCertVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
    mandatory: bool,
    allowed_sans: Vec<String>,
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.issuers.as_ref().map_or(&[], |issuers| issuers.root_hint_subjects())
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match &self.issuers {
            Some(issuers) => {
                issuers.verify_client_cert(certificate, intermediates, now)?;
            }
            None => {
                ParsedCertificate::try_from(certificate)?;
            }
        }
        if !self.allowed_sans.is_empty() {
            let names = names(certificate).ok_or(CertificateError::BadEncoding)?;
            if !names.iter().any(|name| self.allowed_sans.contains(name)) {
                return Err(CertificateError::ApplicationVerificationFailure.into());
            }
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The certificate's alternative names as exporter-toolkit writes them: DNS, e-mail, URI, IP.
fn names(certificate: &CertificateDer<'_>) -> Option<Vec<String>> {
    let certificate = x509_cert::Certificate::from_der(certificate).ok()?;
    let extension = certificate.tbs_certificate().get_extension::<SubjectAltName>().ok()?;
    let Some((_, SubjectAltName(names))) = extension else { return Some(Vec::new()) };
    let text = |name: &GeneralName| match name {
        GeneralName::DnsName(name) => Some(name.to_string()),
        GeneralName::Rfc822Name(name) => Some(name.to_string()),
        GeneralName::UniformResourceIdentifier(name) => Some(name.to_string()),
        GeneralName::IpAddress(octets) => {
            let octets = octets.as_bytes();
            let v4 = <[u8; 4]>::try_from(octets).map(|it| std::net::IpAddr::from(it).to_string());
            let v6 = <[u8; 16]>::try_from(octets).map(|it| std::net::IpAddr::from(it).to_string());
            v4.or(v6).ok()
        }
        _ => None,
    };
    Some(names.iter().filter_map(text).collect())
}
