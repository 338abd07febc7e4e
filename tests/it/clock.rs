//! Clocks that are put forward and back, by an hour twice a year and by a day by mistake: libfaketime shows the program
//! another time than it is.

use chrono::{DateTime, TimeDelta, Utc};

use crate::cron::libfaketime;
use crate::notify::Http;
use crate::support::{Place, Run, cluster, ordinary, pgkeep_binary, run};

/// A place whose disk is never too full for these tests.
fn place() -> Place {
    let place = Place::ready();
    place.set("ALERT_STORAGE", "100");
    place
}

/// Runs pgkeep in Berlin at this time.
fn at(place: &Place, time: &str, arguments: &[&str]) -> Run {
    let time: DateTime<Utc> = time.parse().expect("a time");
    let ahead = (time - Utc::now()).as_seconds_f64();
    let shown = format!("{ahead:+.3}");
    // env comes after the change of users, which the library would not survive.
    let mut command = ordinary("env");
    command
        .arg(format!("LD_PRELOAD={}", libfaketime().display()))
        .arg(format!("FAKETIME={shown}"))
        .args(["FAKETIME_DONT_FAKE_MONOTONIC=1", "TZ=Europe/Berlin"])
        .arg(pgkeep_binary())
        .args(arguments)
        .env("HOME", &place.directory)
        .env("PATH", "/usr/bin:/bin")
        .env("PGKEEP_ENV_FILE", place.env_file())
        .current_dir(&place.directory);
    run(&mut command)
}

/// A time so long from now.
fn from_now(by: TimeDelta) -> String {
    (Utc::now() + by).to_rfc3339()
}

fn open(place: &Place) -> Vec<String> {
    let sql = "SELECT severity || ' ' || alert_type FROM alerts WHERE closed_at IS NULL ORDER BY id";
    place.catalog(sql).into_iter().map(|mut row| row.remove(0)).collect()
}

