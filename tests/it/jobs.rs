//! Jobs that wait for their time, and runs that wait for their turn.

use std::time::Instant;

use chrono::{SecondsFormat, TimeDelta, Utc};
use rustix::process::Signal;

use crate::support::dialog::{Dialog, ENTER};
use crate::support::faults::{Gate, databases_beginning, fresh_large, wait_for};
use crate::support::{Place, Running, cluster, give, ordinary, pgkeep_binary, run, set_mode};

/// So many seconds from now, as `--at` takes it.
fn in_seconds(seconds: i64) -> String {
    (Utc::now() + TimeDelta::seconds(seconds)).to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Lets the time of all jobs come.
fn time_comes(place: &Place, at: &str) {
    place.catalog(&format!("UPDATE jobs SET scheduled_for = '{at}' WHERE state = 'waiting' RETURNING 1"));
}

fn jobs(place: &Place) -> Vec<Vec<String>> {
    place.catalog("SELECT command, priority, state, exit_code FROM jobs ORDER BY id")
}

/// Begins a restore that goes on until the file `go` is there; it holds its database's turn meanwhile.
fn slow_restore(place: &Place, database: &str, to: &str) -> Running {
    let script = format!(
        "#!/bin/bash\nreal={}\n[[ $* == *--exit-on-error* ]] || exec \"$real/pg_restore\" \"$@\"\n\
         touch \"$HOME/begun\"\nwhile ! [[ -e $HOME/go ]]; do sleep 0.05; done\nexec \"$real/pg_restore\" \"$@\"\n",
        cluster().bindir.display()
    );
    let bin = place.path("bin");
    if !bin.exists() {
        std::fs::create_dir(&bin).unwrap();
        std::fs::write(bin.join("pg_restore"), script).unwrap();
        std::os::unix::fs::symlink(cluster().bindir.join("pg_dump"), bin.join("pg_dump")).unwrap();
        set_mode(&bin.join("pg_restore"), 0o755);
        set_mode(&bin, 0o755);
    }
    let slow = [("BACKUP_PG_BINDIR", bin.to_str().unwrap())];
    let arguments = ["restore", "latest", "--database", database, "--to-database", to, "--yes"];
    let running = place.start(&slow, &arguments);
    wait_for("pg_restore", || place.path("begun").exists().then_some(()));
    running
}

#[test]
fn req_6_14_and_6_25_a_job_runs_at_its_time_once() {
    let database = cluster().fresh_shop();
    let place = Place::ready();
    let said = place.pgkeep(&["backup", "database", &database, "--at", &in_seconds(3600)]).ok();
    assert!(said.stdout.starts_with("job 1: backup database at "), "{}", said.stdout);
    assert_eq!(place.pgkeep(&["run-due"]).ok().stdout, "nothing is due\n");
    let words = "SELECT arguments, env_file FROM jobs";
    let file = place.env_file().display().to_string();
    assert_eq!(place.catalog(words), [[format!("[\"backup\",\"database\",\"{database}\"]"), file]]);
    time_comes(&place, &in_seconds(0).replace('Z', ".000Z"));
    let ran = place.pgkeep(&["--output", "json", "run-due"]).ok().json();
    assert_eq!(ran["jobs"][0]["job"]["state"], "done");
    assert_eq!(jobs(&place), [["backup database", "7", "done", "0"]]);
    assert_eq!(place.backups().len(), 1);
    // The run's row says that it was the job, and the job which run it was.
    let joined = "SELECT count(*) FROM jobs JOIN runs ON runs.id = jobs.run_id AND runs.job_id = jobs.id";
    assert_eq!(place.catalog(joined), [["1"]]);
    assert_eq!(place.pgkeep(&["run-due"]).ok().stdout, "nothing is due\n");
    assert_eq!(place.backups().len(), 1);
}

#[test]
fn a_job_that_is_late_because_the_machine_was_off_runs_and_says_so() {
    let database = cluster().fresh_shop();
    let place = Place::ready();
    place.pgkeep(&["--at", &in_seconds(60), "backup", "database", &database]).ok();
    time_comes(&place, "2026-01-01T00:00:00.000Z");
    let ran = place.pgkeep(&["run-due"]).ok();
    assert!(ran.stderr.contains("job 1 (backup database): begun "), "{}", ran.stderr);
    assert!(place.catalog("SELECT message FROM jobs")[0][0].ends_with(" late"));
    assert_eq!(place.backups().len(), 1);
}

#[test]
fn two_run_due_at_once_run_each_job_once() {
    let database = cluster().fresh_shop();
    let place = Place::ready();
    for _ in 0..3 {
        place.pgkeep(&["backup", "database", &database, "--at", &in_seconds(60)]).ok();
    }
    time_comes(&place, &in_seconds(0).replace('Z', ".000Z"));
    let running: Vec<_> = (0..3).map(|_| place.start(&[], &["--output", "json", "run-due"])).collect();
    let ran: usize =
        running.into_iter().map(|it| it.wait().ok().json()["jobs"].as_array().unwrap().len()).sum();
    assert_eq!(ran, 3);
    assert_eq!(place.backups().len(), 3);
    assert!(jobs(&place).iter().all(|job| job[2] == "done"), "{:?}", jobs(&place));
}

#[test]
fn req_6_32_of_several_that_are_due_the_highest_priority_goes_first() {
    let database = cluster().fresh_shop();
    let place = Place::ready();
    place.backup(&database);
    let at = in_seconds(60);
    place.pgkeep(&["backup", "database", &database, "--at", &at]).ok();
    place.pgkeep(&["verify", "--at", &at]).ok();
    place.pgkeep(&["restore", "latest", "--to-database", "job_target", "--yes", "--at", &at]).ok();
    time_comes(&place, &in_seconds(0).replace('Z', ".000Z"));
    place.pgkeep(&["run-due"]).ok();
    let order =
        place.catalog("SELECT command, priority FROM runs WHERE job_id IS NOT NULL ORDER BY started_at");
    assert_eq!(order, [["restore", "9"], ["verify", "8"], ["backup database", "7"]]);
    cluster().psql("postgres", "DROP DATABASE job_target");
}

#[test]
fn a_job_that_was_killed_ends_as_died_and_the_next_run_due_goes_on() {
    let database = cluster().fresh_shop();
    let place = Place::ready();
    place.pgkeep(&["backup", "database", &database, "--at", &in_seconds(60)]).ok();
    let now = in_seconds(0).replace('Z', ".000Z");
    time_comes(&place, &now);
    // The variable reaches the job's process.
    let stop = [("PGKEEP_TEST_STOP", "BackupBegun:kill")];
    let ran = place.pgkeep_with(&stop, &["run-due"]).ended_with(3);
    assert!(ran.stderr.contains("job 1 (backup database) died: ended by signal 9"), "{}", ran.stderr);
    assert_eq!(jobs(&place), [["backup database", "7", "died", ""]]);
    assert_eq!(place.catalog("SELECT alert_type FROM alerts WHERE alert_type = 'backup-failed'").len(), 1);
    // Whoever looked after a job was killed too: before its run began, and after it had ended.
    for (step, state) in [("JobTaken", "died"), ("JobEnded", "done")] {
        place.pgkeep(&["backup", "database", &database, "--at", &in_seconds(60)]).ok();
        time_comes(&place, &now);
        let stop = format!("{step}:kill");
        place.pgkeep_with(&[("PGKEEP_TEST_STOP", &stop)], &["run-due"]).ended_with(128 + 9);
        assert_eq!(jobs(&place).last().unwrap()[2], "running", "{step}");
        let next = place.pgkeep(&["run-due"]);
        assert!(next.stderr.contains(if state == "died" { "died: " } else { "is done" }), "{}", next.stderr);
        assert_eq!(jobs(&place).last().unwrap()[2], state, "{step}");
    }
    assert_eq!(place.backups().len(), 1, "no job was run twice");
    assert_eq!(place.catalog("SELECT count(*) FROM runs WHERE outcome = 'running'"), [["0"]]);
}

#[test]
fn a_long_job_holds_up_none_that_is_due_later() {
    let cluster = cluster();
    let database = cluster.fresh_shop();
    let place = Place::ready();
    let gate = Gate::shut(cluster, &database);
    let now = || in_seconds(0).replace('Z', ".000Z");
    place.pgkeep(&["backup", "database", &database, "--at", &in_seconds(60)]).ok();
    time_comes(&place, &now());
    // One run-due and no other, as a timer of systemd's has it.
    let mut run_due = place.start(&[], &["--output", "json", "run-due"]);
    gate.wait_for_somebody();
    place.pgkeep(&["verify", "--at", &in_seconds(60)]).ok();
    time_comes(&place, &now());
    wait_for("the second job", || (jobs(&place)[1][2] == "done").then_some(()));
    assert_eq!(jobs(&place)[0][2], "running");
    assert!(run_due.is_running());
    gate.open();
    let ran = run_due.wait().ok().json();
    let order: Vec<_> = ran["jobs"].as_array().unwrap().iter().map(|it| &it["job"]["command"]).collect();
    assert_eq!(order, ["verify", "backup database"]);
    assert!(jobs(&place).iter().all(|job| job[2] == "done"), "{:?}", jobs(&place));
}

#[test]
fn relative_paths_of_a_job_mean_what_they_meant_when_it_was_put_off() {
    let place = Place::ready();
    let key = place.setting("BACKUP_ENCRYPTION_KEY");
    place.unset("BACKUP_ENCRYPTION_KEY");
    place.set("BACKUP_ENCRYPTION_KEY_FILE", "key.txt");
    place.put("key.txt", key.as_bytes());
    place.pgkeep(&["backup", "config"]).ok();
    let id = place.catalog("SELECT id FROM backups")[0][0].clone();
    let words = ["--env-file", "pgkeep.env", "restore", &id, "--to-dir", "copy", "--yes", "--at"];
    for directory in [".", "gone"] {
        std::fs::create_dir_all(place.path(directory)).unwrap();
        set_mode(&place.path(directory), 0o777);
        let up = if directory == "." { "pgkeep.env" } else { "../pgkeep.env" };
        let mut words = words;
        words[1] = up;
        let mut command = place.command(&[&words[..], &[&in_seconds(60)]].concat());
        if directory == "gone" {
            command.env("BACKUP_ENCRYPTION_KEY_FILE", place.path("key.txt"));
        }
        run(command.current_dir(place.path(directory))).ok();
    }
    std::fs::remove_dir(place.path("gone")).unwrap();
    time_comes(&place, &in_seconds(0).replace('Z', ".000Z"));
    // cron stands elsewhere.
    let settings = std::fs::read_to_string(place.env_file()).unwrap();
    let absolute = place.path("key.txt").display().to_string();
    let cron = place.put("cron.env", settings.replace("='key.txt'", &format!("='{absolute}'")).as_bytes());
    run(place.command(&["run-due"]).env("PGKEEP_ENV_FILE", cron).current_dir("/")).ended_with(3);
    assert!(place.path("copy").is_dir());
    let told = place.catalog("SELECT state, message FROM jobs ORDER BY id");
    assert_eq!(told[0][0], "done", "{told:?}");
    assert!(told[1][0] == "failed" && told[1][1].contains("/gone: No such file"), "{told:?}");
}

#[test]
fn a_directory_that_can_not_be_entered_holds_up_no_job_without_relative_paths() {
    let place = Place::ready();
    let closed = place.path("closed");
    std::fs::create_dir(&closed).unwrap();
    give(&closed);
    // One stands in it and could not enter it again, as after `sudo -u` in somebody's home.
    let from_within = |arguments: &[&str]| {
        let mut command = ordinary("sh");
        command.args(["-c", "cd \"$1\" && chmod 0 . && shift && exec \"$@\"", "sh"]);
        command.arg(&closed).arg(pgkeep_binary()).arg("--env-file").arg(place.env_file());
        let ran = run(command.args(arguments).args(["--at", &in_seconds(60)]));
        set_mode(&closed, 0o700);
        ran
    };
    from_within(&["verify"]).ok();
    let refused = from_within(&["restore", "latest", "--to-dir", "copy", "--yes"]).fails_with(2);
    assert!(refused.stderr.contains("could not be entered"), "{}", refused.stderr);
    // Or it is gone when the time has come.
    run(place.command(&["verify", "--at", &in_seconds(60)]).current_dir(&closed)).ok();
    let directories = place.catalog("SELECT directory FROM jobs ORDER BY id");
    assert_eq!(directories, [["/".to_owned()], [closed.display().to_string()]]);
    std::fs::remove_dir(&closed).unwrap();
    time_comes(&place, &in_seconds(0).replace('Z', ".000Z"));
    place.pgkeep(&["run-due"]).ok();
    assert_eq!(jobs(&place), [["verify", "8", "done", "0"], ["verify", "8", "done", "0"]]);
}

#[test]
fn a_job_that_never_became_a_run_is_a_critical_alert() {
    let place = Place::ready();
    place.set("ALERT_STORAGE", "100");
    place.pgkeep(&["verify", "--at", &in_seconds(60)]).ok();
    let gone = place.path("gone.env").display().to_string();
    place.catalog(&format!("UPDATE jobs SET env_file = '{gone}' RETURNING 1"));
    time_comes(&place, &in_seconds(0).replace('Z', ".000Z"));
    place.pgkeep(&["run-due"]).ended_with(3);
    let alerts = "SELECT severity, alert_type, message FROM alerts";
    let found = place.catalog(alerts);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0][..2], ["CRITICAL", "job-lost"]);
    assert!(found[0][2].starts_with("job 1 (verify) has not become a run: "), "{found:?}");
    assert!(found[0][2].contains("gone.env"), "{found:?}");
    assert_eq!(place.pgkeep(&["run-due"]).ok().stdout, "nothing is due\n");
    assert_eq!(place.catalog(alerts), found);
}

