//! Several runs at the same time: one wins and the others say who holds what, and nobody sees a part of anything.

use crate::support::faults::{Gate, contents, fresh_large, last_run, leftovers, listed, wait_for};
use crate::support::{Place, cluster};

#[test]
fn of_two_backups_at_once_the_second_names_the_first() {
    let cluster = cluster();
    let database = cluster.fresh_shop();
    let place = Place::ready();
    let gate = Gate::shut(cluster, &database);
    let mut first = place.start(&[], &["backup", "database", &database]);
    gate.reached_by(&mut first);
    let second = place.pgkeep(&["backup", "database", &database, "--wait", "0"]).fails_with(11);
    assert!(second.stderr.contains(&format!("process {}", first.pid())), "{}", second.stderr);
    insta::assert_snapshot!(second.message());
    assert_eq!(last_run(&place, "backup database").0, "failed");
    gate.open();
    first.wait().ok();
    assert_eq!(listed(&place).len(), 1);
    assert_eq!(leftovers(&place), [""; 0]);
    place.backup(&database);
}

#[test]
fn a_dead_run_holds_nothing() {
    let cluster = cluster();
    let database = cluster.fresh_shop();
    let place = Place::ready();
    let gate = Gate::shut(cluster, &database);
    let mut first = place.start(&[], &["backup", "database", &database]);
    gate.reached_by(&mut first);
    first.signal(rustix::process::Signal::KILL);
    first.wait().ended_with(137);
    gate.open();
    place.backup(&database);
    assert_eq!(leftovers(&place), [""; 0]);
}

#[test]
fn many_backups_at_once_are_all_whole_or_refused() {
    let database = cluster().fresh_shop();
    let place = Place::ready();
    let started: Vec<_> = (0..6).map(|_| place.start(&[], &["backup", "database", &database])).collect();
    let ended: Vec<_> = started.into_iter().map(crate::support::Running::wait).collect();
    let done = ended.iter().filter(|run| run.code == 0).count();
    assert!(done >= 1);
    for run in &ended {
        assert!(run.code == 0 || run.code == 11, "{}: {}", run.code, run.stderr);
    }
    assert_eq!((listed(&place).len(), place.backups().len()), (done, done));
    place.pgkeep(&["verify", "--deep"]).ok();
    assert_eq!(leftovers(&place), [""; 0]);
}

#[test]
fn of_two_restores_to_one_name_the_second_is_refused() {
    let cluster = cluster();
    let database = fresh_large(cluster);
    let place = Place::ready();
    place.backup(&database);
    let before = contents(cluster, &database);
    let arguments = ["restore", "latest", "--yes", "--drop-old"];
    // The first one stands still while it fills the staging database.
    let script = "#!/bin/bash\nreal=REAL\n[[ $* == *--exit-on-error* ]] || exec \"$real/pg_restore\" \"$@\"\n\
                  touch \"$HOME/begun\"\nwhile ! [[ -e $HOME/go ]]; do sleep 0.05; done\nexec \"$real/pg_restore\" \"$@\"\n";
    let bin = place.path("bin");
    std::fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(cluster.bindir.join("pg_dump"), bin.join("pg_dump")).unwrap();
    std::fs::write(bin.join("pg_restore"), script.replace("REAL", &cluster.bindir.display().to_string()))
        .unwrap();
    crate::support::set_mode(&bin.join("pg_restore"), 0o755);
    crate::support::set_mode(&bin, 0o755);
    let slow = [("BACKUP_PG_BINDIR", bin.to_str().unwrap())];
    let first = place.start(&slow, &arguments);
    wait_for("pg_restore", || place.path("begun").exists().then_some(()));
    let second = place.pgkeep(&[&arguments[..], &["--wait", "0"]].concat()).fails_with(11);
    assert!(second.stderr.contains(&format!("process {}", first.pid())), "{}", second.stderr);
    insta::assert_snapshot!(second.message());
    // Meanwhile the database is there, and can be backed up.
    assert_eq!(contents(cluster, &database), before);
    place.backup(&database);
    place.pgkeep(&["verify", "--deep"]).ok();
    place.put("go", b"");
    first.wait().ok();
    assert_eq!(contents(cluster, &database), before);
    assert_eq!(cluster.databases_like(&database), [&*database]);
    assert_eq!(leftovers(&place), [""; 0]);
}

#[test]
fn a_verify_during_a_backup_finds_nothing_wrong() {
    let cluster = cluster();
    let database = fresh_large(cluster);
    let place = Place::ready();
    place.set("BACKUP_VOLUME_SIZE", "1M");
    place.backup(&database);
    // Slow enough for several looks.
    place.set("BACKUP_COMPRESSION", "zstd:19");
    let mut running = place.start(&[], &["backup", "database", &database]);
    let mut looks = 0;
    while running.is_running() {
        let deep = if looks % 2 == 0 { &["verify"][..] } else { &["verify", "--deep"][..] };
        let run = place.pgkeep(deep).ok();
        assert!(run.stdout.contains("all good"), "{}", run.stdout);
        looks += 1;
        assert!(looks < 1000, "the backup does not end");
    }
    running.wait().ok();
    assert!(looks > 1, "the backup was too quick to be looked at");
    place.pgkeep(&["verify", "--deep"]).ok();
    assert_eq!(listed(&place).len(), 2);
}

#[test]
fn lists_during_backups_show_whole_backups_only() {
    let database = cluster().fresh_shop();
    let place = Place::ready();
    let mut running = Some(place.start(&[], &["backup", "database", &database]));
    let (mut done, mut looks) = (0, 0);
    while let Some(mut backup) = running.take() {
        let lists: Vec<_> = (0..8).map(|_| place.start(&[], &["list", "--output", "json"])).collect();
        for list in lists {
            let report = list.wait().ok().json();
            let found = report["backups"].as_array().unwrap().clone();
            assert!(found.len() == done || found.len() == done + 1, "{report}");
            assert!(
                found.iter().all(|backup| backup["rows"] == 1550 && backup["copies_not_good"] == 0),
                "{report}"
            );
        }
        looks += 1;
        assert!(looks < 1000, "the backups do not end");
        if backup.is_running() {
            running = Some(backup);
        } else {
            backup.wait().ok();
            done += 1;
            running = (done < 3).then(|| place.start(&[], &["backup", "database", &database]));
        }
    }
    assert_eq!(listed(&place).len(), 3);
}
