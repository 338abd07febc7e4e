//! Backups of many tenants in one run, and of one with many rows.

use crate::clouds::Cloud;
use crate::support::faults::{leftovers, listed};
use crate::support::proxy::{Fault, Rule};
use crate::support::s3::Options;
use crate::support::{Place, cluster};
use crate::tenants::ready;

/// Each of them is whole or not there, whichever were being made at the time, and the next run makes all of them.
#[test]
fn a_backup_of_many_tenants_that_is_cut_off_leaves_whole_backups_or_none() {
    let (place, _) = ready(40);
    for step in [
        "BackupBegun",
        "BackupVolumeClosed",
        "BackupVolumeStored",
        "BackupManifestPlaced",
        "BackupManifestStored",
        "BackupRecorded",
    ] {
        for how in ["kill", "term", "fail"] {
            let before = listed(&place).len();
            let stop = format!("{step}:{how}");
            let run = place.pgkeep_with(&[("PGKEEP_TEST_STOP", &stop)], &["backup", "tenant", "--all"]);
            assert!(run.code != 0 || how == "term", "{stop}: {}", run.stdout);
            // What the catalog could not be told of is taken in.
            let rebuilt = place.pgkeep(&["catalog", "rebuild"]).ok();
            place.pgkeep(&["verify", "--deep"]).ok();
            assert_eq!(leftovers(&place), [""; 0], "{stop}: {}", rebuilt.stderr);
            let after = listed(&place).len();
            assert_eq!(after, place.backups().len(), "{stop}: catalog and store differ");
            let died_before_any = ["BackupBegun", "BackupVolumeClosed", "BackupVolumeStored"].contains(&step);
            if how == "kill" && died_before_any {
                assert_eq!(after, before, "{stop}");
            }
        }
    }
    let before = listed(&place).len();
    place.pgkeep(&["backup", "tenant", "--all"]).ok();
    assert_eq!(listed(&place).len(), before + 40);
}

#[test]
fn when_one_of_several_tenants_fails_the_others_are_made_and_its_remains_are_cleared_away() {
    let (place, _) = ready(24);
    let r2 = Cloud::start(Options::default());
    r2.is_r2_of(&place);
    place.unset("BACKUP_LOCAL_DIR");
    place.init();
    let denied = Fault::Status { status: 403, code: "AccessDenied", retry_after: None };
    r2.proxy.fail(Rule::new(denied).on("PUT", "manifest").only(5));
    let run = place.pgkeep(&["--output", "json", "backup", "tenant", "--all"]).ended_with(3);
    let report = run.json();
    assert_eq!(
        (report["backups"].as_array().unwrap().len(), report["failed"].as_array().unwrap().len()),
        (23, 1)
    );
    let tenant = report["failed"][0]["tenant"].as_str().unwrap();
    assert!(run.stderr.contains(&format!("no backup of tenant \"{tenant}\"")), "{}", run.stderr);
    // The next run looks at what the failed one may have left, and touches nothing else.
    r2.proxy.heal();
    let verified = place.pgkeep(&["--output", "json", "verify", "--deep"]).ok().json();
    assert_eq!((&verified["backups"], &verified["findings"]), (&23.into(), &serde_json::json!([])));
    let keys = r2.bucket().keys();
    assert_eq!(keys.iter().filter(|key| key.ends_with("/manifest")).count(), 23);
    assert_eq!(keys.iter().filter(|key| key.contains("/data.")).count(), 23);
    place.pgkeep(&["backup", "tenant", tenant]).ok();
    place.pgkeep(&["restore", "--tenant", tenant, "--yes"]).ok();
}

/// Runs pgkeep to its end; returns the most memory that it ever held, in MB.
pub(crate) fn peak(place: &Place, arguments: &[&str]) -> u64 {
    let mut running = place.start(&[], arguments);
    let status = format!("/proc/{}/status", running.pid());
    let mut peak = 0;
    while running.is_running() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let now = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        peak = peak.max(now.unwrap_or(0) / 1024);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    running.wait().ok();
    peak
}

#[test]
fn a_tenant_of_five_million_rows_goes_and_comes_in_bounded_memory() {
    let cluster = cluster();
    let database = cluster.fresh_database();
    let place = Place::ready();
    place.set("PGDATABASE", &database);
    let ask = |sql: &str| cluster.psql(&database, sql);
    ask("CREATE TABLE orgs (id int PRIMARY KEY);
         CREATE TABLE points (id int PRIMARY KEY, tenant_id int NOT NULL, n int);
         INSERT INTO orgs VALUES (1), (2);
         INSERT INTO points SELECT n, 1, n * 7 FROM generate_series(1, 5000000) n;
         INSERT INTO points SELECT -n, 2, n FROM generate_series(1, 1000) n;
         ALTER TABLE points ADD FOREIGN KEY (tenant_id) REFERENCES orgs");
    let sum =
        "SELECT count(*), sum(id::bigint), sum(n::bigint), count(*) FILTER (WHERE tenant_id = 2) FROM points";
    let before = ask(sum);
    let backup = peak(&place, &["backup", "tenant", "1"]);
    ask("DELETE FROM points WHERE id % 1000 = 1 AND tenant_id = 1; UPDATE points SET n = 0 WHERE id % 1000 = 2 AND tenant_id = 1;
         INSERT INTO points SELECT n, 1, 1 FROM generate_series(6000001, 6001000) n");
    let restore = peak(&place, &["restore", "--tenant", "1", "--yes"]);
    assert_eq!(ask(sum), before);
    assert!(backup > 10 && restore > 10, "not measured");
    assert!(backup < 200 && restore < 200, "backup {backup} MB, restore {restore} MB");
}
