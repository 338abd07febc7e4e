//! Each rule fires on its case and stays silent otherwise.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::model::{BackupKind, Kind, Lsn};

fn at(hours: i64) -> Timestamp {
    Timestamp::from_timestamp(1_795_312_800 + hours * 3600, 0).unwrap()
}

const NOW: i64 = 1000;

fn limits() -> Limits {
    Limits {
        rpo: Duration::from_mins(15),
        rto: Duration::from_hours(1),
        backup_age: Duration::from_hours(26),
        backup_duration: None,
        size_percent: 20,
        storage_percent: 80,
        proof_age: Duration::from_hours(35 * 24),
        backlog: 16,
        min_copies: 2,
    }
}

fn id(hours: i64) -> BackupId {
    BackupId::new(at(hours), BackupKind::Database, 7)
}

/// A night's backup, so many nights ago.
fn made(nights: i64) -> Made {
    let hours = NOW - 1 - nights * 24;
    let series = "database shop".to_owned();
    Made { id: id(hours), series, bytes: 1 << 20, seconds: 100.0, finished_at: at(hours) }
}

/// All is well.
fn facts() -> Facts {
    Facts {
        now: at(NOW),
        has_key: true,
        key_fault: None,
        foreign_keys: Vec::new(),
        begun: Some(at(0)),
        latest: Some(at(NOW)),
        runs: Vec::new(),
        backups: (0..8).map(made).collect(),
        short: Vec::new(),
        short_wal: Vec::new(),
        damaged: Vec::new(),
        owed: Vec::new(),
        proofs: vec![(StoreName::Local, at(NOW - 24))],
        test_restore: Some(Duration::from_mins(10)),
        usage: vec![Usage { place: "store r2".to_owned(), used: 80, of: 100 }],
        certificates: vec![Certificate { of: "client.crt".to_owned(), until: at(NOW + 24 * 60) }],
        exposed: Vec::new(),
        safe: Some(safe(at(NOW))),
        seen: Vec::new(),
        tests: Vec::new(),
        holes: Some(Vec::new()),
        server: Server::Answered(archiving()),
    }
}

fn archiving() -> Archiving {
    Archiving { is_on: true, waiting: Some(1), pending: 1 << 20, ..Archiving::default() }
}

/// Segment 7 of 16 MiB is safe since then; it ends at 0/8000000.
fn safe(since: Timestamp) -> Safe {
    Safe { name: "000000010000000000000007".parse().unwrap(), at: since }
}

/// The types of what holds, with C or W in front and the subject behind.
fn found(facts: &Facts) -> Vec<String> {
    let shown = |it: Condition| format!("{:.1} {} {}", it.severity.as_str(), it.kind, it.subject);
    evaluate(facts, &limits()).into_iter().map(|it| shown(it).trim_end().to_owned()).collect()
}

#[track_caller]
fn expect(change: impl FnOnce(&mut Facts), expected: &[&str]) {
    let mut facts = facts();
    change(&mut facts);
    assert_eq!(found(&facts), expected);
    let kinds = decided(&facts);
    for condition in evaluate(&facts, &limits()) {
        assert!(kinds.contains(&condition.kind), "{} would never be over", condition.kind);
        assert!(is_condition(condition.kind) && !condition.message.is_empty());
    }
}

fn run(command: &str, arguments: &str, end: End, code: u8) -> EndedRun {
    EndedRun {
        id: "7".to_owned(),
        command: command.to_owned(),
        arguments: arguments.to_owned(),
        end,
        exit_code: (end != End::Died).then_some(code),
        message: Some("the server is away".to_owned()),
        at: at(NOW - 1),
        is_told: false,
        is_job: false,
    }
}

#[test]
fn where_all_is_well_nothing_is_said() {
    expect(|_| {}, &[]);
}

