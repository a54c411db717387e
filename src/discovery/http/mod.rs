//! `http_sd`: a URL that answers target groups as JSON. Its settings in, one answer out; how long,
//! how large and how often redirected it may be has limits.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, spawn_blocking};
use tokio_rustls::TlsConnector;

use super::{Answer, Labels, check_count, group_labels, one_line};
use crate::config::discovery::{HttpSd, Secret, TargetGroup, TlsTrust};

/// Asks once.
pub(super) async fn ask(settings: &HttpSd) -> Answer {
    let result = tokio::time::timeout(settings.timeout, targets(settings)).await;
    let result = result.unwrap_or_else(|_| Err(format!("no answer in {:?}", settings.timeout)));
    let wait = settings.refresh_interval;
    match result {
        Ok(targets) => Answer { targets: Some(targets), error: None, wait },
        Err(error) => Answer { targets: None, error: Some(one_line(&error)), wait },
    }
}

async fn targets(settings: &HttpSd) -> Result<Vec<Labels>, String> {
    let mut uri: Uri = settings.url.as_str().parse().map_err(|error| format!("{error}"))?;
    let mut headers = Some(&settings.headers);
    for _ in 0..=REDIRECTS_MAX {
        let (response, _connection) = request(settings, &uri, headers).await?;
        let status = response.status();
        if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
            let next = location(&response, &uri)?;
            // A password is for whom it was written.
            if next.authority() != uri.authority() || next.scheme() != uri.scheme() {
                headers = None;
            }
            uri = next;
            continue;
        }
        if status != StatusCode::OK {
            return Err(format!("answered {status}"));
        }
        check_type(response.headers().get(CONTENT_TYPE))?;
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| body_error(&*error))?.to_bytes();
        let url = settings.url.as_str().to_owned();
        // Half a second of work for the largest answers: not on the control plane's one thread.
        let read = spawn_blocking(move || read(&body, &url)).await;
        return read.map_err(|_| "reading the answer failed".to_owned())?;
    }
    Err(format!("redirected more than {REDIRECTS_MAX} times"))
}

fn read(body: &[u8], url: &str) -> Result<Vec<Labels>, String> {
    let groups: Vec<TargetGroup> =
        serde_json::from_slice(body).map_err(|error| error.to_string())?;
    check_count(&groups)?;
    Ok(group_labels(&groups, &[("__meta_url", url)]))
}

/// As Prometheus: anything but JSON is a login page or a mistake.
fn check_type(kind: Option<&HeaderValue>) -> Result<(), String> {
    let text = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(format!("answered Content-Type {text:?}, not application/json"))
}

fn body_error(error: &(dyn std::error::Error + 'static)) -> String {
    if error.is::<http_body_util::LengthLimitError>() {
        return format!("the answer is larger than {ANSWER_BYTES_MAX} bytes");
    }
    format!("the answer ended early: {error}")
}

fn location(response: &Response<Incoming>, from: &Uri) -> Result<Uri, String> {
    let text = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let text = text.ok_or("redirected to nowhere")?;
    let bad = || format!("redirected to {text:?}");
    let to: Uri = text.parse().map_err(|_| bad())?;
    let mut parts = to.into_parts();
    if parts.authority.is_none() {
        if !text.starts_with('/') {
            return Err(bad());
        }
        parts.scheme = from.scheme().cloned();
        parts.authority = from.authority().cloned();
    }
    let to = Uri::from_parts(parts).map_err(|_| bad())?;
    match (from.scheme_str(), to.scheme_str()) {
        (_, Some("https")) | (Some("http"), Some("http")) => Ok(to),
        (_, Some("http")) => Err(format!("{}, from https to http", bad())),
        _ => Err(bad()),
    }
}

/// Ends the connection with the answer.
struct Connection(AbortHandle);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn request(
    settings: &HttpSd,
    uri: &Uri,
    headers: Option<&BTreeMap<String, Secret>>,
) -> Result<(Response<Incoming>, Connection), String> {
    let host = uri.host().ok_or("a URL without a host")?;
    // The brackets of IPv6 are the URL's.
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let https = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
    let stream = TcpStream::connect((name, port))
        .await
        .map_err(|error| format!("cannot connect to {host}:{port}: {error}"))?;
    let request = question(settings, uri, headers)?;
    if !https {
        return exchange(stream, request).await;
    }
    let trust = settings.tls_config.clone();
    let config = spawn_blocking(move || client_config(&trust)).await;
    let config = config.map_err(|_| "reading the authorities failed".to_owned())??;
    let server = ServerName::try_from(name.to_owned()).map_err(|error| error.to_string())?;
    let stream = TlsConnector::from(Arc::new(config)).connect(server, stream).await;
    exchange(stream.map_err(|error| format!("TLS with {host}: {error}"))?, request).await
}

fn question(
    settings: &HttpSd,
    uri: &Uri,
    headers: Option<&BTreeMap<String, Secret>>,
) -> Result<Request<Empty<Bytes>>, String> {
    let path = uri.path_and_query().map_or("/", |it| it.as_str());
    let host = uri.authority().map_or("", |it| it.as_str());
    let seconds = settings.refresh_interval.as_secs().to_string();
    let mut request = Request::get(path)
        .header(HOST, host)
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, concat!("rttscope/", env!("CARGO_PKG_VERSION")))
        .header("x-prometheus-refresh-interval-seconds", seconds)
        .body(Empty::new())
        .map_err(|error| error.to_string())?;
    for (name, Secret(value)) in headers.into_iter().flatten() {
        let bad = || format!("header {name} cannot be sent");
        let key: HeaderName = name.parse().map_err(|_| bad())?;
        let mut value: HeaderValue = value.parse().map_err(|_| bad())?;
        value.set_sensitive(true);
        request.headers_mut().insert(key, value);
    }
    Ok(request)
}

async fn exchange<S>(
    stream: S,
    request: Request<Empty<Bytes>>,
) -> Result<(Response<Incoming>, Connection), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_BYTES_MAX);
    let (mut sender, connection) =
        builder.handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let task = tokio::spawn(async {
        // Its error is the request's or the body's too, and told there.
        drop(connection.await);
    });
    let connection = Connection(task.abort_handle());
    let response = sender.send_request(request).await;
    Ok((response.map_err(|error| format!("no good answer: {error}"))?, connection))
}

fn client_config(trust: &TlsTrust) -> Result<ClientConfig, String> {
    if !graviola::util::is_cpu_supported() {
        return Err("this processor lacks the instructions that our TLS needs".to_owned());
    }
    let certificates = match &trust.ca_file {
        Some(path) => {
            let why = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
            let text = fs::read(path).map_err(|error| why(&error))?;
            let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
            read.map_err(|_| why(&"no PEM"))?
        }
        None => rustls_native_certs::load_native_certs().certs,
    };
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates);
    if added == 0 {
        return Err("no authority is trusted; write tls_config: {ca_file: …}".to_owned());
    }
    let builder =
        ClientConfig::builder_with_provider(Arc::new(rustls_graviola::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Redirects that are followed, fewer than Go's ten.
const REDIRECTS_MAX: usize = 5;

/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Bytes of an answer's headers.
const HEAD_BYTES_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests;
