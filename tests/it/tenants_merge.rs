//! What others do while a tenant's schema is being merged into or replaced: no foreign key may be left open, and nothing may go
//! on reading a schema that is not in use any more.

use crate::support::faults::{Gate, last_restore, wait_for};
use crate::support::{Cluster, Place, Running, cluster};
use crate::tenants_modes::in_schemas;

/// Lets a session stop at the gate `shared.gate` when it has run a command with this tag for the `time`th time.
fn stops_at(cluster: &Cluster, database: &str, tag: &str, time: u32) {
    cluster.psql(
        database,
        &format!(
            "CREATE VIEW shared.gate AS SELECT 1 AS one; CREATE SEQUENCE shared.times;
             CREATE FUNCTION shared.stop() RETURNS event_trigger LANGUAGE plpgsql AS $f$ BEGIN
               IF nextval('shared.times') = {time} THEN PERFORM FROM shared.gate; END IF; END $f$;
             CREATE EVENT TRIGGER stop ON ddl_command_end WHEN TAG IN ('{tag}') EXECUTE FUNCTION shared.stop();
             ALTER EVENT TRIGGER stop ENABLE ALWAYS"
        ),
    );
}

/// A session that runs this and ends.
fn session(cluster: &Cluster, database: &str, sql: &str) -> Running {
    let mut psql = cluster.client("psql");
    Running::start(psql.env("PGDATABASE", database).args(["-Xq", "-v", "ON_ERROR_STOP=1", "-c", sql]))
}

/// Waits until the session has ended, or waits for another one.
fn ended_or_waiting(cluster: &Cluster, session: &mut Running, sql: &str) {
    let waiting = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE query = $q${sql}$q$ AND wait_event_type = 'Lock'"
    );
    wait_for("a session", || {
        (!session.is_running() || cluster.psql("postgres", &waiting) == "1").then_some(())
    });
}

const MERGE: [&str; 6] = ["restore", "--tenant", "2", "--mode", "merge", "--yes"];

/// Rows that refer to others that are not there.
fn orphans(cluster: &Cluster, database: &str) -> String {
    cluster.psql(
        database,
        "SELECT (SELECT count(*) FROM t_2.users u WHERE plan IS NOT NULL AND NOT EXISTS (SELECT FROM shared.plans p WHERE p.id = u.plan)), \
         (SELECT count(*) FROM t_2.\"odd \"\"; name\" o WHERE user_id IS NOT NULL AND NOT EXISTS (SELECT FROM t_2.users u WHERE u.id = o.user_id))",
    )
}

#[test]
fn what_merged_rows_refer_to_cannot_be_deleted_before_they_are_there() {
    for deletes in ["DELETE FROM shared.plans", "DELETE FROM t_2.users WHERE id = 5"] {
        let (place, database) = in_schemas();
        let cluster = cluster();
        place.pgkeep(&["backup", "tenant", "2"]).ok();
        // The only rows that refer to what is going to be deleted are those that the merge adds.
        cluster.psql(
            &database,
            "UPDATE t_1.users SET plan = NULL; UPDATE t_3.users SET plan = NULL; UPDATE t_2.users SET plan = NULL;
             DELETE FROM t_2.\"odd \"\"; name\"; DELETE FROM t_2.users WHERE id < 3",
        );
        // First it is tried out, then done: at the end of that the schema beside goes, and all is checked.
        stops_at(cluster, &database, "DROP SCHEMA", 2);
        let gate = Gate::shut_at(cluster, &database, "shared.gate");
        let merging = place.start(&[], &MERGE);
        gate.wait_for_somebody();
        // Others read it, and write what is theirs.
        let quickly =
            "SET lock_timeout = '1s'; SELECT count(*) FROM t_2.users; INSERT INTO t_1.counted VALUES (1);
                       INSERT INTO shared.plans VALUES (2); UPDATE shared.plans SET id = 2 WHERE id = 2";
        cluster.psql(&database, quickly);
        let mut deleting = session(cluster, &database, deletes);
        ended_or_waiting(cluster, &mut deleting, deletes);
        gate.open();
        merging.wait().ok();
        let deleted = deleting.wait();
        assert_eq!(orphans(cluster, &database), "0|0", "{deletes}: {}", deleted.stderr);
        assert!(deleted.stderr.contains("violates foreign key constraint"), "{}", deleted.stderr);
        assert_eq!(cluster.psql(&database, "SELECT count(*) FROM t_2.users WHERE plan = 1"), "2");
    }
}

