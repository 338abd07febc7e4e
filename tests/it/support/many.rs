//! Backups in great number, without backing anything up: objects of one byte each, and the catalog's rows of them.

use rusqlite::{Connection, named_params};

use super::Place;

/// SHA-256 of the byte that each object is.
const SHA256: &str = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";

/// The byte.
pub(crate) const CONTENT: &[u8] = b"x";

/// Names of backups that sort by their number; each some hours younger than the one before.
pub(crate) fn backup_id(number: usize) -> String {
    let (day, hour) = (number / 24, number % 24);
    let (year, month, day) = (2020 + day / 336, day / 28 % 12 + 1, day % 28 + 1);
    format!("{year:04}{month:02}{day:02}T{hour:02}0000Z-database-{number:08x}")
}

/// The keys of so many backups with so many objects each, the manifest being one of them.
pub(crate) fn keys(cluster: &str, backups: usize, objects: usize) -> Vec<String> {
    let of = |backup| {
        let id = backup_id(backup);
        names(objects).map(move |name| format!("{cluster}/backups/{id}/{name}"))
    };
    (0..backups).flat_map(of).collect()
}

fn names(objects: usize) -> impl Iterator<Item = String> {
    (0..objects - 1).map(|volume| format!("data.{volume:05}")).chain(["manifest".to_owned()])
}

/// Writes the rows of them into the catalog of an initialised place: good copies in these stores.
pub(crate) fn fill_catalog(place: &Place, backups: usize, objects: usize, stores: &[&str]) {
    let mut catalog = Connection::open(place.state().join("catalog.sqlite")).expect("open the catalog");
    let transaction = catalog.transaction().expect("begin");
    {
        let mut backup = transaction
            .prepare(
                "INSERT INTO backups (id, type, database, filename, status, size_bytes, original_size_bytes, \
                 compressed_size_bytes, checksum, codec, rows, entries, format_version, pgkeep_version, started_at, \
                 finished_at, seconds) VALUES (:id, 'database', 'shop', :filename, 'complete', :size, :size, :size, \
                 :checksum, 'zstd:5', 1, 1, 1, '0.1.0', :at, :at, 1.0)",
            )
            .expect("prepare");
        let mut copy = transaction
            .prepare(
                "INSERT INTO copies (backup_id, object, store, size_bytes, sha256, state, proven_at, proven_how) \
                 VALUES (:id, :object, :store, :size, :sha256, 'good', :at, 'written')",
            )
            .expect("prepare");
        for number in 0..backups {
            let id = backup_id(number);
            let filename = format!("{}/backups/{id}/", place.setting("BACKUP_CLUSTER"));
            let at = format!("{}-{}-{}T{}:00:00.000Z", &id[0..4], &id[4..6], &id[6..8], &id[9..11]);
            let row = named_params! {
                ":id": id, ":filename": filename, ":size": objects as u32, ":checksum": SHA256, ":at": at
            };
            backup.execute(row).expect("insert a backup");
            for object in names(objects) {
                for store in stores {
                    let size = CONTENT.len() as u32;
                    let row = named_params! {
                        ":id": id, ":object": object, ":store": store, ":size": size, ":sha256": SHA256,
                        ":at": at
                    };
                    copy.execute(row).expect("insert a copy");
                }
            }
        }
    }
    transaction.commit().expect("commit");
}
