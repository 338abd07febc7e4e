//! PostgreSQL's own regression database, which holds nearly every kind of object that `pg_dump` knows.

use std::path::PathBuf;

use crate::support::{Cluster, Place, give, ordinary, project, run};

/// Where `tests/regression_source.sh` has put the tests that make it.
fn sources() -> PathBuf {
    std::env::var_os("PGKEEP_REGRESSION_DIR")
        .map_or_else(|| project().join("target/regression"), PathBuf::from)
}

fn client(cluster: &Cluster, program: &str, arguments: &[&str]) {
    let run = run(cluster.client(program).args(arguments));
    assert_eq!(run.code, 0, "{program} {arguments:?}: {}", run.stderr);
}

#[test]
fn a_database_with_every_kind_of_object_comes_back_identical() {
    let sources = sources();
    assert!(
        sources.is_dir(),
        "PostgreSQL's regression tests are not in {}: run tests/regression_source.sh (tests/run.sh does)",
        sources.display()
    );
    let cluster = Cluster::own(&[]);
    let work = cluster.socket_dir.join("work");
    std::fs::create_dir(&work).unwrap();
    give(&work);
    let port = cluster.port.to_string();
    let made = run(ordinary("bash")
        .arg(project().join("tests/regression_database.sh"))
        .args([&cluster.bindir, &cluster.socket_dir])
        .args([&port, "postgres", "regression"])
        .arg(&work)
        .env("PGKEEP_REGRESSION_DIR", &sources)
        .env("LC_ALL", "C.UTF-8"));
    assert_eq!(made.code, 0, "{}{}", made.stdout, made.stderr);

    // Some of it is dumped in another form after it was restored once, by any program (columns that were dropped, the
    // text of views): what is compared is the database that PostgreSQL's own programs have restored.
    let dump = work.join("dump").display().to_string();
    client(&cluster, "pg_dump", &["-Fd", "-j2", "-Z0", "-f", &dump, "regression"]);
    cluster.psql("postgres", "DROP DATABASE regression");
    client(&cluster, "pg_restore", &["--create", "--exit-on-error", "-j2", "-d", "postgres", &dump]);

    let place = Place::on(&cluster);
    place.init();
    let before = cluster.dump_with_create("regression");
    assert!(before.len() > 5_000_000, "a dump of {} bytes cannot be of all the objects", before.len());
    let report =
        place.pgkeep(&["--output", "json", "backup", "database", "regression", "--jobs", "2"]).ok().json();
    assert!(report["tables"].as_u64() > Some(200), "{report}");
    place.pgkeep(&["restore", "latest", "--yes", "--jobs", "2", "--drop-old"]).ok();
    let after = cluster.dump_with_create("regression");
    assert_same(&before, &after);
}

/// Compares two texts of megabytes without printing them.
fn assert_same(before: &str, after: &str) {
    let differing = before.lines().zip(after.lines()).enumerate().filter(|(_, (one, other))| one != other);
    let shown: Vec<String> = differing
        .take(10)
        .map(|(number, (one, other))| format!("line {}:\n< {one}\n> {other}", number + 1))
        .collect();
    assert!(shown.is_empty(), "{}", shown.join("\n"));
    assert_eq!(before.len(), after.len(), "one dump is longer than the other");
}