#[test]
fn req_6_22_what_failed_is_critical_until_the_same_succeeds() {
    let failed = |command: &str, arguments: &str| run(command, arguments, End::Failed, 30);
    expect(
        |it| it.runs = vec![failed("backup database", "--quiet backup database shop")],
        &["C backup-failed backup database shop"],
    );
    expect(
        |it| it.runs = vec![failed("restore", "restore latest --yes")],
        &["C restore-failed restore latest"],
    );
    expect(|it| it.runs = vec![failed("verify", "verify --store r2")], &["C verify-failed verify"]);
    // One that has looked at names and sizes does not make good one that could not read bytes.
    let quick = || run("verify", "verify", End::Done, 0);
    let deep = "verify --store r2 --deep";
    expect(|it| it.runs = vec![failed("verify", deep), quick()], &["C verify-failed verify --deep"]);
    // Of what somebody at a terminal was told nobody else need hear; cron is nobody.
    let code = |command: &str, kind: Kind, is_told| EndedRun {
        is_told,
        ..run(command, command, End::Failed, kind.exit_code())
    };
    expect(|it| it.runs = vec![code("cleanup", Kind::Refused, true)], &[]);
    expect(|it| it.runs = vec![code("cleanup", Kind::Refused, false)], &["W cleanup-failed cleanup"]);
    let dry = run("cleanup", "cleanup --dry-run", End::Done, 0);
    expect(|it| it.runs = vec![code("cleanup", Kind::Locked, false), dry], &["W cleanup-failed cleanup"]);
    expect(|it| it.runs = vec![code("restore", Kind::NotThere, false)], &[]);
    let job = || EndedRun { is_job: true, ..code("restore", Kind::NotThere, false) };
    expect(|it| it.runs = vec![job()], &["C restore-failed restore"]);
    expect(|it| it.runs = vec![code("test-restore", Kind::Locked, true)], &[]);
    expect(
        |it| it.runs = vec![code("test-restore", Kind::Locked, false)],
        &["C test-restore-failed test-restore"],
    );
    expect(
        |it| it.runs = vec![failed("test-restore", "test-restore")],
        &["C test-restore-failed test-restore"],
    );
    expect(
        |it| it.runs = vec![run("backup cluster", "backup cluster", End::Died, 0)],
        &["C backup-failed backup cluster"],
    );
    // Another command line, the same thing.
    let again = || run("backup database", "backup database shop -j 2", End::Done, 0);
    expect(|it| it.runs = vec![failed("backup database", "backup database shop"), again()], &[]);
    // Of another database it says nothing.
    expect(
        |it| it.runs = vec![failed("backup database", "backup database crm"), again()],
        &["C backup-failed backup database crm"],
    );
}

#[test]
fn a_test_restore_that_failed_is_one_condition_and_not_two() {
    let test = |refused| FailedTest {
        series: "database shop".to_owned(),
        backup: id(1),
        store: Some(StoreName::R2),
        refused,
        message: "a row is missing".to_owned(),
        run: Some("7".to_owned()),
    };
    let run = || run("test-restore", "test-restore", End::Failed, 4);
    expect(
        |it| (it.runs, it.tests) = (vec![run()], vec![test(false)]),
        &["C test-restore-failed database shop"],
    );
    expect(|it| it.tests = vec![test(true)], &["W test-restore-failed database shop"]);
    // Another run, which did not get as far as to a backup.
    let other = EndedRun { id: "8".to_owned(), ..run() };
    expect(
        |it| (it.runs, it.tests) = (vec![other], vec![test(false)]),
        &["C test-restore-failed test-restore", "C test-restore-failed database shop"],
    );
}

#[test]
fn what_a_person_was_told_at_once_is_no_alert() {
    for code in [1, 2, 5, 11] {
        expect(|it| it.runs = vec![run("restore", "restore latest", End::Failed, code)], &[]);
    }
    expect(|it| it.runs = vec![run("backup database", "backup database", End::Interrupted, 130)], &[]);
    expect(|it| it.runs = vec![run("list", "list", End::Failed, 70)], &[]);
    // cron was told it too, and nobody reads that.
    let locked = run("backup database", "backup database", End::Failed, 11);
    expect(|it| it.runs = vec![locked], &["C backup-failed backup database"]);
}

