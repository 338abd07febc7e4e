//! What outlives a run, a machine and a row: last tests, other catalogs' history, sums.

use super::*;

#[test]
fn the_last_test_of_each_database_that_passed_is_found_and_its_place_is_kept_until_it_is_gone() {
    let (_place, catalog) = fresh();
    let restores = catalog.restores();
    let test = |database: &str, state| {
        let new = NewRestore {
            purpose: Purpose::Test,
            store: Some(StoreName::R2),
            source_database: Some(database.to_owned()),
            ..new_restore()
        };
        let number = restores.begin(&new).unwrap();
        restores.set_places(number, PLACES).unwrap();
        let phases = serde_json::json!({ "load": number });
        restores.set_measured(number, &Measured { phases, bytes_fetched: 7, wal_segments: 3 }).unwrap();
        restores.end(number, &end_as(state)).unwrap();
        number
    };
    let done = RestoreState::Done;
    let [_, shop, bank] = [test("shop", done), test("shop", done), test("bank", done)];
    test("bank", RestoreState::Failed);
    let plain = restores.begin(&new_restore()).unwrap();
    restores.end(plain, &end_as(done)).unwrap();
    let found = restores.last_tests().unwrap();
    assert_eq!(found.iter().map(|it| it.id).collect::<Vec<_>>(), [bank, shop]);
    let of_bank = &found[0];
    assert_eq!(
        (of_bank.purpose, of_bank.store, of_bank.wal_segments),
        (Purpose::Test, Some(StoreName::R2), Some(3))
    );
    assert_eq!(of_bank.phases, Some(serde_json::json!({ "load": bank })));
    assert_eq!(of_bank.staging_database.as_deref(), Some("shop_new"), "dropped it is only when that is said");
    restores.clear_staging(bank).unwrap();
    assert!(restores.unsettled().unwrap().iter().all(|it| it.id != bank));
}

#[test]
fn the_history_of_another_catalog_is_taken_over_once_and_nothing_of_it_is_alive() {
    let (place, own) = fresh();
    let (_other_place, other) = fresh();
    let cluster: ClusterName = "main".parse().unwrap();
    for catalog in [&own, &other] {
        catalog.take_for(&cluster).unwrap();
    }
    assert_ne!(own.lineage().unwrap(), other.lineage().unwrap());
    assert_eq!(own.lineage().unwrap(), own.lineage().unwrap());
    // What the stores say is known already; the proof of one copy was better, another copy was damaged.
    let copies = [copy(1, "data.00000", CopyState::Good), copy(1, "manifest", CopyState::Good)];
    own.backups().record(&backup(1, "shop"), &copies).unwrap();
    own.copies().prove(&[key(1, "data.00000"), key(1, "manifest")], Proof::Listed, at(50)).unwrap();
    let running = begin_run(&other, 1).unwrap();
    let done = begin_run(&other, 2).unwrap();
    other.runs().end(&done, RunOutcome::Done, 0, None, at(9)).unwrap();
    other.backups().record(&BackupRow { run_id: Some(done.clone()), ..backup(1, "shop") }, &copies).unwrap();
    other.copies().prove(&[key(1, "data.00000")], Proof::Decrypted, at(20)).unwrap();
    other
        .copies()
        .set_states(&[(key(1, "manifest"), CopyState::Damaged, "a flipped bit".to_owned())])
        .unwrap();
    other.backups().record(&backup(2, "shop"), &[]).unwrap();
    other.backups().set_status(&id(2), BackupStatus::Deleted).unwrap();
    other.backups().record(&backup(3, "shop"), &[]).unwrap();
    let restore =
        other.restores().begin(&NewRestore { run_id: Some(running.clone()), ..new_restore() }).unwrap();
    other.restores().set_places(restore, PLACES).unwrap();
    other
        .connection()
        .execute_batch(
            "INSERT INTO alerts (alert_type, severity, message, created_at)
             VALUES ('owed', 'WARNING', 'r2 is away', '2026-11-22T02:00:00.000Z')",
        )
        .unwrap();
    let saved = place.path().join("saved.sqlite");
    other.copy_to(&saved).unwrap();

    let (taken, missing) = own.take_history(&saved).unwrap();
    assert_eq!(taken, Taken { runs: 2, restores: 1, alerts: 1, deleted: 1, proofs: 1 });
    assert_eq!(missing, [id(3)], "complete there, newer than all that is here, and not here");
    assert_eq!(own.runs().get(&running).unwrap().unwrap().outcome, RunOutcome::Died);
    assert_eq!(own.runs().get(&done).unwrap().unwrap().outcome, RunOutcome::Done);
    assert!(own.runs().unsettled().unwrap().is_empty() && own.restores().unsettled().unwrap().is_empty());
    assert_eq!(own.backups().get(&id(1)).unwrap().unwrap().run_id, Some(done));
    let known = own.copies().of(&id(1)).unwrap();
    assert_eq!((known[0].state, known[0].proven_how), (CopyState::Good, Some(Proof::Decrypted)));
    assert_eq!((known[1].state, known[1].note.as_deref()), (CopyState::Damaged, Some("a flipped bit")));
    // Again, and after the run that was alive has ended.
    let nothing = Taken { proofs: 0, ..Taken::default() };
    assert_eq!(own.take_history(&saved).unwrap().0, nothing);
    other.runs().end(&running, RunOutcome::Failed, 40, Some("no"), at(90)).unwrap();
    std::fs::remove_file(&saved).unwrap();
    other.copy_to(&saved).unwrap();
    own.take_history(&saved).unwrap();
    assert_eq!(own.runs().get(&running).unwrap().unwrap().outcome, RunOutcome::Failed);
    assert_eq!(own.check().unwrap(), Vec::<String>::new());
}

