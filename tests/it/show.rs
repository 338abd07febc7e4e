//! `pgkeep show`.

use crate::support::{Place, cluster, tidy};

#[test]
fn everything_about_a_backup_as_json() {
    let place = Place::ready();
    let shop = cluster().fresh_shop();
    let id = place.backup(&shop);
    let shown = place.pgkeep(&["--output", "json", "show", "latest"]).ok().json();
    assert_eq!((&shown["id"], &shown["database"]), (&id.as_str().into(), &shop.as_str().into()));
    let tables = shown["tables"].as_array().expect("tables");
    let mut rows: Vec<(&str, &str, u64)> = tables
        .iter()
        .map(|table| {
            let text = |field: &str| table[field].as_str().unwrap();
            (text("schema"), text("name"), table["rows"].as_u64().unwrap())
        })
        .collect();
    rows.sort_unstable();
    assert_eq!(rows, [("public", "items", 500), ("public", "orders", 1000), ("public", "tenants", 50)]);
    let copies = shown["copies"].as_array().expect("copies");
    let total: u64 = copies.iter().map(|copy| copy["size_bytes"].as_u64().unwrap()).sum();
    assert_eq!(shown["size_bytes"], total);
    let run = place.catalog("SELECT id FROM runs WHERE command = 'backup database'");
    assert_eq!(shown["run"], run[0][0]);
    let mut fields: Vec<&String> = shown.as_object().unwrap().keys().collect();
    fields.sort();
    insta::assert_snapshot!(format!("{fields:?}"), @r#"["bytes_per_second", "codec", "copies", "copies_not_good", "database", "finished_at", "id", "kind", "original_size_bytes", "pgkeep_version", "physical", "places", "postgres_version", "ratio", "recoverable", "rows", "run", "seconds", "size_bytes", "started_at", "stores", "system_identifier", "tables", "wal"]"#);
    let mut fields: Vec<&String> = copies[0].as_object().unwrap().keys().collect();
    fields.sort();
    insta::assert_snapshot!(format!("{fields:?}"), @r#"["note", "object", "proven_at", "proven_how", "sha256", "size_bytes", "state", "store"]"#);
}

#[test]
fn its_text_can_be_read() {
    let place = Place::ready();
    place.backup(&cluster().fresh_shop());
    let shown = tidy(&place.pgkeep(&["show", "latest"]).ok().stdout);
    let shown = regex::Regex::new(r"\b\d+\.\d+\b").unwrap().replace_all(&shown, "[N]").into_owned();
    let shown =
        regex::Regex::new(r"PostgreSQL .*\(system").unwrap().replace(&shown, "PostgreSQL [VERSION] (system");
    let shown = regex::Regex::new(r" {2,}").unwrap().replace_all(&shown, "  ").into_owned();
    insta::assert_snapshot!(shown, @r"
    backup [BACKUP]
    database  [DATABASE]
    begun  [TIME]
    done  [TIME] ([DURATION])
    size  [N] KiB read, [N] KiB stored ([N] times smaller, zstd:5), [RATE]
    PostgreSQL [VERSION] (system identifier [NUMBER])
    made by  pgkeep [N].0, run [RUN]
    place  [PLACE]/store/test/backups/[BACKUP]/

    OBJECT  STORE  SIZE  STATE  PROVEN  HOW
    data.00000  local  [N] KiB  good  [TIME]  written
    manifest  local  [N] KiB  good  [TIME]  written

    TABLE  ROWS  READ
    public.orders  1,000  [N] KiB
    public.items  500  [N] KiB
    public.tenants  50  637 B
    ");
}

#[test]
fn without_a_key_the_tables_are_left_out() {
    let place = Place::ready();
    place.backup(&cluster().fresh_shop());
    place.unset("BACKUP_ENCRYPTION_KEY");
    let shown = place.pgkeep(&["--output", "json", "show", "latest"]).ok().json();
    assert_eq!((&shown["tables"], &shown["rows"]), (&serde_json::Value::Null, &1550.into()));
    let run = place.pgkeep(&["show", "latest"]).ok();
    assert!(run.stdout.contains("no key is set"), "{}", run.stdout);
}

#[test]
fn a_backup_that_is_not_there_and_one_that_is_not_clear() {
    let place = Place::ready();
    let shop = cluster().fresh_shop();
    let run = place.pgkeep(&["show", "latest"]).fails_with(1);
    insta::assert_snapshot!(run.message(), @r"
    pgkeep: there is no backup
    hint: `pgkeep list` shows what there is; if the catalog is new, run `pgkeep catalog rebuild`.
    ");
    place.backup(&shop);
    place.backup(&shop);
    let run = place.pgkeep(&["show", "2"]).fails_with(2);
    assert!(run.stderr.contains("hint: "), "{}", run.stderr);
}
