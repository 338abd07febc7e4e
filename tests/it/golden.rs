//! The golden backups of `tests/golden/v1`, made once and never again: what any later pgkeep must be able to read.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use pgkeep::format::block::{compress_into, decompress_up_to};
use pgkeep::format::identity::Identity;
use pgkeep::format::keyring::Keyring;
use pgkeep::format::manifest::{Manifest, ManifestHead};
use pgkeep::format::volume::{FRAME_HEADER, FrameHeader, Method, VolumeHeader};
use pgkeep::model::{BackupId, Codec, Fault, Stage, StoreName};
use pgkeep::pipeline::{Fetched, RangeReader, Refusal, Unpack, unpack};
use pgkeep::system::Stop;
use pgkeep::target::directory::DirectoryTarget;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::{Place, cluster, give, project, set_mode, unique};

/// Where they lie.
pub(crate) fn directory() -> PathBuf {
    project().join("tests/golden/v1")
}

/// The key that sealed them.
pub(crate) fn key() -> String {
    fs::read_to_string(directory().join("key.txt")).expect("read the golden key").trim().to_owned()
}

/// What is known of them from elsewhere.
pub(crate) fn expected() -> Value {
    let text = fs::read(directory().join("expected.json")).expect("read what is expected");
    serde_json::from_slice(&text).expect("JSON")
}

/// The identifiers of the golden backups: the first with zstd, the second with gzip.
pub(crate) fn backups() -> [String; 2] {
    let expected = expected();
    [0, 1].map(|index| expected["backups"][index]["id"].as_str().expect("an identifier").to_owned())
}

/// A place whose store is a copy of the golden one; its catalog is not made yet.
pub(crate) fn place() -> Place {
    let place = Place::new();
    place.set("BACKUP_CLUSTER", "golden");
    place.set("BACKUP_ENCRYPTION_KEY", &key());
    copy(&directory().join("store"), &place.store());
    place
}

/// A golden backup's object in the copy.
pub(crate) fn object(place: &Place, backup: &str, name: &str) -> PathBuf {
    place.store().join("golden/backups").join(backup).join(name)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("make a directory");
    set_mode(to, 0o700);
    give(to);
    for entry in fs::read_dir(from).expect("list the golden store") {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).expect("copy a golden object");
            set_mode(&to, 0o600);
            give(&to);
        }
    }
}

/// A manifest taken apart: its head without version, `sealed` and digest; and its body.
pub(crate) struct Opened {
    pub(crate) version: u16,
    pub(crate) head: Vec<String>,
    pub(crate) body: Value,
}

/// Opens a golden manifest with nothing but the keyring and zstd.
pub(crate) fn open(path: &Path) -> Opened {
    open_with(path, &key())
}

/// The same for a manifest that this key sealed.
pub(crate) fn open_with(path: &Path, key: &str) -> Opened {
    let text = fs::read_to_string(path).expect("read a manifest");
    let mut head: Vec<String> = text.lines().map(str::to_owned).collect();
    head.pop().unwrap();
    let token = head.pop().unwrap();
    let version = head.remove(0).strip_prefix("pgkeep manifest ").unwrap().parse().unwrap();
    let keyring = Keyring::parse([key]).unwrap();
    let packed = keyring.open(token.strip_prefix("sealed ").unwrap(), keyring.fingerprint()).unwrap();
    let mut body = Vec::new();
    decompress_up_to(Method::Zstd, &packed, 1 << 20, &mut body).unwrap();
    Opened { version, head, body: serde_json::from_slice(&body).unwrap() }
}

/// Puts a golden manifest together again and writes it, sealed and summed as its owner could.
pub(crate) fn reseal(path: &Path, opened: &Opened) {
    reseal_with(path, opened, &key());
}

