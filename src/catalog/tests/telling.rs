//! Which tests of restores count, and who is told what.

use super::*;

#[test]
fn a_test_that_was_refused_or_that_read_another_store_does_not_make_a_failure_good() {
    let (_place, catalog) = fresh();
    let restores = catalog.restores();
    let mut second = 0;
    let mut test = |store, state| {
        second += 1;
        let new = NewRestore {
            purpose: Purpose::Test,
            store: Some(store),
            tenant_ids: None,
            started_at: at(second),
            ..new_restore()
        };
        let number = restores.begin(&new).unwrap();
        restores.set_places(number, PLACES).unwrap();
        restores.end(number, &end_as(state)).unwrap();
        restores.clear_staging(number).unwrap();
        let tests = catalog.facts(at(100)).unwrap().tests;
        tests.iter().map(|it| (it.store.unwrap(), it.refused)).collect::<Vec<_>>()
    };
    let (local, r2) = (StoreName::Local, StoreName::R2);
    let none: [(StoreName, bool); 0] = [];
    assert_eq!(test(local, RestoreState::Refused), [(local, true)]);
    assert_eq!(test(local, RestoreState::Done), none);
    assert_eq!(test(r2, RestoreState::Failed), [(r2, false)]);
    assert_eq!(test(r2, RestoreState::Refused), [(r2, false)]);
    assert_eq!(test(local, RestoreState::Done), [(r2, false)]);
    assert_eq!(test(local, RestoreState::Refused), [(r2, false)]);
    assert_eq!(test(r2, RestoreState::Done), [(local, true)]);
    assert_eq!(test(local, RestoreState::Done), none);
}

/// Who waits for what, of all messages.
fn waiting(catalog: &Catalog, now: Timestamp) -> Vec<String> {
    let due = catalog.alerts().due(now).unwrap();
    due.iter().map(|it| format!("{} {}", it.recipient.address, it.event.as_str())).collect()
}

fn to(addresses: &'static [&'static str]) -> impl Fn(Severity) -> Audience {
    move |_| Audience {
        not_before: at(0),
        recipients: addresses
            .iter()
            .map(|it| Recipient { channel: crate::model::Channel::Email, address: (*it).to_owned() })
            .collect(),
    }
}

#[test]
fn what_was_found_before_there_was_a_channel_is_told_when_there_is_one() {
    let (_place, catalog) = fresh();
    let alerts = catalog.alerts();
    let hour = Duration::from_hours(1);
    alerts.raise("wal-refused", Severity::Critical, "two servers", at(1)).unwrap();
    alerts.raise("copy-damaged", Severity::Warning, "told by another", at(1)).unwrap();
    alerts.raise("wal-conflict", Severity::Critical, "of an earlier pgkeep", at(1)).unwrap();
    catalog
        .write("test", |it| {
            it.execute("UPDATE alerts SET notification_channels = '[]' WHERE alert_type <> 'wal-refused'", [])
        })
        .unwrap();
    for _ in 0..2 {
        alerts.route(&to(&[]), hour, at(2)).unwrap();
        assert_eq!(waiting(&catalog, at(2)), [""; 0]);
    }
    for _ in 0..2 {
        alerts.route(&to(&["ada"]), hour, at(3)).unwrap();
        assert_eq!(waiting(&catalog, at(3)), ["ada raised", "ada raised"]);
    }
}

#[test]
fn a_message_that_waits_for_one_recipient_keeps_nothing_from_the_others() {
    let (_place, catalog) = fresh();
    let alerts = catalog.alerts();
    let (hour, both) = (Duration::from_hours(1), to(&["ada", "bob"]));
    alerts.raise("wal-refused", Severity::Critical, "two servers", at(0)).unwrap();
    alerts.route(&both, hour, at(0)).unwrap();
    let first = alerts.due(at(0)).unwrap();
    assert_eq!(waiting(&catalog, at(0)), ["ada raised", "bob raised"]);
    alerts.delivered(&first[..1], at(1)).unwrap();
    alerts.route(&both, hour, at(3000)).unwrap();
    assert_eq!(waiting(&catalog, at(3000)), ["bob raised"]);
    alerts.route(&both, hour, at(3700)).unwrap();
    assert_eq!(waiting(&catalog, at(3700)), ["bob raised", "ada repeated"]);
    alerts.route(&both, hour, at(9000)).unwrap();
    assert_eq!(waiting(&catalog, at(9000)), ["bob raised", "ada repeated"], "each has one that waits");
}

#[test]
fn who_was_told_by_an_earlier_version_is_told_the_end_once() {
    let (_place, catalog) = fresh();
    let alerts = catalog.alerts();
    let (hour, both) = (Duration::from_hours(10), to(&["ada", "bob"]));
    alerts.raise("wal-refused", Severity::Critical, "two servers", at(0)).unwrap();
    let of_before = "INSERT INTO deliveries (alert_id, channel, recipient, event, state, attempts, not_before, created_at, \
                     delivered_at) SELECT id, 'email', ?1, 'raised', 'delivered', 1, created_at, created_at, created_at \
                     FROM alerts";
    catalog
        .write("test", |it| {
            // For all of them; and one that was repeated after the upgrade.
            it.execute(of_before, [""])?;
            it.execute(of_before, ["bob"])?;
            it.execute(
                "UPDATE alerts SET notification_channels = '[\"email\"]', closed_at = last_seen_at, \
                 closed_message = 'over'",
                [],
            )
        })
        .unwrap();
    for _ in 0..2 {
        alerts.route(&both, hour, at(1)).unwrap();
        let mut told = waiting(&catalog, at(1));
        told.sort();
        assert_eq!(told, ["ada closed", "bob closed"]);
    }
}