#[test]
fn rows_of_other_schemas_that_refer_to_a_key_are_not_left_alone_when_the_key_changes() {
    let (place, database) = in_schemas();
    let cluster = cluster();
    place.pgkeep(&["backup", "tenant", "2"]).ok();
    cluster.psql(
        &database,
        "UPDATE t_2.users SET email = 'changed' WHERE id = 7;
         CREATE TABLE shared.logins (email text REFERENCES t_2.users (email), day date) PARTITION BY RANGE (day);
         CREATE TABLE shared.logins_now PARTITION OF shared.logins DEFAULT;
         INSERT INTO shared.logins VALUES ('changed', '2026-01-01')",
    );
    let take = [&MERGE[..], &["--on-conflict", "take"]].concat();
    let refused = place.pgkeep(&take).fails_with(5);
    assert!(refused.stderr.contains("logins_email_fkey of shared.logins: 1"), "{}", refused.stderr);
    assert_eq!(cluster.psql(&database, "SELECT count(*) FROM t_2.users WHERE email = 'changed'"), "1");
    // What differs is kept: nothing is torn.
    place.pgkeep(&MERGE).ok();
    // Of a partition alone, too.
    cluster.psql(
        &database,
        "DELETE FROM shared.logins; ALTER TABLE shared.logins DROP CONSTRAINT logins_email_fkey;
         ALTER TABLE shared.logins_now ADD FOREIGN KEY (email) REFERENCES t_2.users (email);
         INSERT INTO shared.logins VALUES ('changed', '2026-01-01')",
    );
    let refused = place.pgkeep(&take).fails_with(5);
    assert!(refused.stderr.contains("of shared.logins_now: 1"), "{}", refused.stderr);
    cluster.psql(&database, "DELETE FROM shared.logins");
    place.pgkeep(&take).ok();
    assert_eq!(cluster.psql(&database, "SELECT count(*) FROM t_2.users WHERE email = 'changed'"), "0");
}

#[test]
fn a_merge_waits_for_who_writes_the_schema_and_sees_what_he_has_written() {
    let (place, database) = in_schemas();
    let cluster = cluster();
    // Some look at everything as it was when their transaction began.
    cluster.psql(
        "postgres",
        &format!("ALTER DATABASE \"{database}\" SET default_transaction_isolation = 'repeatable read'"),
    );
    place.pgkeep(&["backup", "tenant", "2"]).ok();
    cluster.psql(&database, "DELETE FROM t_2.events WHERE id > 15; DELETE FROM t_2.\"odd \"\"; name\"; DELETE FROM t_2.users WHERE id = 9");
    stops_at(cluster, &database, "DROP SCHEMA", 1);
    let gate = Gate::shut_at(cluster, &database, "shared.gate");
    let merging = place.start(&[], &MERGE);
    gate.wait_for_somebody();
    let mut psql = cluster.client("psql");
    psql.env("PGDATABASE", &database).stdin(std::process::Stdio::piped());
    let mut writer = psql.args(["-Xq"]).spawn().unwrap();
    let mut say =
        |sql: &str| std::io::Write::write_all(writer.stdin.as_mut().unwrap(), sql.as_bytes()).unwrap();
    // The row of the first user goes, to whom a row refers that is going to be added.
    say("BEGIN; DELETE FROM t_2.users WHERE id = 1;\n");
    let deleted = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'DELETE FROM t_2.users WHERE id = 1%' AND state = 'idle in transaction'";
    wait_for("the writer", || (cluster.psql("postgres", deleted) != "0").then_some(()));
    gate.open();
    let waiting = format!(
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'ShareRowExclusiveLock' \
         AND database = (SELECT oid FROM pg_database WHERE datname = '{database}')"
    );
    wait_for("the merge", || (cluster.psql("postgres", &waiting) == "1").then_some(()));
    say("COMMIT;\n\\q\n");
    writer.wait().unwrap();
    merging.wait().ok();
    assert_eq!(orphans(cluster, &database), "0|0");
    // The row that went has come back with the others.
    assert_eq!(cluster.psql(&database, "SELECT count(*) FROM t_2.users"), "20");
}