#[test]
fn a_job_that_can_not_be_started_waits_on_for_a_while() {
    let place = Place::ready();
    let now = in_seconds(0).replace('Z', ".000Z");
    // No system starts a program with a word this long.
    let too_long = "UPDATE jobs SET arguments = json_array('verify', hex(zeroblob(300000))) WHERE state = 'waiting' \
                    RETURNING 1";
    let waits_on = |id: u32| {
        time_comes(&place, &now);
        let ran = place.pgkeep(&["run-due"]).ended_with(3);
        let said = format!("job {id} (verify) waits on: could not be started: ");
        assert!(ran.stderr.contains(&said), "{}", ran.stderr);
        assert_eq!(jobs(&place).last().unwrap()[2], "waiting");
    };
    place.pgkeep(&["verify", "--at", &in_seconds(60)]).ok();
    place.catalog(too_long);
    (0..5).for_each(|_| waits_on(1));
    time_comes(&place, &now);
    place.pgkeep(&["run-due"]).ended_with(3);
    assert_eq!(jobs(&place), [["verify", "8", "failed", ""]]);
    let lost = "SELECT message LIKE 'job 1 (verify) has not become a run:%' FROM alerts WHERE alert_type = 'job-lost'";
    assert_eq!(place.catalog(lost), [["1"]]);
    // Another one can be started the next time.
    place.pgkeep(&["verify", "--at", &in_seconds(60)]).ok();
    place.catalog(too_long);
    waits_on(2);
    place.catalog("UPDATE jobs SET arguments = json_array('verify') WHERE state = 'waiting' RETURNING 1");
    time_comes(&place, &now);
    place.pgkeep(&["run-due"]).ok();
    assert_eq!(jobs(&place)[1][2], "done");
    assert_eq!(place.catalog(lost), [["1"]]);
}

