//! What is written into each table, and what is read from it.

use super::*;

#[test]
fn a_run_is_written_down_from_begin_to_end() {
    let (_place, catalog) = fresh();
    let (one, two) = (begin_run(&catalog, 1).unwrap(), begin_run(&catalog, 2).unwrap());
    catalog.runs().set_subject(&one, &[&id(1)]).unwrap();
    let unfinished = catalog.runs().unfinished().unwrap();
    assert_eq!(unfinished.iter().map(|run| &run.id).collect::<Vec<_>>(), [&one, &two]);

    catalog.runs().end(&one, RunOutcome::Failed, 30, Some("server gone"), at(3)).unwrap();
    let run = catalog.runs().get(&one).unwrap().unwrap();
    assert_eq!((run.outcome, run.exit_code, run.seconds), (RunOutcome::Failed, Some(30), Some(2.0)));
    assert_eq!((run.message.as_deref(), run.ended_at), (Some("server gone"), Some(at(3))));
    assert_eq!((run.user.as_str(), run.sudo_user.as_deref(), run.pid), ("postgres", Some("ada"), 4711));
    assert_eq!(run.subject.as_deref(), Some(id(1).as_str()));
    assert_eq!(run.scratch_directory.as_deref(), Some("/scratch"));
    assert_eq!(run.staging_directory.as_deref(), Some("/store/.staging"));
    let json = serde_json::to_value(&run).unwrap();
    assert_eq!(json["ended_at"], "2026-11-22T02:00:03.250Z");
    assert_eq!((&json["id"], &json["outcome"]), (&"00000001".into(), &"failed".into()));

    assert!(catalog.runs().mark_died(&two).unwrap());
    assert!(!catalog.runs().mark_died(&one).unwrap());
    assert!(catalog.runs().unfinished().unwrap().is_empty());
    assert_eq!(catalog.runs().recent(1).unwrap()[0].outcome, RunOutcome::Died);
    assert_eq!(kind(catalog.runs().end(&RunId::new(9), RunOutcome::Done, 0, None, at(9))), Kind::Bug);
}

#[test]
fn a_clock_that_was_set_back_makes_no_negative_duration() {
    let (_place, catalog) = fresh();
    let run = begin_run(&catalog, 100).unwrap();
    catalog.runs().end(&run, RunOutcome::Done, 0, None, at(0)).unwrap();
    assert_eq!(catalog.runs().get(&run).unwrap().unwrap().seconds, Some(0.0));
}

#[test]
fn a_backup_is_recorded_once_and_missing_copies_are_added() {
    let (_place, catalog) = fresh();
    let mut first = backup(1, "shop");
    first.run_id = Some(begin_run(&catalog, 1).unwrap());
    catalog.backups().record(&first, &[copy(1, "manifest", CopyState::Good)]).unwrap();
    catalog.copies().prove(&[key(1, "manifest")], Proof::Read, at(9)).unwrap();

    let second = BackupRow { rows: None, run_id: None, ..backup(1, "other") };
    let copies = [copy(1, "manifest", CopyState::Owed), copy(1, "data.00000", CopyState::Owed)];
    catalog.backups().record(&second, &copies).unwrap();
    assert_eq!(catalog.backups().get(&id(1)).unwrap(), Some(first));
    let known = catalog.copies().of(&id(1)).unwrap();
    let states: Vec<_> = known.iter().map(|copy| (copy.object.as_str(), copy.state)).collect();
    assert_eq!(states, [("data.00000", CopyState::Owed), ("manifest", CopyState::Good)]);
    assert_eq!(known[1].proven_how, Some(Proof::Read));
}

