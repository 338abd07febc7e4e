//! What others do while a tenant's schema is being merged into or replaced: no foreign key may be left open, and nothing may go
//! on reading a schema that is not in use any more.

use crate::support::faults::{Gate, assert_no_survivors, last_restore, leftovers, stopped_at, wait_for};
use crate::support::{Cluster, Place, Running, cluster};
use crate::tenants_modes::{in_databases, in_schemas};

/// Nobody needs it, and `pg_dump` passes it by.
const GATE: &str = "information_schema.sql_sizing";

/// Lets a session stop at the gate when it has run a command with this tag for the `time`th time.
fn stops_at(cluster: &Cluster, database: &str, tag: &str, time: u32) {
    cluster.psql(
        database,
        &format!(
            "CREATE SEQUENCE shared.times;
             CREATE FUNCTION shared.stop() RETURNS event_trigger LANGUAGE plpgsql AS $f$ BEGIN
               IF nextval('shared.times') = {time} THEN PERFORM FROM {GATE}; END IF; END $f$;
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
        let gate = Gate::shut_at(cluster, &database, GATE);
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
    let gate = Gate::shut_at(cluster, &database, GATE);
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
        let gate = Gate::shut_at(cluster, &database, GATE);
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

fn beginning(cluster: &Cluster, prefix: &str) -> Vec<String> {
    cluster.databases().into_iter().filter(|name| name.starts_with(prefix)).collect()
}

/// What a merge is to bring back: two users with two rows each, five events; and what is newer or changed since.
const WRECK: &str = "DELETE FROM app.\"odd \"\"; name\" WHERE user_id < 4; DELETE FROM app.users WHERE id < 3; DELETE FROM app.events WHERE id > 15;
    UPDATE app.users SET email = 'changed', mood = 'good' WHERE id = 7; INSERT INTO app.users (id, email) VALUES (99, 'newer');
    DROP TABLE IF EXISTS app.newer; CREATE TABLE app.newer (id int); ALTER TABLE app.users ADD COLUMN IF NOT EXISTS since int DEFAULT 5";

#[test]
fn a_merge_into_a_database_adds_what_is_missing_and_keeps_or_takes_what_differs() {
    let (place, prefix) = in_databases();
    let cluster = cluster();
    let [a, b] = ["a", "b"].map(|tenant| format!("{prefix}{tenant}"));
    cluster.psql(&b, "CREATE TABLE app.gone (id int); INSERT INTO app.gone VALUES (1); CREATE TABLE shared.counts (id serial PRIMARY KEY, n interval, f float8); INSERT INTO shared.counts (n, f) VALUES ('1 mon 2 days', 0.1)");
    place.pgkeep(&["backup", "tenant", "b"]).ok();
    cluster.psql(&b, WRECK);
    let wrecked = cluster.dump(&b);
    let other = cluster.dump(&a);
    let merge = ["restore", "--tenant", "b", "--mode", "merge", "--yes"];
    let take = [&merge[..], &["--on-conflict", "take"]].concat();
    // A table with rows for which there is no place any more.
    cluster.psql(&b, "ALTER TABLE app.gone RENAME TO other");
    let refused = place.pgkeep(&merge).fails_with(5);
    assert!(refused.stderr.contains("app.gone: it is not there now"), "{}", refused.stderr);
    cluster.psql(&b, "ALTER TABLE app.other RENAME TO gone");
    let plan = place.pgkeep(&["restore", "--tenant", "b", "--mode", "merge", "--dry-run"]).ok().stdout;
    assert!(plan.contains("nothing was done") && plan.contains("what is missing is added"), "{plan}");
    assert_eq!(cluster.dump(&b), wrecked);
    let merged = place.pgkeep(&[&["--output", "json"], &merge[..]].concat()).ok().json();
    let count = |sql: &str| cluster.psql(&b, sql);
    assert_eq!(merged["tenants"][0]["applied"]["written"], 11, "{merged}");
    let users = "SELECT count(*), count(*) FILTER (WHERE email = 'changed'), min(since) FROM app.users";
    assert_eq!(count(users), "21|1|5");
    assert_eq!(
        count("SELECT string_agg(n::text, ',' ORDER BY n) FROM app.counted"),
        "0,1",
        "no trigger fires"
    );
    place.pgkeep(&take).ok();
    assert_eq!(count(users), "21|0|5");
    assert_eq!(count("SELECT n, f FROM shared.counts"), "1 mon 2 days|0.1");
    assert_eq!(cluster.dump(&a), other);
    assert_eq!(beginning(cluster, &prefix).len(), 3, "nothing is left beside them");
    assert_eq!(place.files("state/scratch"), [""; 0]);
    // The backup that was made before undoes the first merge.
    let undo = merged["tenants"][0]["undo"].as_str().expect("an undo").to_owned();
    place.pgkeep(&["restore", &undo, "--tenant", "b", "--mode", "full", "--yes", "--drop-old"]).ok();
    assert_eq!(cluster.dump(&b), wrecked);
    // What can't be added is named, and nothing is.
    cluster.psql(&b, "UPDATE app.users SET email = E'u\\t1\\n\\\\.' WHERE id = 8");
    let now = cluster.dump(&b);
    let refused = place.pgkeep(&merge).fails_with(5);
    assert!(refused.stderr.contains("has a key that another has now"), "{}", refused.stderr);
    assert_eq!(cluster.dump(&b), now);
    let log = place.catalog("SELECT restore_mode, state, target_database FROM restore_log WHERE tenant_ids IS NOT NULL ORDER BY id DESC");
    assert!(log.contains(&vec!["merge".to_owned(), "refused".to_owned(), b.clone()]), "{log:?}");
    // One that is gone is made.
    cluster.psql("postgres", &format!("DROP DATABASE \"{b}\""));
    place.pgkeep(&[&["restore", &undo], &merge[1..]].concat()).ok();
    assert_eq!(cluster.dump(&b), wrecked);
}

#[test]
fn a_merge_into_a_database_that_is_cut_off_leaves_all_of_it_or_nothing() {
    let (place, prefix) = in_databases();
    let cluster = cluster();
    let b = format!("{prefix}b");
    place.pgkeep(&["backup", "tenant", "b"]).ok();
    let merge = ["restore", "--tenant", "b", "--mode", "merge", "--yes"];
    for step in ["RestoreCreated", "RestoreLoaded", "TenantWritten", "TenantCommitted"] {
        cluster.psql(&b, "DELETE FROM app.events WHERE id > 15");
        let run = stopped_at(&place, &merge, step, "kill");
        assert_eq!(run.code, 137, "{step}: {}", run.stderr);
        assert_no_survivors(&place);
        let next = place.pgkeep(&["verify"]).ok();
        assert_eq!(leftovers(&place), [""; 0], "{step}: {}", next.stderr);
        let expected = if step == "TenantCommitted" { "20" } else { "15" };
        assert_eq!(cluster.psql(&b, "SELECT count(*) FROM app.events"), expected, "{step}");
        assert_eq!(beginning(cluster, &prefix).len(), 3, "{step}");
    }
    place.pgkeep(&merge).ok();
    assert_eq!(cluster.psql(&b, "SELECT count(*) FROM app.events"), "20");
}

#[test]
fn what_rows_that_are_merged_into_a_database_refer_to_cannot_be_deleted_before_they_are_there() {
    let (place, prefix) = in_databases();
    let cluster = cluster();
    let b = format!("{prefix}b");
    place.pgkeep(&["backup", "tenant", "b"]).ok();
    cluster.psql(&b, "DELETE FROM app.\"odd \"\"; name\"");
    // Of each of five tables the rows lie in a temporary one, which then goes: first it is tried out, then done.
    stops_at(cluster, &b, "DROP TABLE", 10);
    let gate = Gate::shut_at(cluster, &b, GATE);
    let merging = place.start(&[], &["restore", "--tenant", "b", "--mode", "merge", "--yes"]);
    gate.wait_for_somebody();
    cluster.psql(&b, "SET lock_timeout = '1s'; SELECT count(*) FROM app.users");
    let deletes = "DELETE FROM app.users WHERE id = 5";
    let mut deleting = session(cluster, &b, deletes);
    ended_or_waiting(cluster, &mut deleting, deletes);
    gate.open();
    merging.wait().ok();
    let deleted = deleting.wait();
    assert!(deleted.stderr.contains("violates foreign key constraint"), "{}", deleted.stderr);
    let open = "SELECT count(*) FROM app.\"odd \"\"; name\" o WHERE NOT EXISTS (SELECT FROM app.users u WHERE u.id = o.user_id)";
    assert_eq!(cluster.psql(&b, open), "0");
}
