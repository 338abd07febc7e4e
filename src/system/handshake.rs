//! Beginning a TLS connection only in order to see the certificate that the service shows.
//!
//! Nothing is believed and nothing is said in it: a certificate that has expired or that nobody vouches for must be seen
//! as well. Whoever sends something checks whom he talks to, elsewhere.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme};

use super::certificate::{Validity, validity};

/// What comes before TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// Nothing: HTTPS and the like.
    Nothing,
    /// STARTTLS (RFC 3207).
    Smtp,
    /// `SSLRequest` (PostgreSQL's manual, "Message Formats").
    Postgres,
}

/// The validity of the certificate that a service shows. Blocks, for some times the patience at most.
pub fn certificate_of(host: &str, port: u16, before: Before, patience: Duration) -> Result<Validity, String> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let said = |error: std::io::Error| error.to_string();
    let mut stream = connect(host, port, patience)?;
    stream.set_read_timeout(Some(patience)).map_err(said)?;
    stream.set_write_timeout(Some(patience)).map_err(said)?;
    match before {
        Before::Nothing => {}
        Before::Smtp => start_tls(&stream)?,
        Before::Postgres => ask_for_tls(&mut stream)?,
    }
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(Looker(provider.signature_verification_algorithms.supported_schemes()));
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("set up TLS: {error}"))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    let mut connection = ClientConnection::new(Arc::new(config), name).map_err(|error| error.to_string())?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream).map_err(said)?;
    }
    let shown = connection.peer_certificates().and_then(<[_]>::first).ok_or("it shows no certificate")?;
    let found = validity(shown).ok_or("its certificate can't be read")?;
    connection.send_close_notify();
    // It has been seen: whether the goodbye arrives does not matter.
    let _ = connection.complete_io(&mut stream);
    Ok(found)
}

fn connect(host: &str, port: u16, patience: Duration) -> Result<TcpStream, String> {
    let addresses = (host, port).to_socket_addrs().map_err(|error| error.to_string())?;
    let mut why = "it has no address".to_owned();
    for address in addresses {
        match TcpStream::connect_timeout(&address, patience) {
            Ok(stream) => return Ok(stream),
            Err(error) => why = error.to_string(),
        }
    }
    Err(why)
}

fn start_tls(stream: &TcpStream) -> Result<(), String> {
    // The server is silent between its answer and our first word of TLS: nothing is read too far.
    let mut lines = BufReader::new(stream);
    expect(&mut lines, "220")?;
    for (command, answer) in [("EHLO localhost\r\n", "250"), ("STARTTLS\r\n", "220")] {
        let mut stream = stream;
        stream.write_all(command.as_bytes()).map_err(|error| error.to_string())?;
        expect(&mut lines, answer)?;
    }
    Ok(())
}

/// Reads an answer of one line or several (RFC 5321, 4.2.1).
fn expect(lines: &mut impl BufRead, code: &str) -> Result<(), String> {
    const LINES: usize = 100;
    for _ in 0..LINES {
        let mut line = String::new();
        lines.take(1000).read_line(&mut line).map_err(|error| error.to_string())?;
        if !line.starts_with(code) {
            return Err(format!("it answers \"{}\"", line.trim()));
        }
        if line.as_bytes().get(3) != Some(&b'-') {
            return Ok(());
        }
    }
    Err("its answer does not end".to_owned())
}

fn ask_for_tls(stream: &mut TcpStream) -> Result<(), String> {
    const REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
    let mut answer = [0];
    stream
        .write_all(&REQUEST)
        .and_then(|()| stream.read_exact(&mut answer))
        .map_err(|error| error.to_string())?;
    if answer == *b"S" { Ok(()) } else { Err("it does not speak TLS".to_owned()) }
}

/// Believes everything.
#[derive(Debug)]
struct Looker(Vec<SignatureScheme>);

impl ServerCertVerifier for Looker {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}