#[test]
fn a_backup_of_an_unknown_run_is_not_half_recorded() {
    let (_place, catalog) = fresh();
    let orphan = BackupRow { run_id: Some(RunId::new(5)), ..backup(1, "shop") };
    assert_eq!(kind(catalog.backups().record(&orphan, &[])), Kind::Bug);
    let strange = [copy(1, "manifest", CopyState::Good), copy(2, "manifest", CopyState::Good)];
    assert_eq!(kind(catalog.backups().record(&backup(1, "shop"), &strange)), Kind::Bug);
    assert!(catalog.backups().get(&id(1)).unwrap().is_none());
}

#[test]
fn backups_are_found_by_beginning_and_listed_newest_first() {
    let (_place, catalog) = fresh();
    for (number, database) in [(1, "shop"), (3, "shop"), (2, "blog"), (4, "shop")] {
        catalog.backups().record(&backup(number, database), &[]).unwrap();
    }
    catalog.backups().set_status(&id(4), BackupStatus::Deleted).unwrap();
    catalog.backups().set_status(&id(3), BackupStatus::Deleting).unwrap();
    let ids = |rows: Vec<BackupRow>| rows.into_iter().map(|row| row.id).collect::<Vec<_>>();
    let backups = catalog.backups();
    assert_eq!(ids(backups.list(&BackupFilter::default()).unwrap()), [id(2), id(1)]);
    let shop = BackupFilter { database: Some("shop"), ..BackupFilter::default() };
    assert_eq!(ids(backups.list(&shop).unwrap()), [id(1)]);
    let configs = BackupFilter { kind: Some(BackupKind::Config), ..BackupFilter::default() };
    assert!(backups.list(&configs).unwrap().is_empty());

    let newest =
        |database| backups.newest_complete(Some(BackupKind::Database), database).unwrap().map(|row| row.id);
    assert_eq!((newest(None), newest(Some("shop")), newest(Some("x"))), (Some(id(2)), Some(id(1)), None));

    assert_eq!(ids(backups.find_prefix("20261122T0200").unwrap()), [id(3), id(2), id(1)]);
    assert_eq!(ids(backups.find_prefix(id(2).as_str()).unwrap()), [id(2)]);
    // Signs that mean something to LIKE and GLOB mean nothing here.
    for none in ["%", "_", "*", "2026112%", "latest"] {
        assert!(backups.find_prefix(none).unwrap().is_empty(), "{none}");
    }
    assert_eq!(kind(backups.set_status(&id(9), BackupStatus::Deleted)), Kind::Bug);
}

#[test]
fn being_listed_proves_less_than_being_read() {
    let (_place, catalog) = fresh();
    let states = [
        ("a", CopyState::Good),
        ("b", CopyState::Damaged),
        ("c", CopyState::Missing),
        ("d", CopyState::Deleting),
    ];
    let copies: Vec<CopyRow> = states.iter().map(|(object, state)| copy(1, object, *state)).collect();
    catalog.backups().record(&backup(1, "shop"), &copies).unwrap();
    let keys = ["a", "b", "c", "d", "unknown"].map(|object| key(1, object));
    let known = || {
        let copies = catalog.copies().of(&id(1)).unwrap();
        copies.into_iter().map(|c| (c.state, c.seen_at, c.proven_at, c.proven_how)).collect::<Vec<_>>()
    };
    let (one, two) = (Some(at(1)), Some(at(2)));

    catalog.copies().prove(&keys[..1], Proof::Decrypted, at(1)).unwrap();
    catalog.copies().prove(&keys, Proof::Listed, at(2)).unwrap();
    assert_eq!(
        known(),
        [
            (CopyState::Good, two, one, Some(Proof::Decrypted)),
            (CopyState::Damaged, two, two, Some(Proof::Listed)),
            (CopyState::Good, two, two, Some(Proof::Listed)),
            (CopyState::Deleting, None, None, None),
        ]
    );
    let three = Some(at(3));
    catalog.copies().prove(&keys, Proof::Listed, at(3)).unwrap();
    assert_eq!(
        known(),
        [
            (CopyState::Good, three, one, Some(Proof::Decrypted)),
            (CopyState::Damaged, three, two, Some(Proof::Listed)),
            (CopyState::Good, three, two, Some(Proof::Listed)),
            (CopyState::Deleting, None, None, None),
        ],
        "the first time that it was listed, and the last"
    );
    catalog.copies().prove(&keys, Proof::Read, at(4)).unwrap();
    let proven = |how| (CopyState::Good, Some(at(4)), Some(at(4)), Some(how));
    let (read, decrypted) = (proven(Proof::Read), proven(Proof::Decrypted));
    // The same bytes again: what they were once found good for, they are.
    assert_eq!(known(), [decrypted, read, read, (CopyState::Deleting, None, None, None)]);
    catalog.copies().prove(&keys, Proof::Written, at(4)).unwrap();
    let written = proven(Proof::Written);
    assert_eq!(known(), [written, written, written, (CopyState::Deleting, None, None, None)], "another copy");
}

