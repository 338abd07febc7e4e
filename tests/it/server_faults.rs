//! PostgreSQL and its programs in every sort of trouble: a clear error, no trace of a backup, and the next one works.

use std::path::PathBuf;

use regex::Regex;
use rustix::process::{Pid, Signal, kill_process};

use crate::support::faults::{
    Gate, assert_no_survivors, assert_no_trace, contents, dump_of, fresh_large, last_restore, last_run,
    leftovers, listed, wait_for,
};
use crate::support::{Cluster, Place, Run, cluster, set_mode, unique};

/// The backup failed for this reason and left nothing; the message becomes a snapshot.
#[track_caller]
fn failed(place: &Place, run: Run, code: i32) -> String {
    let run = run.fails_with(code);
    assert_no_survivors(place);
    assert_no_trace(place, "failed", code);
    Regex::new(r"/bin\d+\b").unwrap().replace_all(&run.message(), "/[BIN]").into_owned()
}

/// A directory with programs: links to the real ones, but for `name`, which is this script of bash. In it `real` is
/// the directory of the real ones.
fn programs(place: &Place, name: &str, script: &str) -> PathBuf {
    let directory = place.path(&format!("bin{}", unique()));
    std::fs::create_dir(&directory).expect("make a directory for programs");
    set_mode(&directory, 0o755);
    let real = &cluster().bindir;
    for program in ["pg_dump", "pg_restore"] {
        if program != name {
            std::os::unix::fs::symlink(real.join(program), directory.join(program)).expect("link a program");
        }
    }
    let script = format!("#!/bin/bash\nreal={}\n{script}\n", real.display());
    std::fs::write(directory.join(name), script).expect("write a program");
    set_mode(&directory.join(name), 0o755);
    place.set("BACKUP_PG_BINDIR", &directory.display().to_string());
    directory
}

/// A `pg_dump` that dumps elsewhere first, so that what happens to the files then is seen as its own work: `$dump` is
/// where they are, `$target` where they belong.
const DUMP_ELSEWHERE: &str = r#"
[[ $* == *--file=* ]] || exec "$real/pg_dump" "$@"
arguments=()
for argument; do
    case $argument in
    --file=*) target=${argument#--file=} dump=$target.elsewhere; arguments+=("--file=$dump") ;;
    *) arguments+=("$argument") ;;
    esac
done
"$real/pg_dump" "${arguments[@]}" || exit
"#;

#[test]
fn a_server_that_is_down_is_said_to_be() {
    let own = Cluster::own(&[]);
    let database = own.fresh_shop();
    let place = Place::on(&own);
    place.init();
    own.stop();
    let run = place.pgkeep(&["backup", "database", &database]);
    insta::assert_snapshot!(failed(&place, run, 30));
    // What is stored can be looked at all the same.
    place.pgkeep(&["verify"]).ok();
    own.start_again();
    place.backup(&database);
}

#[test]
fn a_wrong_password_is_said_to_be_and_not_shown() {
    let cluster = cluster();
    let role = format!("scram_{}", unique());
    cluster.psql(
        "postgres",
        &format!("CREATE ROLE {role} SUPERUSER LOGIN PASSWORD 'right' IN ROLE with_password"),
    );
    let place = Place::ready();
    place.set("PGUSER", &role);
    place.set("PGPASSWORD", "not-the-right-one");
    let run = place.pgkeep(&["backup", "database", "postgres"]);
    assert!(!run.stderr.contains("not-the-right-one") && !run.stdout.contains("not-the-right-one"));
    insta::assert_snapshot!("wrong", failed(&place, run, 30).replace(&role, "[ROLE]"));
    place.unset("PGPASSWORD");
    let run = place.pgkeep(&["backup", "database", "postgres"]);
    insta::assert_snapshot!("none", failed(&place, run, 30).replace(&role, "[ROLE]"));
    place.set("PGPASSWORD", "right");
    place.backup("postgres");
}

#[test]
fn a_database_that_does_not_exist_is_named() {
    let place = Place::ready();
    let run = place.pgkeep(&["backup", "database", "no such database"]);
    insta::assert_snapshot!(failed(&place, run, 30));
}

#[test]
fn a_table_that_the_user_may_not_read_is_named() {
    let cluster = cluster();
    let database = cluster.fresh_shop();
    let role = format!("reader_{}", unique());
    cluster.psql(
        &database,
        &format!("CREATE ROLE {role} LOGIN; GRANT SELECT ON tenants, items TO {role}; GRANT SELECT ON SEQUENCE items_id_seq TO {role}"),
    );
    let place = Place::ready();
    place.set("PGUSER", &role);
    let run = place.pgkeep(&["backup", "database", &database]);
    let message = failed(&place, run, 30);
    assert!(message.contains("orders"), "{message}");
    insta::assert_snapshot!(message);
    cluster.psql(&database, &format!("GRANT SELECT ON orders TO {role}"));
    place.backup(&database);
}