#[test]
fn req_6_14_a_job_in_the_hour_that_is_twice_runs_once_and_one_in_the_hour_that_is_missing_at_its_moment() {
    let place = place();
    // The hour that is twice: 02:30 in summer, and an hour later 02:30 in winter.
    let before = "2027-10-30T12:00:00Z";
    for time in ["2027-10-31T02:30:00+02:00", "2027-10-31T02:30:00+01:00"] {
        at(&place, before, &["verify", "--at", time]).ok();
    }
    let times = "SELECT scheduled_for, state FROM jobs ORDER BY id";
    assert_eq!(
        place.catalog(times),
        [["2027-10-31T00:30:00.000Z", "waiting"], ["2027-10-31T01:30:00.000Z", "waiting"]]
    );
    // Without an offset nobody knows which of them is meant, and the refusal says so.
    let refused = at(&place, before, &["verify", "--at", "2027-10-31T02:30:00"]).fails_with(2);
    for reading in ["2027-10-31T02:30:00Z", "2027-10-31T02:30:00+02:00", "2027-10-31T02:30:00+01:00"] {
        assert!(refused.stderr.contains(reading), "no {reading}: {}", refused.stderr);
    }
    let ran = |time: &str| {
        let report = at(&place, time, &["--output", "json", "run-due"]).ok().json();
        report["jobs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["job"]["id"].as_i64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(ran("2027-10-31T00:29:50Z"), [0; 0]);
    assert_eq!(ran("2027-10-31T00:30:00Z"), [1], "02:30 for the first time");
    assert_eq!(ran("2027-10-31T01:29:50Z"), [0; 0]);
    assert_eq!(ran("2027-10-31T01:30:00Z"), [2], "02:30 for the second time");
    assert_eq!(ran("2027-10-31T01:31:00Z"), [0; 0]);

    // The hour that is missing: 02:30 with the offset of winter is the moment at which the clock shows 03:30.
    let before = "2028-03-25T12:00:00Z";
    let refused = at(&place, before, &["verify", "--at", "2028-03-26T02:30:00"]).fails_with(2);
    assert!(refused.stderr.contains("does not show that day"), "{}", refused.stderr);
    at(&place, before, &["verify", "--at", "2028-03-26T02:30:00+01:00"]).ok();
    assert_eq!(ran("2028-03-26T01:29:50Z"), [0; 0]);
    assert_eq!(ran("2028-03-26T01:30:00Z"), [3]);
}

#[test]
fn quiet_hours_are_those_of_the_clock_on_the_wall_when_it_is_put_forward_and_back() {
    for (now, until, hours) in [
        // An ordinary night, and the two that are an hour shorter and longer.
        ("2027-06-10T22:30:00Z", "2027-06-11T05:00:00.000Z", "22:00-07:00"),
        ("2027-03-27T22:30:00Z", "2027-03-28T05:00:00.000Z", "22:00-07:00"),
        ("2027-10-30T21:30:00Z", "2027-10-31T06:00:00.000Z", "22:00-07:00"),
        // They end at a time that is not, and at one that is twice.
        ("2027-03-27T22:30:00Z", "2027-03-28T01:00:00.000Z", "22:00-02:30"),
        ("2027-10-30T21:30:00Z", "2027-10-31T01:30:00.000Z", "22:00-02:30"),
    ] {
        let place = Place::ready();
        let http = Http::start();
        http.is_webhook_of(&place);
        place.set("ALERT_STORAGE", "1");
        place.set("ALERT_QUIET_HOURS", hours);
        at(&place, now, &["verify"]).ok();
        let waits = place.catalog(
            "SELECT DISTINCT not_before FROM deliveries JOIN alerts ON alerts.id = alert_id WHERE alert_type = 'storage'",
        );
        assert_eq!(waits, [[until]], "{now}, {hours}");
    }
}

#[test]
fn a_clock_that_is_a_day_ahead_for_a_while_is_no_storm_and_runs_no_job_twice() {
    let database = cluster().fresh_shop();
    let place = place();
    place.backup(&database);
    let http = Http::start();
    http.is_webhook_of(&place);
    place.pgkeep(&["watch"]).ok();
    assert_eq!(open(&place), [""; 0]);
    place.pgkeep(&["verify", "--at", &from_now(TimeDelta::hours(12))]).ok();
    // Three looks with the wrong clock: what is old by it is said, once.
    let day = TimeDelta::hours(27);
    for _ in 0..3 {
        at(&place, &from_now(day), &["watch"]).ok();
        at(&place, &from_now(day), &["run-due"]).ok();
    }
    assert_eq!(open(&place), ["CRITICAL no-good-backup", "WARNING server-clock"]);
    let told = [http.request().json(), http.request().json()];
    assert!(told.iter().all(|it| it["event"] == "raised"), "{told:?}");
    http.is_silent();
    let jobs = "SELECT count(*), (SELECT count(*) FROM runs WHERE job_id = 1) FROM jobs WHERE state = 'done'";
    assert_eq!(place.catalog(jobs), [["1", "1"]]);
    // The clock is right again.
    for _ in 0..3 {
        place.pgkeep(&["watch"]).ok();
        place.pgkeep(&["run-due"]).ok();
    }
    assert_eq!(place.catalog(jobs), [["1", "1"]], "not a second time");
    // That it has gone back is an alert; what was wrong by the wrong clock is over, and that is said now and not in a day.
    assert_eq!(open(&place), ["WARNING clock-skew"]);
    let mut told: Vec<String> =
        (0..3).map(|_| http.request().json()["event"].as_str().unwrap().to_owned()).collect();
    told.sort();
    assert_eq!(told, ["closed", "closed", "raised"]);
    http.is_silent();
}

#[test]
fn a_clock_that_is_a_day_behind_is_said_once_and_what_waits_is_not_held_up() {
    let place = place();
    let http = Http::start();
    http.is_webhook_of(&place);
    http.answers(500, "no");
    // Written by a clock that is two days ahead, and not delivered: tried again in a minute, by that clock.
    place.set("PGPORT", "1");
    at(&place, &from_now(TimeDelta::days(2)), &["watch"]).ended_with(3);
    let _ = http.request();
    place.set("PGPORT", &cluster().port.to_string());
    place.pgkeep(&["verify", "--at", &from_now(TimeDelta::hours(1))]).ok();
    http.answers(200, "ok");
    place.pgkeep(&["watch"]).ok();
    let kinds = || {
        let request = http.request().json();
        let alert = &request["alerts"][0];
        format!("{} {}", request["event"].as_str().unwrap(), alert["alert_type"].as_str().unwrap())
    };
    let mut told = [kinds(), kinds(), kinds()];
    told.sort();
    assert_eq!(told, ["raised clock-skew", "raised no-good-backup", "raised server-unreachable"]);
    for _ in 0..2 {
        place.pgkeep(&["watch"]).ok();
        place.pgkeep(&["run-due"]).ok();
    }
    http.is_silent();
    assert_eq!(open(&place), ["WARNING clock-skew"]);
    assert_eq!(place.catalog("SELECT state FROM jobs"), [["waiting"]], "its time has not come by this clock");
}

#[test]
fn req_6_24_each_day_of_the_calendar_is_there_once_when_the_clock_is_put_forward_and_back() {
    let place = place();
    for now in ["2027-03-29T10:00:00Z", "2027-11-01T10:00:00Z"] {
        let page = place.path("page.html");
        at(&place, now, &["status", "--offline", "--html", page.to_str().unwrap()]);
        let text = std::fs::read_to_string(&page).unwrap();
        let calendar =
            text.split("<table class=\"calendar\">").nth(1).and_then(|it| it.split("</table>").next());
        let calendar = calendar.expect("a calendar");
        let today: DateTime<Utc> = now.parse().unwrap();
        for ago in 0..85 {
            let day = (today - TimeDelta::days(ago)).format("%Y-%m-%d").to_string();
            let times = calendar.matches(&format!("title=\"{day}: ")).count();
            assert_eq!(times, 1, "{day} at {now}");
        }
        std::fs::remove_file(&page).unwrap();
    }
}