/// The same with this key.
pub(crate) fn reseal_with(path: &Path, opened: &Opened, key: &str) {
    let keyring = Keyring::parse([key]).unwrap();
    let mut packed = Vec::new();
    compress_into(Codec::Zstd(3), opened.body.to_string().as_bytes(), &mut packed).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let sealed = keyring.seal(&packed, now).unwrap();
    let text = format!("pgkeep manifest {}\n{}\nsealed {sealed}\n", opened.version, opened.head.join("\n"));
    let sum = hex::encode(Sha256::digest(&text));
    fs::write(path, format!("{text}sha256 {sum}\n")).unwrap();
}

/// Asserts that a database answers the golden queries as the one did that was backed up.
#[track_caller]
pub(crate) fn assert_same_contents(database: &str) {
    for query in expected()["queries"].as_array().expect("queries") {
        let (sql, answer) = (query["sql"].as_str().unwrap(), query["answer"].as_str().unwrap());
        assert_eq!(cluster().psql(database, sql), answer, "{sql}");
    }
}

fn manifest_of(backup: &str) -> (Manifest, PathBuf) {
    let directory = directory().join("store/golden/backups").join(backup);
    let bytes = fs::read(directory.join("manifest")).unwrap();
    let id: BackupId = backup.parse().unwrap();
    (Manifest::open(&bytes, &id, &Keyring::parse([key().as_str()]).unwrap()).unwrap(), directory)
}

#[test]
fn the_golden_backups_are_restored_onto_another_server_with_nothing_but_the_store_and_the_key() {
    let place = place();
    let rebuilt = place.pgkeep(&["--output", "json", "catalog", "rebuild"]).ok().json();
    assert_eq!(rebuilt["added"], json!(backups()));
    for backup in backups() {
        let target = format!("golden_{}", unique());
        place.pgkeep(&["restore", &backup, "--to-database", &target, "--yes"]).ok();
        assert_same_contents(&target);
        let properties = "SELECT shobj_description(oid, 'pg_database'), datcollate, \
            (SELECT setconfig FROM pg_db_role_setting WHERE setdatabase = pg_database.oid) \
            FROM pg_database WHERE datname = current_database()";
        assert_eq!(cluster().psql(&target, properties), "held for ever|C|{work_mem=8MB}");
        cluster().psql("postgres", &format!("DROP DATABASE {target}"));
    }
}

#[test]
fn the_golden_backups_are_good_to_the_last_byte() {
    let place = place();
    place.pgkeep(&["catalog", "rebuild"]).ok();
    let report = place.pgkeep(&["--output", "json", "verify", "--deep"]).ok().json();
    assert_eq!(report["decrypted"], true);
    assert_eq!((&report["backups"], &report["objects"]), (&json!(2), &json!(4)));
    assert_eq!(report["findings"], json!([]));
}

/// A backup's directory, as what reads volumes sees it.
pub(crate) struct Files(pub(crate) PathBuf);

#[async_trait::async_trait]
impl RangeReader for Files {
    async fn read(
        &self,
        volume: &str,
        offset: u64,
        length: u64,
        not: &[StoreName],
    ) -> Result<Fetched, Vec<Refusal>> {
        if not.contains(&StoreName::Local) {
            return Err(Vec::new());
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap()];
        fs::File::open(self.0.join(volume)).unwrap().read_exact_at(&mut bytes, offset).unwrap();
        Ok(Fetched { bytes, from: StoreName::Local })
    }

    fn reject(&self, volume: &str, _: StoreName, why: &Fault) {
        panic!("a golden volume is bad: {volume}: {why:?}");
    }
}

#[test]
fn every_file_of_the_golden_backups_is_unpacked_as_it_was_read() {
    let place = Place::new();
    for backup in expected()["backups"].as_array().unwrap() {
        let (manifest, directory) = manifest_of(backup["id"].as_str().unwrap());
        assert_eq!(manifest.codec.to_string(), backup["codec"].as_str().unwrap());
        let manifest = Arc::new(manifest);
        let output = place.path(backup["id"].as_str().unwrap());
        let target = DirectoryTarget::create(output.clone(), Arc::clone(&manifest)).unwrap();
        let entries = (0..manifest.entries.len()).collect();
        let request = Unpack { manifest, entries, stage: Stage::new(0) };
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(unpack(request, Arc::new(Files(directory)), target, Stop::default())).unwrap();
        assert_files(&output, backup);
    }
}