#[test]
fn req_6_22_no_backup_for_too_long_is_critical() {
    let later = |it: &mut Facts, hours| {
        it.now = at(NOW + hours);
        it.safe = Some(safe(it.now));
    };
    expect(|it| later(it, 24), &[]);
    expect(|it| later(it, 26), &["C no-good-backup"]);
    // Twice the usual distance: this one is overdue by itself.
    expect(|it| later(it, 48), &["C no-good-backup", "C no-good-backup database shop"]);
    expect(|it| it.backups = Vec::new(), &["C no-good-backup"]);
    let of_config = || Made { series: "config".to_owned(), ..made(0) };
    expect(|it| it.backups = vec![of_config()], &["C no-good-backup"]);
    expect(
        |it| {
            it.backups = Vec::new();
            it.begun = Some(at(NOW - 20));
        },
        &[],
    );
    // What was made once by hand is nobody's schedule; what is made every week has a week's time.
    let once = || Made { series: "database crm".to_owned(), ..made(30) };
    expect(|it| it.backups.push(once()), &[]);
    let weekly = |weeks: i64| Made { series: "config".to_owned(), ..made(7 * weeks + 5) };
    expect(|it| it.backups.extend((0..4).map(weekly)), &[]);
    let weekly = |weeks: i64| Made { series: "config".to_owned(), ..made(7 * weeks + 15) };
    expect(|it| it.backups.extend((0..4).map(weekly)), &["C no-good-backup config"]);
}

#[test]
fn req_6_22_damage_holes_and_too_few_copies_are_critical() {
    let damaged = || Damaged { of: id(1).to_string(), store: StoreName::R2, objects: 1 };
    expect(|it| it.damaged = vec![damaged()], &[&*format!("C damage {} in r2", id(1))]);
    expect(|it| it.short = vec![Short { id: id(1), good: 1 }], &[&*format!("C too-few-copies {}", id(1))]);
    expect(|it| it.short = vec![Short { id: id(1), good: 2 }], &[]);
    let hole = || Hole {
        missing: "000000010000000000000007".to_owned(),
        next: "000000010000000000000009".to_owned(),
    };
    expect(|it| it.holes = Some(vec![hole()]), &["C wal-hole 000000010000000000000007"]);
    let lacking = |good| ShortWal { good, files: 3, first: "000000010000000000000007".to_owned() };
    expect(|it| it.short_wal = vec![lacking(2)], &[]);
    expect(
        |it| it.short_wal = vec![lacking(0), lacking(1)],
        &["C too-few-copies WAL", "C too-few-copies WAL without a copy"],
    );
    expect(|it| it.has_key = false, &["C key-missing"]);
    let used = |backups: u64, wal| UsedKey {
        key: "ab12".to_owned(),
        backups,
        newest: (backups > 0).then(|| id(0)),
        wal_until: wal,
    };
    expect(|it| it.foreign_keys = vec![used(1, None)], &["C key-missing ab12"]);
    let said = |backups, wal| {
        let facts = Facts { foreign_keys: vec![used(backups, wal)], ..facts() };
        evaluate(&facts, &limits()).remove(0).message
    };
    assert!(said(1, None).starts_with(&format!("{} can't be restored", id(0))), "{}", said(1, None));
    let both = format!("{} and 2 backups before it and WAL up to {} can't", id(0), timestamp_text(at(1)));
    assert!(said(3, Some(at(1))).starts_with(&both), "{}", said(3, Some(at(1))));
    assert!(said(0, Some(at(1))).starts_with("WAL up to "), "{}", said(0, Some(at(1))));
}

#[test]
fn req_6_12_and_6_22_rpo_over_target_is_critical_only_when_something_could_be_lost() {
    let late = at(NOW) - TimeDelta::minutes(16);
    expect(|it| it.safe = Some(safe(late)), &["C rpo"]);
    expect(|it| it.safe = Some(safe(at(NOW) - TimeDelta::minutes(14))), &[]);
    expect(|it| it.safe = None, &["C rpo"]);
    // Nobody has written anything.
    let idle = Archiving { waiting: Some(0), pending: 200, ..archiving() };
    expect(
        |it| {
            it.safe = Some(safe(late));
            it.server = Server::Answered(idle);
        },
        &[],
    );
    let off = Archiving { is_on: false, ..archiving() };
    expect(
        |it| {
            it.safe = None;
            it.server = Server::Answered(off);
        },
        &[],
    );
}