#[test]
fn a_job_can_be_taken_back_while_it_waits_and_only_then() {
    let place = Place::ready();
    place.pgkeep(&["verify", "--at", &in_seconds(3600)]).ok();
    let listed = place.pgkeep(&["list", "--jobs"]).ok().stdout;
    assert!(listed.contains("waiting") && listed.contains("pgkeep verify"), "{listed}");
    place.pgkeep(&["jobs", "cancel", "1"]).ok();
    place.pgkeep(&["jobs", "cancel", "1"]).fails_with(5);
    place.pgkeep(&["jobs", "cancel", "2"]).fails_with(1);
    time_comes(&place, "2026-01-01T00:00:00.000Z");
    assert_eq!(place.pgkeep(&["run-due"]).ok().stdout, "nothing is due\n");
}

#[test]
fn what_can_not_be_put_off_is_refused_at_once() {
    let place = Place::ready();
    place.pgkeep(&["list", "--at", &in_seconds(60)]).fails_with(2);
    place.pgkeep(&["wal-push", "x", "--at", &in_seconds(60)]).fails_with(2);
    place.pgkeep(&["verify", "--at", "2026-01-01T00:00:00Z"]).fails_with(2);
    place.pgkeep(&["verify", "--at", "2026-01-01T00:00:00"]).fails_with(2);
    let asks = place.pgkeep(&["restore", "latest", "--at", &in_seconds(60)]).fails_with(2);
    assert!(asks.stderr.contains("nobody to confirm it"), "{}", asks.stderr);
    assert_eq!(place.catalog("SELECT count(*) FROM jobs"), [["0"]]);
}

