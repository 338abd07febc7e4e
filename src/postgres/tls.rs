//! Encrypted connections: how the server's certificate is checked.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, DigitallySignedStruct, InconsistentKeys, RootCertStore, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::endpoint::{Authorities, TlsChoice};
use crate::model::{Fault, FaultContext, Kind, SslMode};

/// Makes what `tokio_postgres` needs for an encrypted connection; reads the files that the choice names.
pub(super) fn connector(choice: &TlsChoice) -> anyhow::Result<MakeRustlsConnect> {
    let trust = match &choice.authorities {
        Authorities::Unchecked => None,
        Authorities::System => Some(system_authorities()?),
        Authorities::File(path) => Some(Trust::new(certificates(path, "PGSSLROOTCERT")?)),
    };
    let provider = Arc::new(ring::default_provider());
    let checks_name = choice.mode == SslMode::VerifyFull;
    let verifier = Verifier { provider: Arc::clone(&provider), trust, checks_name };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let config = match &choice.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let shown = identity(certificate, key, &provider)?;
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(shown)))
        }
    };
    Ok(MakeRustlsConnect::new(config))
}

/// Our own certificate and its key. rustls would refuse to show a certificate of X.509 version 1, which is what
/// PostgreSQL's manual tells to make; whether the server takes it is for the server to say.
fn identity(certificate: &Path, key: &Path, provider: &CryptoProvider) -> anyhow::Result<CertifiedKey> {
    let chain = certificates(certificate, "PGSSLCERT")?;
    let file = PemFile { path: key, variable: "PGSSLKEY", holds: "key", secret: true };
    let secret = file.read::<PrivateKeyDer<'static>>()?.swap_remove(0);
    let loaded = provider.key_provider.load_private_key(secret).or_fault(|| file.fault())?;
    let certified = CertifiedKey::new(chain, loaded);
    if let Err(error @ rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) =
        certified.keys_match()
    {
        let (certificate, key) = (certificate.display(), key.display());
        return Err(anyhow::Error::new(error).context(
            Fault::new(Kind::Settings, format!("the certificate {certificate} is not for the key {key}"))
                .hint("Set PGSSLCERT and PGSSLKEY to files that belong together."),
        ));
    }
    Ok(certified)
}

fn certificates(path: &Path, variable: &'static str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    PemFile { path, variable, holds: "certificate", secret: false }.read()
}

/// A PEM file that a setting names.
#[derive(Debug, Clone, Copy)]
struct PemFile<'a> {
    path: &'a Path,
    variable: &'static str,
    /// What must be in it, in the singular.
    holds: &'static str,
    secret: bool,
}

impl PemFile<'_> {
    /// All of its kind that the file holds, at least one.
    fn read<T: PemObject>(self) -> anyhow::Result<Vec<T>> {
        let read: Result<Vec<T>, pem::Error> = T::pem_file_iter(self.path).and_then(Iterator::collect);
        let read = read.or_fault(|| self.fault())?;
        if read.is_empty() {
            return Err(anyhow::anyhow!("there is no {} in it", self.holds).context(self.fault()));
        }
        Ok(read)
    }

    fn fault(self) -> Fault {
        let Self { path, variable, holds, secret } = self;
        let passphrase = if secret { ", without a passphrase" } else { "" };
        Fault::new(Kind::Settings, format!("read the {holds} in {} ({variable})", path.display()))
            .hint(format!("It must be a PEM file that this user can read{passphrase}."))
    }
}

fn system_authorities() -> anyhow::Result<Trust> {
    // What cannot be read among many does no harm, as long as some can.
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        return Fault::new(Kind::Settings, "this machine has no certificate authorities that it trusts")
            .hint("Install the package ca-certificates, or set PGSSLROOTCERT to a file with the authority.")
            .err();
    }
    Ok(Trust::new(found.certs))
}

/// Whom we believe.
#[derive(Debug)]
struct Trust {
    roots: RootCertStore,
    /// The same certificates as they are, to be recognised when one of them is the server's own.
    own: Vec<CertificateDer<'static>>,
}

impl Trust {
    fn new(certificates: Vec<CertificateDer<'static>>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates.iter().cloned());
        Self { roots, own: certificates }
    }
}

/// Checks the server's certificate as far as the `sslmode` asks.
///
/// The verifier that comes with rustls always checks the host's name, which `verify-ca` must not, and never
/// accepts a certificate that is its own authority, which is what PostgreSQL's manual tells to make ("Creating
/// Certificates") and what libpq accepts. Here such a certificate is good if it is, byte by byte, one of those
/// in the file; its dates are then not looked at.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    trust: Option<Trust>,
    checks_name: bool,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(trust) = &self.trust {
            let certificate = ParsedCertificate::try_from(end_entity)?;
            if !trust.own.contains(end_entity) {
                verify_server_cert_signed_by_trust_anchor(
                    &certificate,
                    &trust.roots,
                    intermediates,
                    now,
                    self.provider.signature_verification_algorithms.all,
                )?;
            }
            if self.checks_name {
                verify_server_name(&certificate, server_name)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    // The signature of the handshake proves that the server has the certificate's key. That says nothing where the
    // certificate itself is not checked; and rustls could not read all that libpq can (X.509 version 1).
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if self.trust.is_none() {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if self.trust.is_none() {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
