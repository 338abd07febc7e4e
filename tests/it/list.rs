//! `pgkeep list`.

use serde_json::Value;

use crate::support::{Place, cluster, tidy};

fn list(place: &Place, arguments: &[&str]) -> Vec<Value> {
    let report = place.pgkeep(&[&["--output", "json", "list"], arguments].concat()).ok().json();
    report["backups"].as_array().expect("backups").clone()
}

#[test]
fn the_newest_comes_first_and_one_database_can_be_asked_for() {
    let place = Place::ready();
    let (shop, empty) = (cluster().fresh_shop(), cluster().fresh_database());
    let first = place.backup(&shop);
    // Identifiers tell times apart by the second.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let second = place.backup(&empty);
    let ids = |backups: Vec<Value>| -> Vec<String> {
        backups.iter().map(|backup| backup["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(list(&place, &[])), [second, first.clone()]);
    assert_eq!(ids(list(&place, &["--database", &shop])), [first]);
    assert!(list(&place, &["--database", "other"]).is_empty());
}

#[test]
fn each_backup_has_sizes_ratio_duration_speed_and_rows() {
    let place = Place::ready();
    let shop = cluster().fresh_shop();
    place.backup(&shop);
    let backup = list(&place, &[]).remove(0);
    let number = |field: &str| backup[field].as_f64().unwrap_or_else(|| panic!("{field}: {backup}"));
    assert_eq!((&backup["kind"], &backup["database"]), (&"database".into(), &shop.as_str().into()));
    assert_eq!((&backup["rows"], &backup["copies_not_good"]), (&1550.into(), &0.into()));
    assert_eq!(backup["stores"], serde_json::json!(["local"]));
    let (original, stored) = (number("original_size_bytes"), number("size_bytes"));
    assert!(original > stored && stored > 1000.0, "{backup}");
    assert!((number("ratio") - original / stored).abs() < 0.01, "{backup}");
    assert!((number("bytes_per_second") - original / number("seconds")).abs() < 1.0, "{backup}");
    let mut fields: Vec<&String> = backup.as_object().unwrap().keys().collect();
    fields.sort();
    insta::assert_snapshot!(format!("{fields:?}"), @r#"["bytes_per_second", "copies_not_good", "database", "id", "kind", "original_size_bytes", "ratio", "rows", "seconds", "size_bytes", "started_at", "stores"]"#);
}

#[test]
fn its_text_is_a_table() {
    let place = Place::ready();
    insta::assert_snapshot!(place.pgkeep(&["list"]).ok().stdout, @"no backups");
    place.backup(&cluster().fresh_shop());
    let shown = tidy(&place.pgkeep(&["list"]).ok().stdout);
    let shown = regex::Regex::new(r"\b\d+\.\d\b").unwrap().replace_all(&shown, "[N]").into_owned();
    let shown = regex::Regex::new(r" {2,}").unwrap().replace_all(&shown, "  ").into_owned();
    insta::assert_snapshot!(shown, @r"
    BACKUP  DATABASE  READ  STORED  RATIO  TOOK  SPEED  ROWS  STORES
    [BACKUP]  [DATABASE]  [N] KiB  [N] KiB  [N]  [DURATION]  [RATE]  1,550  local
    ");
}

#[test]
fn a_pipe_that_is_closed_early_is_no_failure_and_changes_nothing() {
    let database = cluster().fresh_shop();
    let place = Place::ready();
    place.backup(&database);
    let commands: [(&[&str], i32); 7] = [
        (&["backup", "database", &database], 0),
        (&["list"], 0),
        (&["--output", "json", "list"], 0),
        (&["alerts", "--all"], 0),
        (&["list", "--jobs"], 0),
        (&["verify", "--deep"], 0),
        (&["show", "nothing"], 1),
    ];
    for (arguments, code) in commands {
        // Nobody has read a byte, and nobody will.
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = place.command(arguments);
        command.stdout(writer.try_clone().expect("the pipe again")).stderr(writer);
        let ended = command.status().expect("run pgkeep");
        assert_eq!(ended.code(), Some(code), "{arguments:?}");
    }
    assert_eq!(place.backups().len(), 2);
    assert_eq!(place.catalog("SELECT DISTINCT outcome FROM runs"), [["done"]]);
}