/// Asserts that a directory holds the files of a golden backup and no others.
#[track_caller]
pub(crate) fn assert_files(directory: &Path, backup: &Value) {
    let mut found: Vec<Value> = fs::read_dir(directory)
        .expect("list the files")
        .map(|entry| {
            let path = entry.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            let name = path.file_name().unwrap().to_str().unwrap();
            json!({"name": name, "size": bytes.len(), "sha256": hex::encode(Sha256::digest(&bytes))})
        })
        .collect();
    found.sort_by_key(|file| file["name"].as_str().unwrap().to_owned());
    assert_eq!(json!(found), backup["files"]);
}

#[test]
fn what_was_written_is_still_written_the_same_to_the_byte() {
    let identity = fs::read(directory().join("store/golden/identity")).unwrap();
    assert_eq!(Identity::from_bytes(&identity).unwrap().to_bytes().unwrap(), identity);
    for backup in backups() {
        let (manifest, directory) = manifest_of(&backup);
        assert_eq!(json!(manifest), open(&directory.join("manifest")).body, "the sealed body");

        let text = fs::read_to_string(directory.join("manifest")).unwrap();
        let head = ManifestHead::read(text.as_bytes(), &manifest.id).unwrap();
        let again = manifest.seal(&Keyring::parse([key().as_str()]).unwrap(), 0).unwrap();
        let again = String::from_utf8(again).unwrap();
        let public = |text: &str| text[..text.find("sealed ").unwrap()].to_owned();
        assert_eq!(public(&again), public(&text), "the public head");
        assert_eq!(ManifestHead::read(again.as_bytes(), &manifest.id).unwrap(), head);

        for (number, volume) in manifest.volumes.iter().enumerate() {
            let bytes = fs::read(directory.join(&volume.name)).unwrap();
            assert_eq!(hex::encode(Sha256::digest(&bytes)), volume.sha256.to_string());
            let (header, mut at) = VolumeHeader::decode(&bytes).unwrap();
            assert_eq!(header.encode().unwrap(), bytes[..at], "the volume's header");
            assert_eq!((header.number as usize, header.owner.as_str()), (number, backup.as_str()));
            assert_eq!(header.method, Method::from(manifest.codec));
            assert!(volume.frames.len() > 3, "two full frames, a shared one, and the last");
            for (frame, stored) in volume.frames.iter().enumerate() {
                let header = FrameHeader::decode(&bytes[at..]).unwrap();
                assert_eq!(header.encode(), bytes[at..at + FRAME_HEADER], "the header of frame {frame}");
                assert_eq!(header.stored, *stored);
                assert_eq!(header.last, frame + 1 == volume.frames.len());
                at += FRAME_HEADER + *stored as usize;
            }
            assert_eq!(at, bytes.len(), "nothing behind the last frame");
        }
    }
}

#[test]
fn a_manifest_of_a_newer_version_is_refused_by_name() {
    let place = place();
    place.pgkeep(&["catalog", "rebuild"]).ok();
    let [first, second] = backups();

    let path = object(&place, &first, "manifest");
    let newer_head = Opened { version: 2, ..open(&path) };
    reseal(&path, &newer_head);
    let path = object(&place, &second, "manifest");
    let mut newer_body = open(&path);
    newer_body.body = json!({"format": 2, "everything": "is new"});
    reseal(&path, &newer_body);

    for backup in [first, second] {
        let run = place.pgkeep(&["restore", &backup, "--to-database", "never", "--yes"]).fails_with(10);
        let refusal =
            format!("manifest of {backup}: made by a newer pgkeep (format 2; this one reads up to 1)");
        assert!(run.stderr.contains(&refusal), "{}", run.stderr);
        assert!(run.stderr.contains("hint: Use that version, or a newer one."), "{}", run.stderr);
    }
    // Taking in what it can is all that a rebuild can do: it says what it could not.
    fs::remove_dir_all(place.state()).unwrap();
    let run = place.pgkeep(&["--output", "json", "catalog", "rebuild"]).fails_with(3);
    let report = run.json();
    assert_eq!(
        (report["added"].as_array().unwrap().len(), report["warnings"].as_array().unwrap().len()),
        (0, 2)
    );
    assert!(report["warnings"][0].as_str().unwrap().contains("made by a newer pgkeep"));
}