#[test]
fn a_copy_that_was_gone_and_is_listed_again_is_proven_no_more() {
    let (_place, catalog) = fresh();
    catalog.backups().record(&backup(1, "shop"), &[copy(1, "a", CopyState::Good)]).unwrap();
    let a = [key(1, "a")];
    catalog.copies().prove(&a, Proof::Restored, at(1)).unwrap();
    catalog.copies().prove(&a, Proof::Read, at(2)).unwrap();
    let known = || {
        let copy = catalog.copies().of(&id(1)).unwrap().remove(0);
        (copy.state, copy.proven_at, copy.proven_how)
    };
    assert_eq!(known(), (CopyState::Good, Some(at(2)), Some(Proof::Restored)));
    catalog.copies().set_states(&[(key(1, "a"), CopyState::Missing, "gone".to_owned())]).unwrap();
    assert_eq!(known(), (CopyState::Missing, Some(at(2)), Some(Proof::Restored)));
    catalog.copies().prove(&a, Proof::Listed, at(3)).unwrap();
    assert_eq!(known(), (CopyState::Good, Some(at(3)), Some(Proof::Listed)));
}

#[test]
fn the_proof_of_a_wal_file_grows_and_is_lost_with_the_copy() {
    let (_place, catalog) = fresh();
    let wal = catalog.wal();
    let row = WalRow {
        file: "000000010000000000000001".parse().unwrap(),
        content_sha256: "ab".repeat(32).parse().unwrap(),
        store: StoreName::R2,
        size_bytes: 9,
        state: CopyState::Good,
        stored_at: Some(at(1)),
        note: None,
    };
    wal.record(std::slice::from_ref(&row)).unwrap();
    let known = || {
        let copy = wal.provable().unwrap().remove(0);
        (copy.row.state, copy.proven_at, copy.proven_how)
    };
    assert_eq!(known(), (CopyState::Good, Some(at(1)), Some(Proof::Written)));
    wal.prove(&[&row], Proof::Decrypted, at(2)).unwrap();
    assert_eq!(known(), (CopyState::Good, Some(at(2)), Some(Proof::Decrypted)));
    assert!(wal.set_state(&row, CopyState::Damaged, Some("bits")).unwrap());
    assert_eq!(known(), (CopyState::Damaged, Some(at(2)), Some(Proof::Decrypted)));
    wal.prove(&[&row], Proof::Decrypted, at(3)).unwrap();
    assert_eq!(known(), (CopyState::Good, Some(at(3)), Some(Proof::Decrypted)));
    assert!(wal.set_state(&row, CopyState::Missing, None).unwrap());
    assert!(wal.provable().unwrap().is_empty());
    wal.found_again(&row, at(4)).unwrap();
    assert_eq!(known(), (CopyState::Good, Some(at(4)), Some(Proof::Listed)));
    // What is being deleted is of no matter to anybody who looks.
    assert!(wal.set_state(&row, CopyState::Deleting, None).unwrap());
    assert!(!wal.set_state(&row, CopyState::Missing, None).unwrap());
    wal.prove(&[&row], Proof::Decrypted, at(5)).unwrap();
    wal.found_again(&row, at(5)).unwrap();
    assert_eq!(wal.all().unwrap()[0].state, CopyState::Deleting);
}