#[test]
fn req_6_32_who_must_wait_says_so_once_and_goes_on_when_the_other_has_ended() {
    let cluster = cluster();
    let database = cluster.fresh_shop();
    let place = Place::ready();
    place.backup(&database);
    let first = slow_restore(&place, &database, "waiting_target");
    let arguments =
        ["restore", "latest", "--database", &database, "--to-database", "waiting_target", "--yes"];
    // Not at all, and for a moment.
    place.pgkeep(&[&arguments[..], &["--wait", "0"]].concat()).fails_with(11);
    let begun = Instant::now();
    let late = place.pgkeep(&[&arguments[..], &["--wait", "1s"]].concat()).fails_with(11);
    assert!(begun.elapsed().as_secs() >= 1 && late.stderr.contains("of waiting"), "{}", late.stderr);
    let second = place.start(&[], &arguments);
    wait_for("a place in the queue", || {
        place.files("state/locks").iter().any(|name| name.starts_with("wait-")).then_some(())
    });
    place.put("go", b"");
    first.wait().ok();
    let second = second.wait();
    // The name is taken by now, which is for the restore to say: it had its turn.
    assert_ne!(second.code, 11, "{}", second.stderr);
    assert_eq!(second.stderr.matches("waits for its turn").count(), 1, "{}", second.stderr);
    assert!(place.catalog("SELECT max(waited_seconds) > 0 FROM runs")[0][0] == "1");
    assert!(!place.files("state/locks").iter().any(|name| name.starts_with("wait-")));
    cluster.psql("postgres", "DROP DATABASE waiting_target");
}

