//! A merge into a tenant's schema beside others who write it, and what a merge may not tear or can't change.

use std::io::Write as _;
use std::process::{Child, Stdio};

use crate::support::faults::wait_for;
use crate::support::{Cluster, cluster};
use crate::tenants_modes::in_schemas;

const MERGE: [&str; 6] = ["restore", "--tenant", "2", "--mode", "merge", "--yes"];
const TAKE: [&str; 8] = ["restore", "--tenant", "2", "--mode", "merge", "--yes", "--on-conflict", "take"];

/// A session that is told one thing after the other.
struct Session(Child);

impl Session {
    fn of(cluster: &Cluster, database: &str) -> Self {
        let mut psql = cluster.client("psql");
        Self(psql.env("PGDATABASE", database).stdin(Stdio::piped()).args(["-Xq"]).spawn().unwrap())
    }

    /// Says something that leaves a transaction open, and waits until it is.
    fn begin(&mut self, cluster: &Cluster, database: &str, sql: &str) {
        self.say(&format!("{sql}; SELECT 'said';\n"));
        let open = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND state = 'idle in transaction' \
             AND query LIKE '%said%'"
        );
        wait_for("a transaction", || (cluster.psql("postgres", &open) == "1").then_some(()));
    }

    fn say(&mut self, sql: &str) {
        self.0.stdin.as_mut().unwrap().write_all(sql.as_bytes()).unwrap();
    }

    fn end(mut self, sql: &str) {
        self.say(&format!("{sql};\n\\q\n"));
        self.0.wait().unwrap();
    }
}

#[test]
fn a_merge_that_waits_for_somebody_holds_up_nobody_else_who_writes_the_schema() {
    let (place, database) = in_schemas();
    let cluster = cluster();
    place.pgkeep(&["backup", "tenant", "2"]).ok();
    cluster.psql(&database, "DELETE FROM t_2.events WHERE id > 15");
    let mut writer = Session::of(cluster, &database);
    // The last of the tables that the merge wants.
    writer.begin(cluster, &database, "BEGIN; UPDATE t_2.users SET mood = mood WHERE id = 1");
    let merging = place.start(&[], &MERGE);
    let waiting = format!(
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'ShareRowExclusiveLock' \
         AND database = (SELECT oid FROM pg_database WHERE datname = '{database}')"
    );
    for _ in 0..3 {
        wait_for("the merge", || (cluster.psql("postgres", &waiting) == "1").then_some(()));
        cluster.psql(
            &database,
            "SET lock_timeout = '1s'; INSERT INTO t_2.counted VALUES (5);
             INSERT INTO t_2.events VALUES (16, '2025-12-31') ON CONFLICT DO NOTHING;
             UPDATE t_2.users SET mood = 'good' WHERE id = 2",
        );
    }
    // Nor does he who is waited for wait for the merge.
    writer.end("SET lock_timeout = '1s'; INSERT INTO t_2.counted VALUES (6); COMMIT");
    merging.wait().ok();
    let counted = "SELECT string_agg(n::text, ' ' ORDER BY n) FROM t_2.counted";
    assert_eq!(cluster.psql(&database, counted), "0 5 5 5 6");
    assert_eq!(cluster.psql(&database, "SELECT count(*) FROM t_2.events WHERE id > 15"), "5");
}

#[test]
fn a_row_whose_parent_is_not_there_is_not_added_in_place_of_one_whose_parent_comes_back() {
    let (place, database) = in_schemas();
    let cluster = cluster();
    let unchecked =
        |sql: &str| cluster.psql(&database, &format!("SET session_replication_role = replica; {sql}"));
    unchecked("INSERT INTO t_2.\"odd \"\"; name\" VALUES (50, 'lost', NULL)");
    place.pgkeep(&["backup", "tenant", "2"]).ok();
    unchecked("DELETE FROM t_2.\"odd \"\"; name\" WHERE user_id = 50; DELETE FROM t_2.users WHERE id = 3");
    let refused = place.pgkeep(&MERGE).fails_with(5);
    assert!(refused.stderr.contains("refer to others that are not there"), "{}", refused.stderr);
    assert!(refused.stderr.contains(": 1"), "{}", refused.stderr);
    // One that was torn before and is whole afterwards is in nobody's way, nor is one that is torn as before.
    cluster.psql(&database, "INSERT INTO t_2.users (id, email) VALUES (50, 'fifty')");
    unchecked("INSERT INTO t_2.\"odd \"\"; name\" VALUES (60, 'newer', NULL)");
    place.pgkeep(&MERGE).ok();
    let torn = "SELECT string_agg(o.user_id::text, ' ') FROM t_2.\"odd \"\"; name\" o \
                WHERE NOT EXISTS (SELECT FROM t_2.users u WHERE u.id = o.user_id)";
    assert_eq!(cluster.psql(&database, torn), "60");
}

#[test]
fn rows_that_differ_are_taken_also_where_the_database_alone_numbers_them() {
    let (place, database) = in_schemas();
    let cluster = cluster();
    cluster.psql(
        &database,
        "CREATE TABLE t_2.notes (id int PRIMARY KEY, number int GENERATED ALWAYS AS IDENTITY, note text);
         CREATE TABLE t_2.only_numbers (id int PRIMARY KEY, number int GENERATED ALWAYS AS IDENTITY);
         INSERT INTO t_2.notes (id, note) VALUES (1, 'one'), (2, 'two'), (3, 'three');
         INSERT INTO t_2.only_numbers (id) VALUES (1), (2)",
    );
    place.pgkeep(&["backup", "tenant", "2"]).ok();
    cluster.psql(&database, "UPDATE t_2.notes SET note = 'changed' WHERE id = 1; DELETE FROM t_2.notes WHERE id = 2; DELETE FROM t_2.only_numbers WHERE id = 1");
    place.pgkeep(&TAKE).ok();
    let notes = "SELECT string_agg(id || ' ' || number || ' ' || note, ', ' ORDER BY id) FROM t_2.notes";
    assert_eq!(cluster.psql(&database, notes), "1 1 one, 2 2 two, 3 3 three");
    assert_eq!(cluster.psql(&database, "SELECT count(*) FROM t_2.only_numbers"), "2");
    // Where the numbers themselves differ, nobody can change them: that is said, and nothing is done.
    cluster.psql(&database, "UPDATE t_2.notes SET number = DEFAULT, note = 'changed' WHERE id = 1");
    let now = cluster.psql(&database, notes);
    let refused = place.pgkeep(&TAKE).fails_with(5);
    assert!(refused.stderr.contains("1 of its rows had another value in number"), "{}", refused.stderr);
    assert_eq!(cluster.psql(&database, notes), now);
    place.pgkeep(&MERGE).ok();
    assert_eq!(cluster.psql(&database, notes), now);
}

#[test]
fn who_writes_only_a_temporary_table_makes_nothing_that_hangs_on_the_schema() {
    let (place, database) = in_schemas();
    let cluster = cluster();
    place.pgkeep(&["backup", "tenant", "1"]).ok();
    cluster.psql(&database, "UPDATE t_1.users SET mood = 'good'");
    let mut reader = Session::of(cluster, &database);
    reader.say("CREATE TEMP TABLE own (id int);\n");
    reader.begin(cluster, &database, "BEGIN; TRUNCATE own; INSERT INTO own SELECT id FROM t_1.users");
    place.pgkeep(&["restore", "--tenant", "1", "--yes"]).ok();
    reader.end("COMMIT");
    assert_eq!(cluster.psql(&database, "SELECT count(*) FROM t_1.users WHERE mood = 'good'"), "0");
}
