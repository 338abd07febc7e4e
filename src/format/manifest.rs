//! The manifest: written last, it makes a backup exist (SPEC.md, section 5).
//!
//! The object is text: a public head (format, backup, key fingerprint, the volumes with size and SHA-256, so that
//! what is stored can be checked without the key), the sealed body, and a SHA-256 of all that precedes it.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::block;
use super::cluster::Cluster;
use super::database::DatabaseProperties;
use super::keyring::Keyring;
use super::tenant::Tenant;
use crate::model::{BackupId, BackupKind, ClusterName, Codec, Digest, Fault, Kind};

const FIRST_LINE: &str = "pgkeep manifest ";
/// A body that unpacks to more than this was not made by pgkeep.
const BODY_LIMIT: usize = 4 << 30;

/// Everything that is known of a backup, as sealed in its manifest.
///
/// Fields that a later version adds are ignored by this one; `format` changes when that would be wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the format.
    pub format: u16,
    /// The backup's identifier.
    pub id: BackupId,
    /// What it holds.
    pub kind: BackupKind,
    /// The cluster's name.
    pub cluster: ClusterName,
    /// PostgreSQL's system identifier.
    pub system_identifier: u64,
    /// When the run began, RFC 3339.
    pub started_at: String,
    /// The instant whose data this is (the snapshot), RFC 3339.
    pub consistent_at: String,
    /// When the last volume was stored, RFC 3339.
    pub finished_at: String,
    /// Version of pgkeep.
    pub pgkeep_version: String,
    /// The server's version, as `server_version_num` has it: 150018.
    pub postgres_version_num: u32,
    /// Version of the program that read the data: `pg_dump`'s.
    pub tool_version: String,
    /// Compression of the frames.
    pub codec: Codec,
    /// The key of the frames: 32 bytes, base64.
    pub key: SealedKey,
    /// The backups that extents point into; the first is this one.
    pub backups: Vec<BackupId>,
    /// The volumes of this backup.
    pub volumes: Vec<Volume>,
    /// What was backed up: files of the dump.
    pub entries: Vec<Entry>,
    /// Plain bytes of all entries.
    pub original_size: u64,
    /// Bytes of all frames after compression, before sealing.
    pub compressed_size: u64,
    /// Bytes of all volumes as stored.
    pub stored_size: u64,
    /// The database, in backups of that kind.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub database: Option<Database>,
    /// The tenant, in backups of that kind.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tenant: Option<Tenant>,
    /// The data directory and its place in the stream of WAL, in backups of a cluster.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub physical: Option<Cluster>,
}

/// What the manifest of a database backup knows beyond its files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Database {
    /// What belongs to the database and stands in no dump: owner, encoding, locale, settings, privileges.
    pub properties: DatabaseProperties,
    /// Constraints that were not validated and indexes that were not valid when the backup was made: after a
    /// restore there may be these and no others.
    #[serde(default)]
    pub not_valid: Vec<String>,
}

/// One volume as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// The object's name within the backup: `data.00000`.
    pub name: String,
    /// Bytes as stored.
    pub size: u64,
    /// SHA-256 of the bytes as stored.
    pub sha256: Digest,
    /// Stored length of each frame without its header, the empty last one included.
    pub frames: Vec<u32>,
}

/// One file or stream that was backed up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its path within the backup, `/` between parts.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits for files.
    pub mode: u32,
    /// Plain bytes.
    pub size: u64,
    /// SHA-256 of the plain bytes.
    pub sha256: Digest,
    /// The table whose rows these are. Boxed: most entries have none (large objects).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub table: Option<Box<Table>>,
    /// Where the bytes lie, in their order.
    pub extents: Vec<Extent>,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// A regular file.
    File,
}

/// A table and its rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// The schema's name, as the catalogs have it (not quoted); bytes that are not UTF-8 shown as `\xe9`.
    pub schema: String,
    /// The table's name, likewise.
    pub name: String,
    /// Both names as they are, where one of them is not UTF-8 (databases of encoding `SQL_ASCII`).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub raw: Option<RawName>,
    /// Rows in the stored bytes.
    pub rows: u64,
    /// It belongs to an extension, which on restore may bring rows of its own.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub of_extension: bool,
}