#[test]
fn a_holder_that_dies_holds_nobody_up() {
    let cluster = cluster();
    let database = fresh_large(cluster);
    let place = Place::ready();
    place.set("BACKUP_COMPRESSION", "zstd:19");
    let first = place.start(&[], &["backup", "database", &database]);
    wait_for("the first one's turn", || {
        let holder = std::fs::read_to_string(place.state().join("locks/backup-database.lock")).ok()?;
        holder.contains(&format!("process {} ", first.pid())).then_some(())
    });
    let second = place.start(&[], &["backup", "database", &database]);
    wait_for("a place in the queue", || {
        place.files("state/locks").iter().any(|name| name.starts_with("wait-backup-database-")).then_some(())
    });
    first.signal(Signal::KILL);
    second.wait().ok();
    assert_eq!(place.backups().len(), 1);
}

/// A place in the queue of what `cleanup` wants alone.
fn cleanup_waits(place: &Place) {
    wait_for("cleanup to wait", || {
        place.files("state/locks").iter().any(|name| name.starts_with("wait-backups-alone")).then_some(())
    });
}

#[test]
fn a_cleanup_that_waits_holds_nobody_up_and_has_its_turn_when_nobody_reads() {
    let cluster = cluster();
    let database = cluster.fresh_shop();
    let place = Place::ready();
    place.backup(&database);
    let target = format!("{database}_slow");
    let mut restore = slow_restore(&place, &database, &target);
    let mut waiting = place.start(&[], &["cleanup"]);
    cleanup_waits(&place);
    // What comes later than the cleanup goes before it, also what may not wait at all.
    place.pgkeep(&["backup", "database", &database, "--wait", "0"]).ok();
    place.pgkeep(&["verify", "--deep", "--wait", "0"]).ok();
    assert!(restore.is_running() && waiting.is_running());
    // One that gives up says who it was, and another one has its turn.
    let late = place.pgkeep(&["cleanup", "--wait", "1s"]).fails_with(11);
    assert!(late.stderr.contains("of waiting"), "{}", late.stderr);
    place.put("go", b"");
    restore.wait().ok();
    waiting.wait().ok();
    let waited =
        place.catalog("SELECT waited_seconds > 0 FROM runs WHERE command = 'cleanup' AND outcome = 'done'");
    assert_eq!(waited, [["1"]]);
    cluster.psql("postgres", &format!("DROP DATABASE \"{target}\""));
}