#[test]
fn req_6_12_the_first_write_after_a_long_pause_is_as_old_as_the_last_look_that_found_nothing() {
    let minutes = |ago: i64| at(NOW) - TimeDelta::minutes(ago);
    let seen = |ago: i64, lsn: u64, archived| Seen { at: minutes(ago), timeline: 1, lsn: Lsn(lsn), archived };
    let writes = |lsn: u64| {
        let position = Position { timeline: 1, lsn: Lsn(lsn), segment_size: 16 << 20 };
        Server::Answered(Archiving { waiting: None, position: Some(position), ..archiving() })
    };
    let case = |looks: Vec<Seen>, lsn: u64, expected: &[&str]| {
        expect(
            |it| {
                // Archived three hours ago, and then nobody wrote anything.
                (it.safe, it.seen, it.server) = (Some(safe(minutes(180))), looks, writes(lsn));
            },
            expected,
        );
    };
    let (idle, written) = (0x800_0200, 0x820_0000);
    case(vec![], idle, &[]);
    // Nobody has looked: it may be three hours old.
    case(vec![], written, &["C rpo"]);
    case(vec![seen(5, idle, true)], written, &[]);
    case(vec![seen(5, idle, false)], written, &[]);
    case(vec![seen(16, idle, true)], written, &["C rpo"]);
    case(vec![seen(30, idle, true), seen(16, written, false), seen(5, written, false)], written, &["C rpo"]);
    case(vec![seen(16, idle, true), seen(5, written, false)], written, &["C rpo"]);
    case(vec![seen(14, idle, true), seen(5, written, false)], written, &[]);
    // Of another timeline it says nothing, and neither does what was seen by a clock that has been put back.
    let other = Seen { timeline: 2, ..seen(5, idle, false) };
    case(vec![other, seen(-60, idle, true)], written, &["C rpo"]);
    // The archiver was slow: the segment got there just now, and behind it was something long before.
    expect(
        |it| {
            (it.safe, it.server) = (Some(safe(minutes(1))), writes(written));
            it.seen = vec![seen(40, idle - 0x10_0000, false), seen(20, written, false)];
        },
        &["C rpo"],
    );
    // And with nothing waiting and nothing written since, it does not matter how long ago that was.
    case(vec![seen(20, written, false)], 0x800_0000, &[]);
}

#[test]
fn req_6_23_sizes_and_durations_are_compared_with_the_median_of_those_before() {
    let bytes = |factor: f64| (f64::from(1 << 20) * factor) as u64;
    expect(|it| it.backups[0].bytes = bytes(1.21), &["W backup-size database shop"]);
    expect(|it| it.backups[0].bytes = bytes(0.79), &["W backup-size database shop"]);
    expect(|it| it.backups[0].bytes = bytes(1.19), &[]);
    // One that was odd before does not make the next one odd.
    expect(|it| it.backups[1].bytes = bytes(9.0), &[]);
    expect(|it| it.backups[0].seconds = 201.0, &["W backup-duration database shop"]);
    expect(|it| it.backups[0].seconds = 199.0, &[]);
    // Too few to know what is usual.
    expect(
        |it| {
            it.backups.truncate(3);
            it.backups[0].bytes = bytes(5.0);
        },
        &[],
    );
    let mut slow = facts();
    slow.backups[0].seconds = 150.0;
    let limits = Limits { backup_duration: Some(Duration::from_mins(2)), ..limits() };
    assert_eq!(evaluate(&slow, &limits)[0].kind, "backup-duration");
}

#[test]
fn req_6_23_what_fills_up_grows_old_or_is_owed_is_a_warning() {
    let place = |used| vec![Usage { place: "store r2".to_owned(), used, of: 100 }];
    expect(|it| it.usage = place(81), &["W storage store r2"]);
    expect(|it| it.usage = place(80), &[]);
    let owed = |hours| vec![Owed { store: StoreName::B2, objects: 3, since: at(NOW - hours) }];
    expect(|it| it.owed = owed(25), &["W copies-owed b2"]);
    expect(|it| it.owed = owed(23), &[]);
    expect(|it| it.proofs = vec![(StoreName::R2, at(NOW - 36 * 24))], &["W proof-too-old r2"]);
    expect(|it| it.test_restore = Some(Duration::from_mins(61)), &["W rto"]);
    expect(|it| it.certificates[0].until = at(NOW + 13 * 24), &["W certificate client.crt"]);
    expect(|it| it.certificates[0].until = at(NOW + 15 * 24), &[]);
    expect(|it| it.exposed = vec![("k".to_owned(), "others can read it".to_owned())], &["W key-exposed k"]);
}

#[test]
fn req_6_23_an_archiver_that_fails_or_falls_behind_is_a_warning() {
    let failing = Some(("000000010000000000000007".to_owned(), at(NOW)));
    let fails = Archiving { failing, ..archiving() };
    expect(|it| it.server = Server::Answered(fails), &["W archiver-failing"]);
    let behind = Archiving { waiting: Some(17), ..archiving() };
    expect(|it| it.server = Server::Answered(behind), &["W archiver-backlog"]);
    expect(|it| it.server = Server::Unreachable("it is down".to_owned()), &["W server-unreachable"]);
}