/// A table's name in bytes that are not UTF-8; hexadecimal in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawName {
    /// The schema's name.
    #[serde(with = "hex")]
    pub schema: Vec<u8>,
    /// The table's name.
    #[serde(with = "hex")]
    pub name: Vec<u8>,
}

/// A run of plain bytes inside one frame: (backup, volume, frame, offset, length), an array in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u32, u32, u32, u32, u32)", into = "(u32, u32, u32, u32, u32)")]
pub struct Extent {
    /// Index into the manifest's `backups`.
    pub backup: u32,
    /// Number of the volume.
    pub volume: u32,
    /// Number of the frame within the volume.
    pub frame: u32,
    /// Offset within the frame's plain bytes.
    pub offset: u32,
    /// How many bytes.
    pub length: u32,
}

impl From<(u32, u32, u32, u32, u32)> for Extent {
    fn from((backup, volume, frame, offset, length): (u32, u32, u32, u32, u32)) -> Self {
        Self { backup, volume, frame, offset, length }
    }
}

impl From<Extent> for (u32, u32, u32, u32, u32) {
    fn from(extent: Extent) -> Self {
        (extent.backup, extent.volume, extent.frame, extent.offset, extent.length)
    }
}

/// A backup's own key, shown as `[redacted]`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SealedKey(Zeroizing<[u8; 32]>);

impl SealedKey {
    /// Takes the bytes of a key.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The key itself.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for SealedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

impl TryFrom<String> for SealedKey {
    type Error = Fault;

    fn try_from(text: String) -> Result<Self, Fault> {
        let bytes =
            STANDARD.decode(Zeroizing::new(text).as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self::new).ok_or_else(|| Fault::new(Kind::Damaged, "the backup's own key is malformed"))
    }
}

impl From<SealedKey> for String {
    fn from(key: SealedKey) -> Self {
        STANDARD.encode(*key.0)
    }
}

/// The public part of a manifest: what can be known without the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestHead {
    /// The backup's identifier.
    pub id: BackupId,
    /// Fingerprint of the Fernet key that seals the body.
    pub fingerprint: String,
    /// Name, size and SHA-256 of every volume.
    pub volumes: Vec<(String, u64, Digest)>,
}

impl Manifest {
    /// The database that was backed up, or of which a tenant was.
    pub fn database_name(&self) -> Option<String> {
        let own = self.database.as_ref().map(|database| database.properties.name.clone());
        own.or_else(|| self.tenant.as_ref().map(|tenant| tenant.database.clone()))
    }

    /// Rows of all tables.
    pub fn rows(&self) -> u64 {
        self.tables().map(|table| table.rows).sum()
    }

    /// The tables of which there are rows, in the order of the entries.
    pub fn tables(&self) -> impl Iterator<Item = &Table> {
        self.entries.iter().filter_map(|entry| entry.table.as_deref())
    }

    /// The object's bytes: head, sealed body, digest.
    pub fn seal(&self, keyring: &Keyring, now: u64) -> anyhow::Result<Vec<u8>> {
        // An entry's digest is 32 bytes that nothing makes smaller, and the rest of it some ten.
        let mut body = block::StreamCompressor::with_room(self.entries.len() * 48 + 64 * 1024);
        serde_json::to_writer(&mut body, self)?;
        let token = keyring.seal(&body.finish()?, now)?;
        let mut text = String::with_capacity(token.len() + 4096);
        write!(text, "{FIRST_LINE}{}\nbackup {}\nkey {}\n", self.format, self.id, keyring.fingerprint())?;
        for volume in &self.volumes {
            writeln!(text, "volume {} {} {}", volume.name, volume.size, volume.sha256)?;
        }
        writeln!(text, "sealed {token}")?;
        drop(token);
        let sum = sha256(text.as_bytes());
        writeln!(text, "sha256 {sum}")?;
        Ok(text.into_bytes())
    }

