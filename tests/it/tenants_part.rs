//! A tenant out of the backup of a whole database: of that only what is needed is fetched and brought back.

use std::fs;

use crate::support::{Place, cluster};
use crate::tenants::{contents, of, ready, without, wreck};

/// The nasty schema, and beside it what no tenant needs: a large table that a shared one refers to, views, and what would act
/// of itself.
fn beside_a_large_table() -> (Place, String) {
    let (place, database) = ready(12);
    cluster().psql(
        &database,
        "CREATE TABLE app.big (id int PRIMARY KEY, noise bytea);
         INSERT INTO app.big SELECT n, (SELECT string_agg(decode(md5(n || ' ' || k || random()), 'hex'), '') FROM generate_series(1, 64) k)
           FROM generate_series(1, 16000) n;
         ALTER TABLE app.plans ADD COLUMN big_id int REFERENCES app.big;
         UPDATE app.plans SET big_id = id;
         CREATE MATERIALIZED VIEW app.sizes AS SELECT length(noise) FROM app.big;
         CREATE VIEW app.everything AS SELECT u.id FROM app.users u, app.big b;
         CREATE PUBLICATION published FOR TABLE app.big, app.users;
         SELECT lo_from_bytea(0, '\\x00ff')",
    );
    (place, database)
}

fn fetched(place: &Place) -> u64 {
    let dry = place.pgkeep(&["--output", "json", "restore", "latest", "--tenant", "3", "--dry-run"]);
    dry.ended_with(0).json()["quote"]["fetch_bytes"].as_u64().unwrap()
}

#[test]
fn of_a_databases_backup_only_the_tenants_tables_are_fetched() {
    let (place, database) = beside_a_large_table();
    let cluster = cluster();
    let before = contents(cluster, &database);
    let id = place.backup(&database);
    wreck(cluster, &database, 3);
    wreck(cluster, &database, 4);
    let wrecked = contents(cluster, &database);
    let volume = place.store().join(format!("test/backups/{id}/data.00000"));
    let stored = fs::metadata(&volume).unwrap().len();
    assert!(stored > 12_000_000, "{stored}");
    let fetched = fetched(&place);
    assert!(fetched < stored / 2, "{fetched} of {stored}");
    // What is in the middle of the volume is the large table's. It can't be read any more, and nobody does.
    let mut bytes = fs::read(&volume).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 1_000_000].fill(0x55);
    fs::write(&volume, &bytes).unwrap();
    let restored = place.pgkeep(&["restore", "latest", "--tenant", "3", "--yes"]).ok();
    assert!(!restored.stderr.contains("all of them are"), "{}", restored.stderr);
    let after = contents(cluster, &database);
    assert_eq!(of(&after, "3"), of(&before, "3"));
    assert_eq!(without(&after, "3"), without(&wrecked, "3"));
    assert_eq!(cluster.databases_like(&database), [database], "nothing is left beside it");
    assert_eq!(place.files("state/scratch"), [""; 0]);
}

#[test]
fn what_cannot_be_separated_is_brought_back_with_everything() {
    let (place, database) = ready(5);
    let cluster = cluster();
    // A constraint that nobody can see through.
    cluster.psql(
        &database,
        "CREATE TABLE app.allowed (line text); INSERT INTO app.allowed VALUES ('twice'), ('nobody''s'), ('new');
         CREATE FUNCTION app.is_allowed(text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
           RETURN EXISTS (SELECT FROM app.allowed a WHERE a.line = $1); END $$;
         ALTER TABLE app.log ADD CHECK (app.is_allowed(line))",
    );
    let before = contents(cluster, &database);
    // In the order of a dump, what is allowed comes first.
    place.backup(&database);
    wreck(cluster, &database, 3);
    let restored = place.pgkeep(&["restore", "latest", "--tenant", "3", "--yes", "--jobs", "1"]).ok();
    assert!(restored.stderr.contains("so all of them are"), "{}", restored.stderr);
    assert_eq!(of(&contents(cluster, &database), "3"), of(&before, "3"));
}

#[test]
fn what_cannot_be_looked_at_without_its_rows_is_brought_back_with_everything() {
    let (place, database) = ready(5);
    let cluster = cluster();
    // An index that can't be made without a row that somebody has put there; in the order of a dump, that comes first.
    cluster.psql(
        &database,
        "CREATE TABLE app.switches (line text); INSERT INTO app.switches VALUES ('on');
         CREATE FUNCTION app.is_on() RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
           IF NOT EXISTS (SELECT FROM app.switches) THEN RAISE 'no switch'; END IF; RETURN true; END $$;
         CREATE INDEX ON app.users (id) WHERE app.is_on()",
    );
    let before = contents(cluster, &database);
    place.backup(&database);
    wreck(cluster, &database, 3);
    let restored = place.pgkeep(&["restore", "latest", "--tenant", "3", "--yes", "--jobs", "1"]).ok();
    assert!(restored.stderr.contains("so all of them are"), "{}", restored.stderr);
    assert!(restored.stderr.contains("can't be seen"), "{}", restored.stderr);
    assert_eq!(of(&contents(cluster, &database), "3"), of(&before, "3"));
    assert_eq!(cluster.databases_like(&database), [database], "nothing is left beside it");
}