#[test]
fn a_clock_that_jumps_is_a_warning_and_never_a_panic() {
    expect(|it| it.latest = Some(at(NOW + 1)), &["W clock-skew"]);
    let ahead = Archiving { clock_ahead: TimeDelta::minutes(-3), ..archiving() };
    expect(|it| it.server = Server::Answered(ahead), &["W server-clock"]);
    // Back before everything: nothing is old then, and it is said.
    expect(|it| it.now = at(-1), &["W clock-skew"]);
    // A year forth: all that has an age has a great one.
    let mut later = facts();
    later.now = at(NOW + 24 * 365);
    let kinds: Vec<_> = evaluate(&later, &limits()).into_iter().map(|it| it.kind).collect();
    for kind in ["no-good-backup", "rpo", "proof-too-old", "certificate"] {
        assert!(kinds.contains(&kind), "{kind} is not in {kinds:?}");
    }
}

#[test]
fn what_was_not_looked_at_is_not_decided_upon() {
    let mut facts = facts();
    facts.server = Server::NotAsked;
    facts.holes = None;
    assert_eq!(decided(&facts), ALWAYS);
    facts.server = Server::Unreachable("no".to_owned());
    assert!(!decided(&facts).contains(&"rpo"), "what the server would have said is not known");
    assert!(!is_condition("wal-refused") && is_condition("rpo"));
}

#[test]
fn req_6_22_a_server_that_archives_no_more_is_critical_and_rpo_is_not_over_by_that() {
    let off = || Archiving { is_on: false, waiting: Some(0), ..archiving() };
    expect(|it| it.server = Server::Answered(off()), &["C archiving-off"]);
    let kinds = |server: Archiving| {
        let mut facts = facts();
        facts.server = Server::Answered(server);
        decided(&facts)
    };
    assert!(!kinds(off()).contains(&"rpo") && kinds(off()).contains(&"archiving-off"));
    assert!(kinds(archiving()).contains(&"rpo") && kinds(archiving()).contains(&"archiving-off"));
    // It is for the primary to archive.
    let standby = || Archiving { is_standby: true, ..off() };
    expect(|it| it.server = Server::Answered(standby()), &[]);
    for kind in ["rpo", "archiving-off", "archiver-failing", "archiver-backlog"] {
        assert!(!kinds(standby()).contains(&kind), "{kind}");
    }
}

#[test]
fn req_6_12_an_archiver_that_fails_has_not_archived_everything() {
    let failing = Some(("000000010000000000000007".to_owned(), at(NOW)));
    let fails = Archiving { failing, waiting: None, pending: 200, ..archiving() };
    expect(
        |it| {
            it.safe = Some(safe(at(NOW) - TimeDelta::minutes(16)));
            it.server = Server::Answered(fails);
        },
        &["C rpo", "W archiver-failing"],
    );
}

#[test]
fn req_6_12_only_wal_of_the_servers_own_line_counts() {
    let histories =
        [(2, "1\t0/8000000\tno recovery target specified\n"), (4, "1\t0/9000000\tx\n3\t0/A000000\tx\n")];
    let histories = histories
        .map(|(timeline, text)| (timeline, crate::model::TimelineHistory::parse(text.as_bytes()).unwrap()))
        .into();
    let counts = |name: &str, timeline| {
        let position = Position { timeline, lsn: Lsn(0xC00_0000), segment_size: 16 << 20 };
        exposure::is_of_its_line(&name.parse().unwrap(), &position, &histories)
    };
    for (name, timeline, expected) in [
        ("000000010000000000000007", 1, true),
        // A server for an exercise.
        ("00000002000000000000000B", 1, false),
        ("00000002000000000000000B", 2, true),
        // Before and behind the place where it was left.
        ("000000010000000000000007", 2, true),
        ("000000010000000000000008", 2, false),
        ("000000030000000000000009", 4, true),
        ("000000020000000000000007", 4, false),
        // Its history is not known yet.
        ("000000010000000000000009", 3, true),
    ] {
        assert_eq!(counts(name, timeline), expected, "{name} on {timeline}");
    }
}