    /// The same object under the first key of the ring: the sealed body is what it was to the byte, also what a later
    /// version has added to it and to the head.
    pub fn reseal(bytes: &[u8], id: &BackupId, keyring: &Keyring, now: u64) -> Result<Vec<u8>, Fault> {
        let (head, token) = ManifestHead::split(bytes, id)?;
        let token = keyring.seal(&keyring.open(token, &head.fingerprint)?, now)?;
        // `split` has looked: it is text, and its last line is the sum.
        let text = String::from_utf8_lossy(bytes);
        let mut sealed = String::with_capacity(bytes.len());
        for line in text.lines().take_while(|line| !line.starts_with("sha256 ")) {
            match line.split_once(' ') {
                Some(("key", _)) => sealed.extend(["key ", keyring.fingerprint()]),
                Some(("sealed", _)) => sealed.extend(["sealed ", &token]),
                _ => sealed.push_str(line),
            }
            sealed.push('\n');
        }
        let sum = sha256(sealed.as_bytes());
        sealed.extend(["sha256 ", &sum.to_string(), "\n"]);
        Ok(sealed.into_bytes())
    }

    /// Opens what [`Manifest::seal`] wrote. `id` is the backup that the caller asked for.
    pub fn open(bytes: &[u8], id: &BackupId, keyring: &Keyring) -> Result<Self, Fault> {
        let damaged = |what: &str| Fault::new(Kind::Damaged, format!("manifest of {id}: {what}"));
        let (head, token) = ManifestHead::split(bytes, id)?;
        let body = keyring
            .open(token, &head.fingerprint)
            .map_err(|fault| Fault { message: format!("manifest of {id}: {}", fault.message), ..fault })?;
        // The version first, alone: a newer manifest need not have the fields of this one.
        let version: FormatOnly = from_body(&body).map_err(|error| damaged(&error))?;
        refuse_newer(version.format, id)?;
        let manifest: Self = from_body(&body).map_err(|error| damaged(&error))?;
        let public = manifest.volumes.iter().map(|volume| (volume.name.clone(), volume.size, volume.sha256));
        if manifest.id != head.id || !public.eq(head.volumes.iter().cloned()) {
            return Err(damaged("the public head and the sealed body do not agree"));
        }
        Ok(manifest)
    }
}

#[derive(Deserialize)]
struct FormatOnly {
    format: u16,
}

impl ManifestHead {
    /// Reads the public part and checks the digest over the whole.
    pub fn read(bytes: &[u8], id: &BackupId) -> Result<Self, Fault> {
        Self::split(bytes, id).map(|(head, _)| head)
    }

    fn split<'a>(bytes: &'a [u8], id: &BackupId) -> Result<(Self, &'a str), Fault> {
        let damaged = |what: &str| Fault::new(Kind::Damaged, format!("manifest of {id}: {what}"));
        let text = std::str::from_utf8(bytes).map_err(|_| damaged("not text"))?;
        let version = text
            .strip_prefix(FIRST_LINE)
            .and_then(|rest| rest.split('\n').next())
            .and_then(|version| version.parse().ok().filter(|version| *version > 0))
            .ok_or_else(|| damaged("the first line is not that of a manifest"))?;
        // Before anything else: a newer version may have changed all that follows.
        refuse_newer(version, id)?;
        let cut = || damaged("cut short");
        let last = text.strip_suffix('\n').ok_or_else(cut)?.rfind('\n').ok_or_else(cut)? + 1;
        let sum = text[last..].trim_end().strip_prefix("sha256 ").ok_or_else(cut)?;
        if sum != sha256(&bytes[..last]).to_string() {
            return Err(damaged("its SHA-256 is another: bytes were changed"));
        }
        let (mut owner, mut fingerprint, mut token, mut volumes) = (None, None, None, Vec::new());
        for line in text[..last].lines().skip(1) {
            match line.split_once(' ') {
                Some(("backup", value)) => owner = value.parse::<BackupId>().ok(),
                Some(("key", value)) => fingerprint = Some(value.to_owned()),
                Some(("sealed", value)) => token = Some(value),
                Some(("volume", value)) => {
                    volumes.push(
                        parse_volume(value).ok_or_else(|| damaged("a line about a volume is malformed"))?,
                    );
                }
                // Lines that a later version adds.
                _ => {}
            }
        }
        let (Some(owner), Some(fingerprint), Some(token)) = (owner, fingerprint, token) else {
            return Err(damaged("a line is missing"));
        };
        if owner != *id {
            return Err(damaged(&format!("it is that of another backup, {owner}")));
        }
        Ok((Self { id: owner, fingerprint, volumes }, token))
    }
}

