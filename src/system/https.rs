//! What every client of HTTP shares: whom it trusts, the one TLS stack, and how its errors are said.

use std::sync::Arc;

use reqwest::Url;
use rustls::RootCertStore;

/// Whether the address is of this machine: then no proxy is asked.
pub fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whom this machine trusts; `SSL_CERT_FILE` is honoured.
pub fn authorities() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        let why = found.errors.first().map(|error| format!(": {error}")).unwrap_or_default();
        return Err(format!(
            "this machine has no certificate authorities that it trusts (package ca-certificates, or SSL_CERT_FILE){why}"
        ));
    }
    Ok(roots)
}

/// The one TLS stack: rustls with ring.
pub fn tls(roots: RootCertStore) -> Result<rustls::ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("set up TLS: {error}"))?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// The causes of an error in one line. reqwest's own words come first and say the URL, which is known; they are left out
/// when there is a cause below.
pub fn causes(error: &reqwest::Error) -> String {
    let mut texts = Vec::new();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let text = inner.to_string();
        if texts.last().is_none_or(|last: &String| !last.contains(&text)) {
            texts.push(text);
        }
        cause = inner.source();
    }
    if texts.is_empty() { error.to_string() } else { texts.join(": ") }
}