#[test]
fn a_large_object_that_the_user_may_not_read_is_named_with_what_helps() {
    let cluster = cluster();
    let database = cluster.fresh_database();
    let role = format!("reader_{}", unique());
    cluster.psql(&database, &format!("CREATE ROLE {role} LOGIN; GRANT pg_read_all_data TO {role}"));
    let object = cluster.psql(&database, "SELECT lo_from_bytea(0, 'abc')");
    let place = Place::ready();
    place.set("PGUSER", &role);
    let message = failed(&place, place.pgkeep(&["backup", "database", &database]), 30);
    assert!(message.contains(&format!("permission denied for large object {object}")), "{message}");
    assert!(message.contains("(pg_read_all_data) is none to read large objects"), "{message}");
    cluster.psql(&database, &format!("GRANT SELECT ON LARGE OBJECT {object} TO {role}"));
    place.backup(&database);
}

#[test]
fn rows_that_a_policy_hides_are_never_left_out_in_silence() {
    let cluster = cluster();
    let database = cluster.fresh_shop();
    let role = format!("limited_{}", unique());
    cluster.psql(
        &database,
        &format!(
            "CREATE ROLE {role} LOGIN; GRANT pg_read_all_data TO {role}; ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
             CREATE POLICY some_rows ON orders USING (tenant_id = 1)"
        ),
    );
    let place = Place::ready();
    place.set("PGUSER", &role);
    let run = place.pgkeep(&["backup", "database", &database]);
    let message = failed(&place, run, 30);
    assert!(message.contains("orders"), "{message}");
    insta::assert_snapshot!(message);
    cluster.psql("postgres", &format!("ALTER ROLE {role} BYPASSRLS"));
    place.backup(&database);
}

#[test]
fn a_missing_pg_dump_is_missed_before_anything_is_read() {
    let place = Place::ready();
    let empty = place.path("empty");
    std::fs::create_dir(&empty).unwrap();
    place.set("BACKUP_PG_BINDIR", &empty.display().to_string());
    let run = place.pgkeep(&["backup", "database", "postgres"]);
    let major = cluster().bindir.parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
    insta::assert_snapshot!(failed(&place, run, 30).replace(&major, "[MAJOR]"));
    place.unset("BACKUP_PG_BINDIR");
    place.backup("postgres");
}

#[test]
fn a_pg_dump_older_than_the_server_is_refused() {
    let place = Place::ready();
    programs(&place, "pg_dump", "echo 'pg_dump (PostgreSQL) 12.4'");
    let run = place.pgkeep(&["backup", "database", "postgres"]);
    let major = cluster().bindir.parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
    insta::assert_snapshot!(failed(&place, run, 30).replace(&major, "[MAJOR]"));
}

#[test]
fn a_pg_dump_that_is_killed_while_it_waits_leaves_nothing() {
    let cluster = cluster();
    let database = cluster.fresh_shop();
    let place = Place::ready();
    let gate = Gate::shut(cluster, &database);
    let mut running = place.start(&[], &["backup", "database", &database]);
    let dump = gate.reached_by(&mut running);
    kill_process(Pid::from_raw(dump.pid).unwrap(), Signal::KILL).unwrap();
    insta::assert_snapshot!(failed(&place, running.wait(), 30));
    gate.open();
    place.backup(&database);
}

#[test]
fn a_pg_dump_that_is_killed_in_the_middle_of_the_rows_leaves_nothing() {
    let database = fresh_large(cluster());
    let place = Place::ready();
    place.set("BACKUP_VOLUME_SIZE", "1M");
    let script = format!(
        "{DUMP_ELSEWHERE}\nmkdir -p \"$target\"\nlargest=$(ls -S \"$dump\" | head -n 1)\n\
         head -c 9000000 \"$dump/$largest\" >\"$target/$largest\"\nwhile true; do sleep 1; done"
    );
    programs(&place, "pg_dump", &script);
    let mut running = place.start(&[], &["backup", "database", &database]);
    let dump = dump_of(&mut running);
    // Frames are sealed and volumes stored when it dies.
    wait_for("a volume", || {
        place.backups().first().filter(|backup| backup.join("data.00000").exists()).cloned()
    });
    kill_process(Pid::from_raw(dump.pid).unwrap(), Signal::KILL).unwrap();
    insta::assert_snapshot!(failed(&place, running.wait(), 30));
    place.unset("BACKUP_PG_BINDIR");
    place.backup(&database);
}

