//! Copies of WAL that are not what they seem: damaged ones are neither counted nor served, and two servers' bytes under one
//! name are never mixed.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::Archiving;
use crate::wal_faults::{keys, path_of, push, with_clouds};

/// Lets the stores that rested be asked at once.
fn forget_who_was_away(archiving: &Archiving) {
    let _ = fs::remove_file(archiving.place.state().join("archive/away.json"));
}

fn fetch(archiving: &Archiving, name: &str) -> Result<Vec<u8>, i32> {
    let wanted = archiving.place.path("wanted");
    let _ = fs::remove_file(&wanted);
    let run = archiving.place.pgkeep(&["wal-fetch", name, wanted.to_str().unwrap()]);
    if run.code == 0 { Ok(fs::read(&wanted).unwrap()) } else { Err(run.code) }
}

#[test]
fn a_damaged_copy_here_counts_for_nothing_and_goes_nowhere() {
    let (archiving, mut r2, mut b2) = with_clouds();
    archiving.cluster.set("archive_command", "/bin/false");
    let name = archiving.switch();
    let bytes = fs::read(path_of(&archiving, &name)).unwrap();
    r2.proxy.go_away();
    b2.proxy.go_away();
    push(&archiving, &name).fails_with(40);
    let held = archiving.archived().into_iter().find(|file| file.starts_with(&name)).unwrap();
    let object = archiving.place.store().join(format!("test/wal/{}/{}/{held}", &name[..8], &name[8..16]));
    fs::write(&object, "").unwrap();
    r2.proxy.come_back();
    b2.proxy.come_back();
    forget_who_was_away(&archiving);
    let report = push(&archiving, &name).ok().json();
    assert_eq!(report["known"], false, "{report}");
    assert!(fs::metadata(&object).unwrap().len() > 0, "healed");
    for cloud in [&r2, &b2] {
        let key = keys(cloud, &name).remove(0);
        assert_eq!(cloud.bucket().read(&key), fs::read(&object).unwrap());
    }
    assert_eq!(fetch(&archiving, &name), Ok(bytes));
}

#[test]
fn refused_bytes_are_in_no_store_afterwards() {
    let (archiving, r2, _b2) = with_clouds();
    archiving.cluster.set("archive_command", "/bin/false");
    let name = archiving.switch();
    push(&archiving, &name).ok();
    let path = path_of(&archiving, &name);
    let bytes = fs::read(&path).unwrap();
    // The disk of the store here is a new one.
    let group = archiving.place.store().join(format!("test/wal/{}/{}", &name[..8], &name[8..16]));
    fs::remove_dir_all(&group).unwrap();
    let mut other = bytes.clone();
    let last = other.len() - 1;
    other[last] ^= 1;
    fs::write(&path, &other).unwrap();
    push(&archiving, &name).fails_with(5);
    assert_eq!(archiving.archived(), [""; 0]);
    assert_eq!(keys(&r2, &name).len(), 1);
    archiving.place.set("BACKUP_READ_ORDER", "local,r2,b2");
    assert_eq!(fetch(&archiving, &name), Ok(bytes));
    let alerts = archiving.place.catalog("SELECT alert_type, severity FROM alerts");
    assert_eq!(alerts, [["wal-refused", "CRITICAL"]]);
}

#[test]
fn a_flipped_bit_in_one_copys_header_is_not_taken_for_another_key() {
    let (archiving, _r2, _b2) = with_clouds();
    let name = archiving.archive();
    let bytes = fs::read(path_of(&archiving, &name)).unwrap();
    archiving.place.set("BACKUP_READ_ORDER", "local,r2,b2");
    let held = archiving.archived().into_iter().find(|file| file.starts_with(&name)).unwrap();
    let object = archiving.place.store().join(format!("test/wal/{}/{}/{held}", &name[..8], &name[8..16]));
    let good = fs::read(&object).unwrap();
    for at in 0..48 {
        let mut damaged = good.clone();
        damaged[at] ^= 1;
        fs::write(&object, damaged).unwrap();
        assert_eq!(fetch(&archiving, &name).as_ref(), Ok(&bytes), "byte {at}");
    }
}

#[test]
fn a_place_in_which_no_disk_is_mounted_is_not_filled() {
    let (archiving, _r2, _b2) = with_clouds();
    archiving.cluster.set("archive_command", "/bin/false");
    let name = archiving.switch();
    let store = archiving.place.store();
    fs::rename(&store, archiving.place.path("unmounted")).unwrap();
    fs::create_dir(&store).unwrap();
    crate::support::give(&store);
    push(&archiving, &name).ok();
    assert_eq!(archiving.place.files("store"), [""; 0]);
}

#[test]
fn histories_are_known_while_the_stores_are_away() {
    let archiving = Archiving::ready();
    let name = archiving.archive();
    fs::rename(archiving.place.store(), archiving.place.path("unmounted")).unwrap();
    // The first timeline has none, whoever is away.
    assert_eq!(fetch(&archiving, "00000001.history"), Err(1));
    assert_eq!(fetch(&archiving, &name), Err(200));
    assert_eq!(fetch(&archiving, "00000002.history"), Err(200));
    let text = "1\t0/3000100\tno recovery target specified\n";
    archiving.place.put("00000002.history", text.as_bytes());
    assert_eq!(fetch(&archiving, "00000002.history").as_deref(), Ok(text.as_bytes()));
    fs::remove_file(archiving.place.path("00000002.history")).unwrap();
    let row = "INSERT INTO timelines (timeline, history) VALUES (2, 'as the catalog has it')";
    let catalog = archiving.place.state().join("catalog.sqlite");
    rusqlite::Connection::open(catalog).unwrap().execute_batch(row).unwrap();
    assert_eq!(fetch(&archiving, "00000002.history").as_deref(), Ok(&b"as the catalog has it"[..]));
}

#[test]
fn an_end_that_is_asked_for_is_that_of_the_signal() {
    let archiving = Archiving::ready();
    let hole = archiving.archive();
    archiving.archive();
    let held = archiving.archived().into_iter().find(|file| file.starts_with(&hole)).unwrap();
    let object = archiving.place.store().join(format!("test/wal/{}/{}/{held}", &hole[..8], &hole[8..16]));
    fs::remove_file(object).unwrap();
    let wanted = archiving.place.path("wanted");
    let waiting = archiving.place.start(&[], &["wal-fetch", &hole, wanted.to_str().unwrap()]);
    std::thread::sleep(Duration::from_secs(2));
    waiting.signal(Signal::TERM);
    assert_eq!(waiting.wait().code, 143);
}

#[test]
fn what_was_got_beforehand_for_one_archive_is_not_given_to_another() {
    let archiving = Archiving::ready();
    archiving.fill_segments(6);
    archiving.archive();
    let names: Vec<String> = archiving.archived().iter().map(|name| name[..24].to_owned()).collect();
    assert!(fetch(&archiving, &names[0]).is_ok());
    let lying = || archiving.place.files("state/prefetch");
    let second = crate::support::faults::wait_for("the next segment", || {
        lying().into_iter().find_map(|path| path.ends_with(&names[2]).then(|| names[2].clone()))
    });
    let other = Archiving::ready();
    other.place.set("BACKUP_STATE_DIR", archiving.place.state().to_str().unwrap());
    assert_ne!(fetch(&other, &second), fetch(&archiving, &second));
}
