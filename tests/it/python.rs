//! `examples/restore_without_pgkeep.py`: a second reader of the format, which shares no line with the first one.

use std::fs;
use std::path::{Path, PathBuf};

use pgkeep::format::volume::{FRAME_HEADER, FrameHeader, VolumeHeader};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::golden;
use crate::support::{Place, Run, cluster, ordinary, project, run, unique};

/// The interpreter that has the script's packages.
pub(crate) fn python() -> String {
    let python = std::env::var("PGKEEP_TEST_PYTHON").unwrap_or_else(|_| {
        panic!(
            "set PGKEEP_TEST_PYTHON to a Python with the packages aiosmtpd, cryptography and zstandard; tests/run.sh \
             makes one in target/test-python and sets it"
        )
    });
    let tried = run(ordinary(&python).args(["-c", "import aiosmtpd, cryptography, zstandard"]));
    assert_eq!(
        tried.code, 0,
        "{python} lacks packages; run tests/run.sh, which installs them\n{}",
        tried.stderr
    );
    python
}

/// Runs the script with these keys; the output goes into a directory that does not exist.
fn unpack_with(keys: &str, backup: &Path, output: &Path) -> Run {
    let mut command = ordinary(python());
    command
        .args(["-I", "-B"])
        .arg(project().join("examples/restore_without_pgkeep.py"))
        .args([backup, output])
        .env("BACKUP_ENCRYPTION_KEY", keys);
    run(&mut command)
}

/// Restores what was unpacked as the script says, into a new database whose name it returns.
fn pg_restore(unpacked: &Run, output: &Path) -> String {
    let command = format!("pg_restore --jobs=4 --dbname=NEW_DATABASE {}", output.display());
    assert!(unpacked.stdout.trim_end().ends_with(&command), "{}", unpacked.stdout);
    let database = format!("python_{}", unique());
    cluster().psql("postgres", &format!("CREATE DATABASE {database} TEMPLATE template0"));
    let mut restore = cluster().client("pg_restore");
    restore.args(["--exit-on-error", "--jobs=4", "--dbname", &database]).arg(output);
    run(&mut restore).ok();
    database
}

fn drop_database(name: &str) {
    cluster().psql("postgres", &format!("DROP DATABASE {name}"));
}

/// Asserts that the script ended with this sentence and no traceback.
#[track_caller]
fn assert_refused(run: &Run, why: &str) {
    assert_eq!(run.code, 1, "{}{}", run.stdout, run.stderr);
    assert!(run.stderr.starts_with("restore_without_pgkeep: "), "{}", run.stderr);
    assert!(run.stderr.contains(why), "{}", run.stderr);
    assert_eq!(run.stdout, "");
}

#[test]
fn the_golden_backups_are_restored_without_pgkeep() {
    let place = golden::place();
    for backup in golden::expected()["backups"].as_array().unwrap() {
        let id = backup["id"].as_str().unwrap();
        let output = place.path(id);
        let unpacked = unpack_with(&golden::key(), &golden::object(&place, id, ""), &output).ok();
        golden::assert_files(&output, backup);
        let database = pg_restore(&unpacked, &output);
        golden::assert_same_contents(&database);
        drop_database(&database);
    }
}

/// The frames of a backup: which are raw.
fn raw_frames(volumes: &[PathBuf]) -> Vec<Vec<bool>> {
    let frames = |path: &PathBuf| {
        let bytes = fs::read(path).unwrap();
        let (_, mut at) = VolumeHeader::decode(&bytes).unwrap();
        let mut raw = Vec::new();
        while at < bytes.len() {
            let header = FrameHeader::decode(&bytes[at..]).unwrap();
            raw.push(header.raw);
            at += FRAME_HEADER + header.stored as usize;
        }
        raw
    };
    volumes.iter().map(frames).collect()
}

#[test]
fn a_fresh_backup_of_several_volumes_with_raw_frames_is_the_same_without_pgkeep() {
    let place = Place::ready();
    place.set("BACKUP_VOLUME_SIZE", "1M");
    let shop = cluster().fresh_shop();
    // Bytes that nothing compresses, more than a frame of them; and rows, more than a frame of them.
    cluster().psql(
        &shop,
        "SELECT lo_from_bytea(0, string_agg(sha256(n::text::bytea), '')) FROM generate_series(1, 150000) n;
         CREATE TABLE many AS SELECT n, md5(n::text) AS text FROM generate_series(1, 150000) n;",
    );
    let original = cluster().dump(&shop);
    for compression in ["zstd:3", "gzip:9"] {
        place.set("BACKUP_COMPRESSION", compression);
        let id = place.backup(&shop);
        let directory = place.store().join("test/backups").join(&id);
        let mut volumes: Vec<PathBuf> = fs::read_dir(&directory)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.file_name().unwrap() != "manifest")
            .collect();
        volumes.sort();
        let raw = raw_frames(&volumes);
        assert!(raw.len() >= 3, "several volumes: {raw:?}");
        assert!(raw.iter().any(|frames| frames[0]), "a raw frame that is not the last one: {raw:?}");
        assert!(raw.iter().any(|frames| !frames[0]), "a compressed frame: {raw:?}");

        let output = place.path(&id);
        let unpacked = unpack_with(&place.setting("BACKUP_ENCRYPTION_KEY"), &directory, &output).ok();
        let without = pg_restore(&unpacked, &output);
        let with = format!("with_{}", unique());
        place.pgkeep(&["restore", &id, "--to-database", &with, "--yes"]).ok();
        for database in [without, with] {
            assert!(
                cluster().dump(&database) == original,
                "{compression}: {database} is another than {shop}"
            );
            drop_database(&database);
        }
    }
    drop_database(&shop);
}