#[test]
fn the_history_of_another_cluster_or_server_is_refused_and_an_older_schema_is_brought_up_to_date() {
    let (place, own) = fresh();
    own.take_for(&"first".parse().unwrap()).unwrap();
    own.backups().record(&backup(1, "shop"), &[]).unwrap();
    let saved = place.path().join("saved.sqlite");
    of_the_first_schema(&saved);
    let (taken, _) = own.take_history(&saved).unwrap();
    assert_eq!((taken.runs, taken.restores), (1, 1));

    let (_place, other) = fresh();
    other.take_for(&"second".parse().unwrap()).unwrap();
    assert_eq!(kind(own.take_history(other.path())), Kind::Refused);
    let (_place, other) = fresh();
    other.take_for(&"first".parse().unwrap()).unwrap();
    let of_another = BackupRow { system_identifier: Some("7".to_owned()), ..backup(2, "shop") };
    other.backups().record(&of_another, &[]).unwrap();
    assert_eq!(kind(own.take_history(other.path())), Kind::Refused);
}

#[test]
fn a_run_that_could_not_clear_up_is_settled_although_it_has_ended() {
    let (_place, catalog) = fresh();
    let run = begin_run(&catalog, 1).unwrap();
    catalog.runs().leave_unsettled(&run).unwrap();
    catalog.runs().end(&run, RunOutcome::Failed, 40, None, at(9)).unwrap();
    assert!(catalog.runs().unfinished().unwrap().is_empty());
    assert_eq!(catalog.runs().unsettled().unwrap().len(), 1);
    assert!(!catalog.runs().mark_died(&run).unwrap(), "it had ended, and its outcome stays");
    assert!(catalog.runs().unsettled().unwrap().is_empty());
    assert_eq!(catalog.runs().get(&run).unwrap().unwrap().outcome, RunOutcome::Failed);
}

/// The sums that triggers keep are those that the rows themselves have, whatever was done to them.
#[test]
fn the_sums_of_the_archive_are_those_of_its_rows() {
    let (_place, catalog) = fresh();
    let mut state = 0x9E37_79B9_u64;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let states = ["good", "owed", "missing", "damaged", "deleting"];
    let stores = [StoreName::Local, StoreName::R2, StoreName::B2];
    let names = [
        "00000001000000000000000A",
        "00000001000000000000000B",
        "000000010000000100000000",
        "00000002.history",
    ];
    for _ in 0..600 {
        let segment = names[random(4) as usize];
        let (sha, store) = (format!("{:064x}", random(2)), stores[random(3) as usize]);
        let (word, hour) = (states[random(5) as usize], at(i64::try_from(random(4)).unwrap() * 1800));
        let sql = match random(3) {
            0 => {
                "DELETE FROM wal_segments WHERE segment = ?1 AND content_sha256 = ?2 AND store = ?3 AND ?4 <> ?5"
            }
            1 => {
                "UPDATE wal_segments SET state = ?4, stored_at = ?5, size_bytes = size_bytes + 1 \
                  WHERE segment = ?1 AND content_sha256 = ?2 AND store = ?3"
            }
            _ => {
                "INSERT INTO wal_segments (timeline, segment, content_sha256, store, size_bytes, state, stored_at) \
                  VALUES (1, ?1, ?2, ?3, 7, ?4, ?5) ON CONFLICT (segment, content_sha256, store) DO UPDATE \
                  SET state = excluded.state, size_bytes = excluded.size_bytes"
            }
        };
        let at = crate::model::timestamp_text(hour);
        catalog
            .write("change", |it| it.execute(sql, rusqlite::params![segment, sha, store.as_str(), word, at]))
            .unwrap();
    }
    let rows = |sql: &str| {
        catalog
            .read("compare", |connection| {
                let mut statement = connection.prepare(sql)?;
                let rows = statement.query_map([], |row| {
                    (0..8).map(|column| row.get::<_, rusqlite::types::Value>(column)).collect()
                })?;
                rows.collect::<rusqlite::Result<Vec<Vec<_>>>>()
            })
            .unwrap()
    };
    let kept = rows(
        "SELECT block, store, files, bytes, segments, owed, missing, damaged FROM wal_blocks \
         WHERE files + owed + missing + damaged > 0 ORDER BY 1, 2",
    );
    let counted = rows(
        "SELECT substr(segment, 1, 16), store, sum(state = 'good'), sum(iif(state = 'good', size_bytes, 0)), \
         sum(state = 'good' AND length(segment) = 24), sum(state = 'owed'), sum(state = 'missing'), \
         sum(state = 'damaged') FROM wal_segments WHERE state <> 'deleting' GROUP BY 1, 2 ORDER BY 1, 2",
    );
    assert!(counted.len() > 4, "{counted:?}");
    assert_eq!(kept, counted);
    let kept =
        rows("SELECT hour, store, files, bytes, 0, 0, 0, 0 FROM wal_hours WHERE files > 0 ORDER BY 1, 2");
    let counted = rows(
        "SELECT substr(stored_at, 1, 13), store, count(*), sum(size_bytes), 0, 0, 0, 0 FROM wal_segments \
         WHERE state = 'good' AND stored_at IS NOT NULL GROUP BY 1, 2 ORDER BY 1, 2",
    );
    assert_eq!(kept, counted);
    let clash = "SELECT count(*) FROM wal_blocks WHERE clashing = 1";
    let clashing: i64 = catalog.read("ask", |it| it.query_row(clash, [], |row| row.get(0))).unwrap();
    assert!(clashing > 0, "two contents under one name are noticed");
}
