//! A GET by TLS: whom to trust, what to show and what to speak in; the response, and what the
//! handshake agreed on, out.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, ConfigBuilder, ProtocolVersion, RootCertStore,
    StreamOwned, SupportedProtocolVersion,
};

use crate::certificates::{Authority, Identity};
use crate::http::{self, Response};

/// A client.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    config: Arc<ClientConfig>,
}

/// What a handshake agreed on.
#[derive(Debug)]
pub(crate) struct Agreed {
    pub(crate) version: ProtocolVersion,
    pub(crate) suite: CipherSuite,
    pub(crate) certificate: CertificateDer<'static>,
}

impl Client {
    /// Trusts the authority and shows nothing.
    pub(crate) fn new(authority: &Authority) -> Self {
        Self::speaking(authority, rustls::ALL_VERSIONS)
    }

    /// The same, in these versions only.
    pub(crate) fn speaking(
        authority: &Authority,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Self {
        let config = builder(authority, versions).with_no_client_auth();
        Self { config: Arc::new(config) }
    }

    /// Trusts the authority and shows a certificate.
    pub(crate) fn showing(authority: &Authority, identity: &Identity) -> Self {
        let chain = vec![identity.certificate.clone()];
        let builder = builder(authority, rustls::ALL_VERSIONS);
        let config = builder.with_client_auth_cert(chain, identity.key.clone_key()).unwrap();
        Self { config: Arc::new(config) }
    }

    /// Fetches `path` with these further header lines.
    pub(crate) fn fetch(
        &self,
        address: SocketAddr,
        path: &str,
        headers: &str,
    ) -> io::Result<(Response, Agreed)> {
        let name = ServerName::try_from("localhost").unwrap();
        let connection = ClientConnection::new(Arc::clone(&self.config), name).unwrap();
        let mut stream = StreamOwned::new(connection, http::connect(address));
        let response = http::exchange(&mut stream, path, headers)?;
        let agreed = Agreed {
            version: stream.conn.protocol_version().unwrap(),
            suite: stream.conn.negotiated_cipher_suite().unwrap().suite(),
            certificate: stream.conn.peer_certificates().unwrap()[0].clone().into_owned(),
        };
        Ok((response, agreed))
    }

    /// The status of a page.
    pub(crate) fn status(&self, address: SocketAddr, path: &str, headers: &str) -> u16 {
        self.fetch(address, path, headers).unwrap().0.status
    }
}

/// No tickets: a test that expects a handshake gets one.
fn builder(
    authority: &Authority,
    versions: &[&'static SupportedProtocolVersion],
) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate.clone()).unwrap();
    ClientConfig::builder_with_provider(Arc::new(rustls_graviola::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
}