#[test]
fn a_flipped_byte_is_found_wherever_it_is() {
    let place = golden::place();
    let [backup, _] = golden::backups();
    let flip = |name: &str, at: usize| {
        let path = golden::object(&place, &backup, name);
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&path, &bad).unwrap();
        let output = place.path(&format!("flipped_{name}_{at}"));
        let run = unpack_with(&golden::key(), &golden::object(&place, &backup, ""), &output);
        fs::write(&path, &good).unwrap();
        run
    };
    assert_refused(&flip("manifest", 0), "there is no manifest of format 1");
    assert_refused(&flip("manifest", 30), "the manifest is damaged: its SHA-256 is another");
    assert_refused(&flip("manifest", 1000), "the manifest is damaged: its SHA-256 is another");
    for at in [0, 40, 60, 100_000, 157_817] {
        assert_refused(&flip("data.00000", at), "data.00000 is damaged: its SHA-256 is another");
    }
}

/// Changes a golden backup's manifest as nobody without the key could, and unpacks.
fn forged(change: impl Fn(&Place, &str, &mut golden::Opened)) -> (Place, Run) {
    let place = golden::place();
    let [backup, _] = golden::backups();
    let manifest = golden::object(&place, &backup, "manifest");
    let mut opened = golden::open(&manifest);
    change(&place, &backup, &mut opened);
    golden::reseal(&manifest, &opened);
    let run = unpack_with(&golden::key(), &golden::object(&place, &backup, ""), &place.path("output"));
    (place, run)
}

#[test]
fn a_byte_that_was_changed_with_all_digests_made_anew_does_not_fit_its_seal() {
    let volume = |place: &Place, backup: &str| golden::object(place, backup, "data.00000");
    // In the reserved bytes of the header, in a frame's header, in its ciphertext, in the very last tag.
    for (at, why) in [
        (18, "a seal does not fit"),
        (62, "a seal does not fit"),
        (50_000, "a seal does not fit"),
        (157_817, "a seal does not fit"),
        (12, "is not volume 0 of"),
        (58, "frame 0 is not where it belongs"),
    ] {
        let (_place, run) = forged(|place, backup, opened| {
            let mut bytes = fs::read(volume(place, backup)).unwrap();
            bytes[at] ^= 1;
            fs::write(volume(place, backup), &bytes).unwrap();
            opened.body["volumes"][0]["sha256"] = json!(hex::encode(Sha256::digest(&bytes)));
        });
        assert_refused(&run, why);
    }
}

#[test]
fn an_entry_that_leaves_the_directory_is_refused_before_anything_is_written() {
    for name in ["../evil", "/evil", "a/../../evil", "", ".", "a//b"] {
        let (place, run) = forged(|_, _, opened| opened.body["entries"][0]["name"] = json!(name));
        assert_refused(&run, "leaves");
        assert!(!place.path("output").exists() && !place.path("evil").exists(), "{name}");
    }
}

#[test]
fn what_it_cannot_read_it_says() {
    let text = |value: &str| json!(value);
    let (_place, run) = forged(|_, _, opened| opened.version = 2);
    assert_refused(&run, "there is no manifest of format 1 in this directory");
    let (_place, run) = forged(|_, _, opened| opened.body["format"] = json!(2));
    assert_refused(&run, "the backup has format 2, this reads format 1");
    let (_place, run) = forged(|_, _, opened| opened.body["id"] = text("another"));
    assert_refused(&run, "head and body of the manifest do not agree");
    let (_place, run) = forged(|_, _, opened| {
        opened.body["backups"] = json!([opened.body["id"], "20261121T020000Z-database-00000000"]);
        opened.body["entries"][0]["extents"][0][0] = json!(1);
    });
    assert_refused(&run, "a part of this backup lies in another one, 20261121T020000Z-database-00000000");
    let (_place, run) = forged(|_, _, opened| opened.body["entries"][0]["sha256"] = text("0"));
    assert_refused(&run, "is not what was backed up");
    let (_place, run) = forged(|_, _, opened| {
        opened.head.push("oneword".to_owned());
        opened.body["later"] = Value::Null;
    });
    run.ok();
}

#[test]
fn what_is_missing_is_said_in_a_sentence() {
    let place = golden::place();
    let [backup, _] = golden::backups();
    let directory = golden::object(&place, &backup, "");
    let fingerprint = golden::open(&directory.join("manifest")).head[1].replace("key ", "");

    assert_refused(&unpack_with("", &directory, &place.path("output")), "set BACKUP_ENCRYPTION_KEY");
    let other = place.pgkeep(&["key", "new"]).ok().stdout.trim().to_owned();
    let run = unpack_with(&other, &directory, &place.path("output"));
    assert_refused(
        &run,
        &format!("sealed with the key {fingerprint}, which is not in BACKUP_ENCRYPTION_KEY"),
    );
    assert_refused(&unpack_with("short", &directory, &place.path("output")), "cannot read the backup");
    assert_refused(&unpack_with(&golden::key(), &directory, &place.store()), "exists already");
    let nowhere = unpack_with(&golden::key(), &place.path("nowhere"), &place.path("output"));
    assert_refused(&nowhere, "FileNotFoundError");
    fs::remove_file(directory.join("data.00000")).unwrap();
    assert_refused(&unpack_with(&golden::key(), &directory, &place.path("output")), "data.00000");

    let both = format!("{other},{}", golden::key());
    let again = golden::place();
    unpack_with(&both, &golden::object(&again, &backup, ""), &again.path("output")).ok();
}