fn parse_volume(text: &str) -> Option<(String, u64, Digest)> {
    let mut fields = text.split(' ');
    let volume = (fields.next()?.to_owned(), fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    fields.next().is_none().then_some(volume)
}

fn refuse_newer(version: u16, id: &BackupId) -> Result<(), Fault> {
    if version <= super::VERSION {
        return Ok(());
    }
    let message = format!(
        "manifest of {id}: made by a newer pgkeep (format {version}; this one reads up to {})",
        super::VERSION
    );
    Err(Fault::new(Kind::NotInitialised, message).hint("Use that version, or a newer one."))
}

fn sha256(bytes: &[u8]) -> Digest {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    Digest::from_bytes(out)
}

/// Reads JSON out of the sealed body without ever having the whole of it in memory.
fn from_body<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_reader(block::StreamDecompressor::new(body, BODY_LIMIT)).map_err(|error| {
        let what = if error.is_io() { "unpack" } else { "read" };
        format!("{what}: {error}")
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const ID: &str = "20261122T020000Z-database-1a2b3c4d";

    fn id() -> BackupId {
        ID.parse().unwrap()
    }

    fn ring() -> Keyring {
        Keyring::parse(["AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="]).unwrap()
    }

    fn manifest() -> Manifest {
        let sha256 = super::sha256(b"");
        let extents = vec![Extent { backup: 0, volume: 0, frame: 0, offset: 7, length: 300 }];
        let (name, kind, mode) = ("3363.dat".to_owned(), EntryKind::File, 0o600);
        let time = "2026-11-22T02:00:00.000Z".to_owned();
        Manifest {
            format: 1,
            id: id(),
            kind: BackupKind::Database,
            cluster: "main".parse().unwrap(),
            system_identifier: u64::MAX,
            started_at: time.clone(),
            consistent_at: time.clone(),
            finished_at: time,
            pgkeep_version: "0.1.0".to_owned(),
            postgres_version_num: 150_018,
            tool_version: "15.18".to_owned(),
            codec: Codec::Zstd(1),
            key: SealedKey::new([9; 32]),
            backups: vec![id()],
            volumes: vec![Volume { name: "data.00000".to_owned(), size: 500, sha256, frames: vec![400, 16] }],
            entries: vec![Entry { name, kind, mode, size: 300, sha256, table: None, extents }],
            original_size: 300,
            compressed_size: 284,
            stored_size: 500,
            database: None,
            tenant: None,
            physical: None,
        }
    }

    /// The object with its digest made anew, as anybody can.
    fn resum(text: &str) -> Vec<u8> {
        let body = &text[..text.rfind("sha256 ").unwrap()];
        format!("{body}sha256 {}\n", super::sha256(body.as_bytes())).into_bytes()
    }

    #[test]
    fn what_is_sealed_opens_and_is_sealed_in_the_form_that_the_specification_shows() {
        let bytes = manifest().seal(&ring(), 1).unwrap();
        assert_eq!(Manifest::open(&bytes, &id(), &ring()).unwrap(), manifest());
        let text = String::from_utf8(bytes).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "pgkeep manifest 1");
        assert_eq!(lines[1], format!("backup {ID}"));
        assert_eq!(lines[2], "key b76caa6f129be2e4");
        assert_eq!(lines[3], format!("volume data.00000 500 {}", super::sha256(b"")));
        assert!(lines[4].starts_with("sealed gAAAA") && lines[5].starts_with("sha256 ") && lines.len() == 6);
    }

    #[test]
    fn an_extent_is_an_array_of_five_numbers() {
        let json = serde_json::to_value(manifest()).unwrap();
        assert_eq!(json["entries"][0]["extents"], serde_json::json!([[0, 0, 0, 7, 300]]));
        assert_eq!(json["key"], "CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=");
    }

    #[test]
    fn a_head_that_was_changed_and_summed_anew_does_not_agree_with_the_sealed_body() {
        let text = String::from_utf8(manifest().seal(&ring(), 1).unwrap()).unwrap();
        let forged = resum(&text.replace("volume data.00000 500 ", "volume data.00000 501 "));
        assert!(ManifestHead::read(&forged, &id()).is_ok(), "without the key it can't be told");
        let fault = Manifest::open(&forged, &id(), &ring()).unwrap_err();
        assert_eq!(fault.kind, Kind::Damaged);
        assert!(
            fault.message.ends_with("the public head and the sealed body do not agree"),
            "{}",
            fault.message
        );
    }

    #[test]
    fn the_manifest_of_another_backup_is_refused_by_its_name() {
        let bytes = manifest().seal(&ring(), 1).unwrap();
        let other: BackupId = "20261122T020000Z-database-00000000".parse().unwrap();
        let fault = Manifest::open(&bytes, &other, &ring()).unwrap_err();
        assert_eq!((fault.kind, fault.message.contains(ID)), (Kind::Damaged, true));
    }

    #[test]
    fn a_newer_version_is_refused_by_name_in_the_head_and_in_the_body_and_there_is_no_version_0() {
        for bytes in [
            resum(&format!("pgkeep manifest 2\nall is new\nsha256 {}\n", "0".repeat(64))),
            Manifest { format: 2, ..manifest() }.seal(&ring(), 1).unwrap(),
        ] {
            let fault = Manifest::open(&bytes, &id(), &ring()).unwrap_err();
            assert_eq!(fault.kind, Kind::NotInitialised);
            assert!(fault.message.contains("made by a newer pgkeep (format 2; this one reads up to 1)"));
        }
        let none = Manifest { format: 0, ..manifest() }.seal(&ring(), 1).unwrap();
        assert_eq!(Manifest::open(&none, &id(), &ring()).unwrap_err().kind, Kind::Damaged);
    }

    proptest! {
        #[test]
        fn any_bytes_at_all_are_no_manifest_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(ManifestHead::read(&bytes, &id()).is_err());
            prop_assert!(Manifest::open(&bytes, &id(), &ring()).is_err());
            let begun = [b"pgkeep manifest 1\n".as_slice(), &bytes].concat();
            prop_assert!(ManifestHead::read(&begun, &id()).is_err());
        }

        #[test]
        fn any_text_with_the_right_digest_opens_to_nothing(text in "(backup|key|volume|sealed|sha256|x)?[ \\PC\n]{0,80}") {
            let bytes = resum(&format!("pgkeep manifest 1\n{text}\nsha256 \n"));
            // Whether there is a head or not: no panic, and no manifest without the key.
            let _ = ManifestHead::read(&bytes, &id());
            prop_assert!(Manifest::open(&bytes, &id(), &ring()).is_err());
        }

        #[test]
        fn a_changed_byte_anywhere_is_found(at: proptest::sample::Index, mask in 1_u8..) {
            let mut bytes = manifest().seal(&ring(), 1).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= mask;
            prop_assert!(Manifest::open(&bytes, &id(), &ring()).is_err(), "byte {}", at);
        }

        #[test]
        fn a_change_that_was_summed_anew_is_found_where_it_matters(at: proptest::sample::Index, letter in "[A-Za-z0-9_=-]") {
            let text = String::from_utf8(manifest().seal(&ring(), 1).unwrap()).unwrap();
            let token = text.find("sealed ").unwrap() + "sealed ".len();
            let at = token + at.index(text[token..].find('\n').unwrap());
            prop_assume!(text[at..=at] != letter);
            let mut changed = text.clone();
            changed.replace_range(at..=at, &letter);
            prop_assert!(Manifest::open(&resum(&changed), &id(), &ring()).is_err(), "byte {}", at);
        }
    }
}