#[test]
fn what_the_stores_hold_is_kept_by_day() {
    let (_place, catalog) = fresh();
    let day = TimeDelta::days(1);
    catalog.usage().record(&[], at(1)).unwrap();
    catalog.usage().record(&[(StoreName::Local, 10, 1), (StoreName::R2, 8, 1)], at(1)).unwrap();
    catalog.usage().record(&[(StoreName::Local, 20, 2)], at(2)).unwrap();
    catalog.usage().record(&[(StoreName::Local, 30, 3)], at(1) + day).unwrap();
    let all = catalog.usage().since("2026-11-22").unwrap();
    let all: Vec<_> = all.iter().map(|it| (it.day.as_str(), it.store, it.bytes, it.objects)).collect();
    assert_eq!(
        all,
        [
            ("2026-11-22", StoreName::Local, 20, 2),
            ("2026-11-22", StoreName::R2, 8, 1),
            ("2026-11-23", StoreName::Local, 30, 3)
        ]
    );
    assert_eq!(catalog.usage().since("2026-11-23").unwrap().len(), 1);
}

#[test]
fn the_state_of_a_copy_is_written_down_with_what_was_found() {
    let (_place, catalog) = fresh();
    catalog.backups().record(&backup(1, "shop"), &[copy(1, "data.00000", CopyState::Good)]).unwrap();
    let copies = catalog.copies();
    let found = "volume is 3 bytes short";
    let there = (key(1, "data.00000"), CopyState::Damaged, found.to_owned());
    copies.set_states(std::slice::from_ref(&there)).unwrap();
    let known = copies.of(&id(1)).unwrap().remove(0);
    assert_eq!((known.state, known.note.as_deref()), (CopyState::Damaged, Some(found)));
    let elsewhere = CopyKey { store: StoreName::B2, ..key(1, "data.00000") };
    let elsewhere = copies.set_states(&[there, (elsewhere, CopyState::Damaged, String::new())]);
    assert_eq!(kind(elsewhere), Kind::Bug);
}

#[test]
fn a_restore_is_written_down_from_begin_to_end() {
    let (_place, catalog) = fresh();
    let log = catalog.restores();
    let number = log.begin(&new_restore()).unwrap();
    let dead = log.begin(&new_restore()).unwrap();
    log.set_places(number, PLACES).unwrap();
    log.set_places(dead, PLACES).unwrap();
    log.set_database(number, u32::MAX).unwrap();
    assert_eq!(log.unfinished().unwrap().len(), 2);
    log.end(
        number,
        &RestoreEnd {
            state: RestoreState::Done,
            message: Some("fine".to_owned()),
            rows: Some(42),
            checks: Some(serde_json::json!({ "tables": 4 })),
            at: at(61),
        },
    )
    .unwrap();
    log.end(dead, &end_as(RestoreState::Died)).unwrap();
    assert!(log.unfinished().unwrap().is_empty());

    let mut known = log.recent(5).unwrap();
    let (done, died) = (known.remove(1), known.remove(0));
    assert_eq!((died.state, died.ended_at, died.seconds), (RestoreState::Died, None, None));
    assert_eq!((done.state, done.seconds, done.rows), (RestoreState::Done, Some(61.0), Some(42)));
    assert_eq!(done.tenant_ids, new_restore().tenant_ids);
    assert_eq!(done.target_timestamp, Some(at(7)));
    assert_eq!(done.staging_database, None, "it has become the one in use");
    assert_eq!(died.staging_database.as_deref(), Some("shop_new"));
    assert_eq!(done.system_identifier.as_deref(), Some("18446744073709551615"));
    assert_eq!((done.database_oid, died.database_oid), (Some(u32::MAX), None));
    assert_eq!(done.previous_database.as_deref(), Some("shop_old"));
    assert_eq!(done.checks, Some(serde_json::json!({ "tables": 4 })));
    assert_eq!(serde_json::to_value(&done).unwrap()["target_timestamp"], "2026-11-22T02:00:07.250Z");
    assert_eq!(kind(log.set_places(99, PLACES)), Kind::Bug);
    assert_eq!(kind(log.set_database(99, 1)), Kind::Bug);
    assert_eq!(kind(log.clear_staging(99)), Kind::Bug);
}