#[test]
fn rows_that_are_cut_short_are_found_although_pg_dump_reports_success() {
    let database = fresh_large(cluster());
    let place = Place::ready();
    for (name, damage) in [
        (
            "cut_at_a_row",
            "head -n -30 \"$dump/$largest\" >\"$dump/cut\" && mv \"$dump/cut\" \"$dump/$largest\"",
        ),
        ("cut_within_a_row", "truncate -s -1000 \"$dump/$largest\""),
        ("empty", "truncate -s 0 \"$dump/$largest\""),
        ("not_there", "rm \"$dump/$largest\""),
        ("no_contents", "rm \"$dump/toc.dat\""),
        ("contents_cut", "truncate -s -100 \"$dump/toc.dat\""),
    ] {
        let script = format!(
            "{DUMP_ELSEWHERE}\nlargest=$(ls -S \"$dump\" | head -n 1)\n{damage}\nmkdir -p \"$target\"\n\
             cp \"$dump\"/* \"$target\"\nexit 0"
        );
        programs(&place, "pg_dump", &script);
        let run = place.pgkeep(&["backup", "database", &database]);
        insta::assert_snapshot!(name, failed(&place, run, 30));
    }
    place.unset("BACKUP_PG_BINDIR");
    place.backup(&database);
}

#[test]
fn a_lost_connection_ends_the_backup() {
    let cluster = cluster();
    let database = cluster.fresh_shop();
    let place = Place::ready();
    let gate = Gate::shut(cluster, &database);
    let mut running = place.start(&[], &["backup", "database", &database]);
    gate.reached_by(&mut running);
    // The one that holds the snapshot is the one that is idle; pg_dump's own waits at the gate.
    let holder = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
          WHERE datname = '{database}' AND application_name = 'pgkeep' AND state = 'idle in transaction'"
    );
    assert_eq!(cluster.psql("postgres", &holder), "t");
    insta::assert_snapshot!(failed(&place, running.wait(), 30));
    gate.open();
    place.backup(&database);
}

#[test]
fn a_server_that_stops_in_the_middle_of_a_dump_ends_the_backup() {
    let own = Cluster::own(&[]);
    let database = own.fresh_shop();
    let place = Place::on(&own);
    place.init();
    let gate = Gate::shut(&own, &database);
    let mut running = place.start(&[], &["backup", "database", &database]);
    gate.reached_by(&mut running);
    own.stop();
    // Who notices first, pgkeep or its pg_dump, is chance.
    let message = failed(&place, running.wait(), 30);
    assert!(message.contains("hint: "), "{message}");
    drop(gate);
    own.start_again();
    place.backup(&database);
    assert_eq!(leftovers(&place), [""; 0]);
}

#[test]
fn a_server_that_restarts_during_a_restore_leaves_the_database_in_use_alone() {
    let own = Cluster::own(&[]);
    let database = fresh_large(&own);
    let place = Place::on(&own);
    place.init();
    place.backup(&database);
    let before = contents(&own, &database);
    let script = "[[ $* == *--exit-on-error* ]] || exec \"$real/pg_restore\" \"$@\"\n\
                  touch \"$HOME/begun\"\nwhile ! [[ -e $HOME/go ]]; do sleep 0.05; done\nexec \"$real/pg_restore\" \"$@\"";
    programs(&place, "pg_restore", script);
    let running = place.start(&[], &["restore", "latest", "--yes"]);
    wait_for("pg_restore", || place.path("begun").exists().then_some(()));
    own.stop();
    own.start_again();
    place.put("go", b"");
    let run = running.wait().fails_with(30);
    insta::assert_snapshot!(run.message());
    assert_no_survivors(&place);
    assert_eq!(contents(&own, &database), before);
    assert_eq!(own.databases_like(&database), [&*database], "the staging database is gone");
    assert_eq!(last_restore(&place).0, "failed");
    assert_eq!(last_run(&place, "restore").0, "failed");
    place.unset("BACKUP_PG_BINDIR");
    place.pgkeep(&["restore", "latest", "--yes", "--drop-old"]).ok();
    assert_eq!(contents(&own, &database), before);
    assert_eq!(listed(&place).len(), 1);
}

#[test]
fn a_pg_restore_that_fails_leaves_the_database_in_use_alone() {
    let cluster = cluster();
    let database = fresh_large(cluster);
    let place = Place::ready();
    place.backup(&database);
    let before = contents(cluster, &database);
    let script = "[[ $* == *--exit-on-error* ]] || exec \"$real/pg_restore\" \"$@\"\n\
                  echo 'pg_restore: error: could not execute query: ERROR:  out of shared memory' >&2; exit 1";
    programs(&place, "pg_restore", script);
    insta::assert_snapshot!(place.pgkeep(&["restore", "latest", "--yes"]).fails_with(30).message());
    assert_eq!(contents(cluster, &database), before);
    assert_eq!(cluster.databases_like(&database), [&*database]);
    // One that leaves out rows and says nothing of it is found out by counting them.
    let script = "[[ $* == *--exit-on-error* ]] || exec \"$real/pg_restore\" \"$@\"\n\
                  exec \"$real/pg_restore\" --schema-only \"$@\"";
    programs(&place, "pg_restore", script);
    insta::assert_snapshot!(
        "without_rows",
        place.pgkeep(&["restore", "latest", "--yes"]).fails_with(4).message()
    );
    assert_eq!(contents(cluster, &database), before);
    assert_eq!(cluster.databases_like(&database), [&*database]);
    assert_eq!(leftovers(&place), [""; 0]);
}