#[test]
fn rows_that_a_deferrable_key_would_have_to_check_are_not_added() {
    let (place, database) = in_schemas();
    let cluster = cluster();
    cluster.psql(&database, "CREATE TABLE t_2.seats (id int PRIMARY KEY, seat int UNIQUE DEFERRABLE); INSERT INTO t_2.seats VALUES (1, 1)");
    place.pgkeep(&["backup", "tenant", "2"]).ok();
    place.pgkeep(&MERGE).ok();
    cluster.psql(&database, "UPDATE t_2.seats SET id = 2");
    let refused = place.pgkeep(&MERGE).fails_with(5);
    assert!(refused.stderr.contains("seats_seat_key is deferrable"), "{}", refused.stderr);
    assert_eq!(cluster.psql(&database, "SELECT count(*) FROM t_2.seats"), "1");
}

fn backed_up() -> (Place, String) {
    let (place, database) = in_schemas();
    place.pgkeep(&["backup", "tenant", "1"]).ok();
    cluster().psql(&database, "UPDATE t_1.users SET mood = 'good'");
    (place, database)
}

fn good(cluster: &Cluster, database: &str) -> String {
    cluster.psql(database, "SELECT count(*) FROM t_1.users WHERE mood = 'good'")
}

#[test]
fn a_view_that_is_made_while_a_schema_is_being_replaced_is_noticed() {
    let (place, database) = backed_up();
    let cluster = cluster();
    stops_at(cluster, &database, "CREATE TRIGGER", 1);
    for (sql, what) in [
        ("CREATE VIEW shared.late AS SELECT email FROM t_1.users", "view shared.late"),
        (
            "CREATE FUNCTION shared.late() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM t_1.users; END",
            "function shared.late()",
        ),
        ("CREATE TABLE shared.late (u int REFERENCES t_1.users)", "late_u_fkey on table shared.late"),
    ] {
        cluster.psql(&database, "SELECT setval('shared.times', 1, false)");
        let gate = Gate::shut_at(cluster, &database, "shared.gate");
        let restoring = place.start(&[], &["restore", "--tenant", "1", "--yes"]);
        gate.wait_for_somebody();
        cluster.psql(&database, sql);
        gate.open();
        let refused = restoring.wait().fails_with(5);
        assert!(refused.stderr.contains(what), "{}", refused.stderr);
        assert_eq!(last_restore(&place).0, "refused");
        assert_eq!(good(cluster, &database), "10", "{what}: nothing was replaced");
        let kind = sql.split(' ').nth(1).unwrap();
        cluster.psql(&database, &format!("DROP {kind} shared.late"));
    }
    place.pgkeep(&["restore", "--tenant", "1", "--yes"]).ok();
    assert_eq!(good(cluster, &database), "0");
}

#[test]
fn who_is_in_the_middle_of_making_a_view_is_waited_for_and_a_function_that_came_too_late_is_named() {
    let (place, database) = backed_up();
    let cluster = cluster();
    let mut psql = cluster.client("psql");
    psql.env("PGDATABASE", &database).stdin(std::process::Stdio::piped());
    let mut maker = psql.args(["-Xq"]).spawn().unwrap();
    let mut say =
        |sql: &str| std::io::Write::write_all(maker.stdin.as_mut().unwrap(), sql.as_bytes()).unwrap();
    let open = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND state = 'idle in transaction'"
    );
    let is_open = || wait_for("a transaction", || (cluster.psql("postgres", &open) == "1").then_some(()));
    say("BEGIN; CREATE VIEW shared.late AS SELECT email FROM t_1.users;\n");
    is_open();
    let refused = place.pgkeep(&["restore", "--tenant", "1", "--yes"]).fails_with(5);
    assert!(refused.stderr.contains("in a transaction that is open: process"), "{}", refused.stderr);
    assert_eq!(good(cluster, &database), "10");
    // A new function holds nothing by which it could be known.
    say(
        "ROLLBACK; BEGIN; CREATE FUNCTION shared.late() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM t_1.users; END;\n",
    );
    wait_for("the function", || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%shared.late() RETURNS%' AND state = 'idle in transaction'";
        (cluster.psql("postgres", sql) == "1").then_some(())
    });
    let restoring = place.start(&[], &["restore", "--tenant", "1", "--yes", "--drop-old"]);
    wait_for("the restored schema", || (good(cluster, &database) == "0").then_some(()));
    say("COMMIT;\n\\q\n");
    maker.wait().unwrap();
    let restored = restoring.wait().fails_with(3);
    assert!(restored.stdout.contains("function shared.late()"), "{}", restored.stdout);
    // It is not dropped with what it reads.
    assert_eq!(cluster.psql(&database, "SELECT shared.late()"), "10");
}