#[test]
fn a_restore_is_settled_when_it_has_ended_and_left_no_staging_database() {
    let (_place, catalog) = fresh();
    let log = catalog.restores();
    let unsettled = || log.unsettled().unwrap().into_iter().map(|restore| restore.id).collect::<Vec<_>>();
    let (failed, running) = (log.begin(&new_restore()).unwrap(), log.begin(&new_restore()).unwrap());
    log.set_places(failed, PLACES).unwrap();
    log.end(failed, &end_as(RestoreState::Failed)).unwrap();
    assert_eq!(unsettled(), [failed, running]);
    log.clear_staging(failed).unwrap();
    assert_eq!(unsettled(), [running]);
    log.end(running, &end_as(RestoreState::Done)).unwrap();
    assert!(unsettled().is_empty());
}

#[test]
fn every_word_reads_back_and_is_accepted_by_its_table() {
    fn round_trip<T: FromStr + PartialEq + std::fmt::Debug + Copy>(all: &[T], word: fn(T) -> &'static str) {
        for one in all {
            assert_eq!(word(*one).parse::<T>().ok(), Some(*one));
        }
        assert!("nonsense".parse::<T>().is_err());
    }
    round_trip(RunOutcome::ALL, RunOutcome::as_str);
    round_trip(BackupStatus::ALL, BackupStatus::as_str);
    round_trip(CopyState::ALL, CopyState::as_str);
    round_trip(Proof::ALL, Proof::as_str);
    round_trip(RestoreMode::ALL, RestoreMode::as_str);
    round_trip(RestoreState::ALL, RestoreState::as_str);

    let (_place, catalog) = fresh();
    catalog.backups().record(&backup(1, "shop"), &[copy(1, "data", CopyState::Good)]).unwrap();
    for (number, outcome) in (1..).zip(RunOutcome::ALL) {
        let run = begin_run(&catalog, number).unwrap();
        match outcome {
            RunOutcome::Running => {}
            RunOutcome::Died => assert!(catalog.runs().mark_died(&run).unwrap()),
            _ => catalog.runs().end(&run, *outcome, 0, None, at(90)).unwrap(),
        }
        assert_eq!(catalog.runs().get(&run).unwrap().unwrap().outcome, *outcome);
    }
    for status in BackupStatus::ALL {
        catalog.backups().set_status(&id(1), *status).unwrap();
        assert_eq!(catalog.backups().get(&id(1)).unwrap().unwrap().status, *status);
    }
    for how in Proof::ALL {
        catalog.copies().prove(&[key(1, "data")], *how, at(1)).unwrap();
    }
    for state in CopyState::ALL {
        catalog.copies().set_states(&[(key(1, "data"), *state, String::new())]).unwrap();
        assert_eq!(catalog.copies().of(&id(1)).unwrap()[0].state, *state);
    }
    for mode in RestoreMode::ALL {
        let number = catalog.restores().begin(&NewRestore { mode: *mode, ..new_restore() }).unwrap();
        assert_eq!(catalog.restores().recent(1).unwrap()[0].mode, *mode);
        for state in RestoreState::ALL.iter().filter(|state| **state != RestoreState::Running) {
            catalog.restores().end(number, &end_as(*state)).unwrap();
            assert_eq!(catalog.restores().recent(1).unwrap()[0].state, *state);
        }
    }
}
