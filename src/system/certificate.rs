//! From when until when a certificate is good: the one field of X.509 that is asked for here.

use std::path::Path;

use chrono::{DateTime, NaiveDateTime, Utc};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// The time within which a certificate is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// When it begins.
    pub from: DateTime<Utc>,
    /// When it ends.
    pub until: DateTime<Utc>,
}

/// That of the first certificate of a PEM file; `None` when there is none that can be read.
pub fn of_file(path: &Path) -> Option<Validity> {
    let certificate = CertificateDer::pem_file_iter(path).ok()?.next()?.ok()?;
    validity(&certificate)
}

/// RFC 5280, 4.1: Certificate is a sequence that begins with `TBSCertificate`, which is a sequence of: version (tagged 0,
/// may be missing), serial number, signature, issuer, validity.
pub fn validity(der: &[u8]) -> Option<Validity> {
    let (_, certificate, _) = element(der)?;
    let (_, mut rest, _) = element(certificate)?;
    let (tag, _, after) = element(rest)?;
    if tag == 0xa0 {
        rest = after;
    }
    for _ in ["serial number", "signature", "issuer"] {
        rest = element(rest)?.2;
    }
    let (_, validity, _) = element(rest)?;
    let (tag, from, after) = element(validity)?;
    let from = time(tag, from)?;
    let (tag, until, _) = element(after)?;
    Some(Validity { from, until: time(tag, until)? })
}

/// `UTCTime` has two digits of the year, which are of 1950 to 2049; `GeneralizedTime` has all of them.
fn time(tag: u8, text: &[u8]) -> Option<DateTime<Utc>> {
    let text = std::str::from_utf8(text).ok()?;
    let text = match tag {
        0x17 => format!("{}{text}", if text.get(..2)? < "50" { "20" } else { "19" }),
        0x18 => text.to_owned(),
        _ => return None,
    };
    Some(NaiveDateTime::parse_from_str(&text, "%Y%m%d%H%M%SZ").ok()?.and_utc())
}

/// The tag of the first element, what is in it, and what comes after it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first & 0x80 != 0 {
        let (digits, after) = rest.split_at_checked(usize::from(first & 0x7f))?;
        if digits.len() > 4 {
            return None;
        }
        length = digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit));
        rest = after;
    }
    let (inside, after) = rest.split_at_checked(length)?;
    Some((tag, inside, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The beginning of a certificate with these two times.
    fn certificate(version: bool, until: &[u8]) -> Vec<u8> {
        let wrap = |tag: u8, inside: &[u8]| [&[tag, inside.len() as u8], inside].concat();
        let times = wrap(0x30, &[wrap(0x17, b"260101000000Z"), until.to_vec()].concat());
        let mut fields = if version { wrap(0xa0, &wrap(2, &[2])) } else { Vec::new() };
        fields.extend([wrap(2, &[7]), wrap(0x30, &[]), wrap(0x30, &[1, 2, 3]), times].concat());
        wrap(0x30, &wrap(0x30, &fields))
    }

    fn at(text: &str) -> Option<DateTime<Utc>> {
        Some(NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").ok()?.and_utc())
    }

    #[test]
    fn the_end_is_found_in_both_forms_of_a_time_and_without_a_version() {
        let wanted = at("2026-01-01 00:00:00").zip(at("2026-12-24 18:30:00"));
        let wanted = wanted.map(|(from, until)| Validity { from, until });
        let short = [&[0x17, 13], &b"261224183000Z"[..]].concat();
        let long = [&[0x18, 15], &b"20261224183000Z"[..]].concat();
        assert_eq!(validity(&certificate(true, &short)), wanted);
        assert_eq!(validity(&certificate(false, &long)), wanted);
        for cut in 0..certificate(true, &short).len() {
            assert_eq!(validity(&certificate(true, &short)[..cut]), None);
        }
    }
}