#[test]
fn while_a_restore_asks_a_cleanup_goes_on_and_leaves_what_it_restores() {
    let cluster = cluster();
    let database = cluster.fresh_shop();
    let place = Place::ready();
    let ids: Vec<String> = (0..4).map(|_| place.backup(&database)).collect();
    for (id, days) in ids.iter().zip([120, 110]) {
        crate::cleanup::age(&place, id, days);
    }
    let mut dialog = Dialog::start(&place, 200, &[], &["restore", &ids[0]]);
    dialog.expect("Type the name of the database to go on: ");
    let done = place.pgkeep(&["--output", "json", "cleanup", "--wait", "0"]).ok().json();
    assert_eq!(done["deleted"], serde_json::json!([ids[1]]));
    dialog.keys(&database).keys(ENTER);
    let (code, shown) = dialog.end();
    assert_eq!(code, 0, "{shown}");
    let old = databases_beginning(cluster, &format!("{database}_old_"));
    cluster.psql("postgres", &format!("DROP DATABASE \"{}\"", old[0]));

    // After the answer it has its turn again, and looks whether all is still there.
    let mut dialog = Dialog::start(&place, 200, &[], &["restore", &ids[2]]);
    dialog.expect("Type the name of the database to go on: ");
    place.catalog(&format!("UPDATE backups SET status = 'deleting' WHERE id = '{}'", ids[2]));
    dialog.keys(&database).keys(ENTER);
    let (code, shown) = dialog.end();
    assert_eq!(code, 1, "{shown}");
    assert!(shown.contains(&format!("{}wasdeletedwhilethiswaitedforananswer", ids[2])), "{shown}");
    place.catalog(&format!("UPDATE backups SET status = 'complete' WHERE id = '{}'", ids[2]));

    // Somebody deletes at the moment of the answer: the restore waits for that like any other.
    let mut dialog = Dialog::start(&place, 200, &[], &["restore", &ids[2], "--wait", "1s"]);
    dialog.expect("Type the name of the database to go on: ");
    let lock = place.state().join("locks/backups.lock");
    let held = pgkeep::system::lock::FileLock::attempt(&lock, "a test").unwrap();
    dialog.keys(&database).keys(ENTER);
    let (code, shown) = dialog.end();
    assert_eq!(code, 11, "{shown}");
    drop(held);
    assert_eq!(databases_beginning(cluster, &format!("{database}_old_")), [""; 0]);
}

#[test]
fn a_verify_that_repairs_waits_for_a_sync_no_longer_than_its_time() {
    let place = Place::ready();
    place.backup("postgres");
    let held = |name: &str| {
        let lock = place.state().join(format!("locks/{name}.lock"));
        let held = pgkeep::system::lock::FileLock::attempt(&lock, "a test").unwrap();
        give(&lock);
        held
    };
    // Something to be repaired, and a sync that does not end.
    std::fs::remove_file(place.backups()[0].join("data.00000")).unwrap();
    let _sync = held("sync");
    let begun = Instant::now();
    let run = place.pgkeep(&["--output", "json", "verify", "--repair", "--max-time", "1s"]).ended_with(4);
    assert!(begun.elapsed().as_secs() < 30, "{:?}", begun.elapsed());
    let warnings = run.json()["warnings"].to_string();
    assert!(warnings.contains("nothing was repaired: make copies: another run is at it"), "{warnings}");
}