/// Extents are stored with the backup that they lie in, so that an incremental backup needs no new format. This version
/// makes none, and must not take the bytes of one backup for those of another.
#[test]
fn an_extent_that_lies_in_another_backup_is_refused_by_name() {
    let place = place();
    let [first, second] = backups();
    let path = object(&place, &first, "manifest");
    let mut opened = open(&path);
    opened.body["backups"].as_array_mut().unwrap().push(json!(second));
    let entry = opened.body["entries"].as_array_mut().unwrap();
    let entry = entry.iter_mut().find(|entry| !entry["extents"][0].is_null()).expect("an entry with content");
    entry["extents"][0][0] = json!(1);
    reseal(&path, &opened);
    place.pgkeep(&["catalog", "rebuild"]).ok();
    for command in
        [vec!["restore", &first, "--to-database", "never", "--yes"], vec!["verify", "--deep", &first]]
    {
        let run = place.pgkeep(&command).fails_with(10);
        let refusal =
            format!("{first} needs the backup {second}, and this version reads no incremental backups");
        assert!(run.stderr.contains(&refusal), "{}", run.stderr);
        assert!(run.stderr.contains("hint: Use the version that made it, or a newer one."), "{}", run.stderr);
    }
    assert_eq!(cluster().databases_like("never"), [""; 0]);
    place.pgkeep(&["verify", "--deep", &second]).ok();
}

#[test]
fn lines_and_fields_that_a_later_version_adds_are_no_harm() {
    let place = place();
    for backup in backups() {
        let path = object(&place, &backup, "manifest");
        let mut opened = open(&path);
        opened.head.insert(0, "signature of whom and what".to_owned());
        opened.head.push("oneword".to_owned());
        let later = json!({"nested": [1, {"deep": null}]});
        let body = &mut opened.body;
        body["later"] = later.clone();
        body["volumes"][0]["later"] = later.clone();
        body["database"]["later"] = later.clone();
        body["database"]["properties"]["later"] = later.clone();
        body["database"]["properties"]["locale"]["later"] = later.clone();
        for entry in body["entries"].as_array_mut().unwrap() {
            entry["later"] = later.clone();
            if entry.get("table").is_some() {
                entry["table"]["later"] = later.clone();
            }
        }
        reseal(&path, &opened);
    }
    place.pgkeep(&["catalog", "rebuild"]).ok();
    place.pgkeep(&["verify", "--deep"]).ok();
    let target = format!("golden_{}", unique());
    place.pgkeep(&["restore", "latest", "--to-database", &target, "--yes"]).ok();
    assert_same_contents(&target);
    cluster().psql("postgres", &format!("DROP DATABASE {target}"));
}

#[test]
fn a_backup_moved_to_another_clusters_place_is_refused_although_the_key_fits() {
    let place = place();
    fs::rename(place.store().join("golden"), place.store().join("other")).unwrap();
    place.set("BACKUP_CLUSTER", "other");
    let report = place.pgkeep(&["--output", "json", "catalog", "rebuild"]).fails_with(3).json();
    let warning = format!("{} is a backup of the cluster golden, not of other", backups()[0]);
    assert_eq!(report["warnings"][0], json!(warning));
    assert_eq!(report["added"], json!([]));
}
