//! A tenant back in time out of a cluster with tablespaces: the server that is brought to life for it writes into none of those
//! in use.

use std::fs;
use std::path::{Path, PathBuf};

use pgkeep::model::Lsn;
use pgkeep::postgres::wal_records::{Tablespaces, stops, tablespaces};

use crate::support::{Archiving, Cluster, base, give, set_mode, unique};
use crate::tenants::{contents, fill, of, without, wreck};

fn outside() -> PathBuf {
    let directory = base().join(format!("space{}", unique()));
    fs::create_dir(&directory).unwrap();
    set_mode(&directory, 0o700);
    give(&directory);
    directory
}

/// Every file below, with what it holds and when it was written.
fn files(directory: &Path) -> Vec<(PathBuf, Vec<u8>, std::time::SystemTime)> {
    let mut found = Vec::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                waiting.push(entry.path());
            } else {
                let written = entry.metadata().unwrap().modified().unwrap();
                found.push((entry.path(), fs::read(entry.path()).unwrap(), written));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_tenant_whose_tables_lie_in_a_tablespace_goes_back_in_time_and_the_files_in_use_are_not_touched() {
    let archiving = Archiving::new(&[("autovacuum", "off")]);
    archiving.begin();
    let (cluster, place) = (&archiving.cluster, &archiving.place);
    cluster.create_database("saas");
    fill(cluster, place, "saas", 12);
    let roomy = outside();
    cluster.psql("saas", &format!("CREATE TABLESPACE roomy LOCATION '{}'", roomy.display()));
    cluster.psql("saas", "ALTER TABLE app.users SET TABLESPACE roomy; ALTER TABLE app.orders SET TABLESPACE roomy; ALTER INDEX app.users_pkey SET TABLESPACE roomy");
    crate::pitr::backup(&archiving);
    // What is replayed of these is written into them.
    cluster.psql("saas", "UPDATE app.users SET born = '2000-01-01'; UPDATE app.orders SET placed = now(); CREATE TABLE app.later (id int) TABLESPACE roomy");
    let good = contents(cluster, "saas");
    let instant = crate::pitr::now(cluster);
    archiving.archive();
    wreck(cluster, "saas", 5);
    wreck(cluster, "saas", 6);
    let wrecked = contents(cluster, "saas");
    archiving.archive();
    let pitr = |tenant: &str, time: &str, how: &str| {
        place.pgkeep(&["restore", "--mode", "pitr", "--tenant", tenant, "--target-time", time, how])
    };
    cluster.psql("saas", "CHECKPOINT");
    let untouched = files(&roomy);
    let plan = pitr("5", &instant, "--dry-run").ok();
    assert!(plan.stdout.contains("app.users"), "{}", plan.stdout);
    assert!(files(&roomy) == untouched, "the files in use are as they were");
    assert_eq!(place.files("state/scratch"), [""; 0]);
    pitr("5", &instant, "--yes").ok();
    let after = contents(cluster, "saas");
    assert_eq!(of(&after, "5"), of(&good, "5"));
    assert_eq!(without(&after, "5"), without(&wrecked, "5"));
    // One that is made later would be made again where it is: over that in use.
    let later = outside();
    cluster.psql("saas", &format!("CREATE TABLESPACE later LOCATION '{}'", later.display()));
    cluster.psql("saas", "CREATE TABLE app.kept TABLESPACE later AS SELECT generate_series(1, 1000) AS n");
    let behind = crate::pitr::now(cluster);
    archiving.archive();
    cluster.psql("saas", "UPDATE app.tenants SET name = name");
    archiving.archive();
    cluster.psql("saas", "CHECKPOINT");
    let untouched = [files(&roomy), files(&later)];
    let refused = pitr("6", &behind, "--yes").fails_with(5);
    assert!(refused.stderr.contains("would have to make a tablespace again"), "{}", refused.stderr);
    assert!([files(&roomy), files(&later)] == untouched, "the files in use are as they were");
    // Before it was made is another matter.
    pitr("6", &instant, "--dry-run").ok();
    assert!([files(&roomy), files(&later)] == untouched, "the files in use are as they were");
    place.pgkeep(&["test-restore", "latest", "--target-time", &instant]).ok();
    let refused = place.pgkeep(&["test-restore", "latest"]).fails_with(5);
    assert!(refused.stderr.contains("would have to make a tablespace again"), "{}", refused.stderr);
    assert!([files(&roomy), files(&later)] == untouched, "the files in use are as they were");
    // With a backup that has it, it goes where the others go.
    crate::pitr::backup(&archiving);
    cluster.psql("saas", "UPDATE app.tenants SET name = 'late' WHERE id = 6");
    let latest = contents(cluster, "saas");
    let instant = crate::pitr::now(cluster);
    wreck(cluster, "saas", 6);
    archiving.archive();
    pitr("6", &instant, "--yes").ok();
    assert_eq!(of(&contents(cluster, "saas"), "6"), of(&latest, "6"));
    assert_eq!(cluster.psql("saas", "SELECT count(*) FROM app.kept"), "1000");
}

#[test]
fn a_tablespace_that_is_made_behind_a_record_that_a_crash_has_torn_is_seen() {
    const PAGE: usize = 8192;
    let cluster = Cluster::own(&[("autovacuum", "off"), ("wal_keep_size", "256MB")]);
    cluster.psql("postgres", "CHECKPOINT; SELECT pg_switch_wal()");
    cluster.psql("postgres", "SELECT pg_logical_emit_message(true, 'x', repeat('long', 20000))");
    let place = cluster.psql(
        "postgres",
        "SELECT file_name, file_offset FROM pg_walfile_name_offset(pg_current_wal_insert_lsn())",
    );
    let (name, end) = place.split_once('|').unwrap();
    let torn_at = (end.parse::<usize>().unwrap() / PAGE - 3) * PAGE;
    cluster.stop();
    // The last pages have not come as far as the disk.
    let path = cluster.data().join("pg_wal").join(name);
    let mut bytes = fs::read(&path).unwrap();
    bytes[torn_at..].fill(0);
    fs::write(&path, &bytes).unwrap();
    cluster.start_again();
    let read = || fs::read(&path).unwrap();
    assert_eq!(read()[torn_at + 2] & 8, 8, "the record was torn there");
    assert_eq!(tablespaces(&read(), Lsn(0)), Tablespaces::None);
    let before = stops(&read()).last_record;
    let roomy = outside();
    cluster.psql("postgres", &format!("CREATE TABLESPACE roomy LOCATION '{}'", roomy.display()));
    assert_eq!(tablespaces(&read(), Lsn(0)), Tablespaces::Made);
    let last = stops(&read()).last_record;
    assert!(before < last, "{before:?} {last:?}");
}
