//! Ninety days of a plausible life, written into the catalog of an initialised place: backups of every kind, WAL by the
//! hour, runs, test restores, alerts and jobs. For what only looks at the catalog.

use chrono::{DateTime, Datelike as _, Days, NaiveTime, TimeDelta, Timelike as _, Utc, Weekday};
use pgkeep::model::timestamp_text;
use rusqlite::{Connection, params};

use super::Place;

/// What sort of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    /// Nothing went wrong.
    Well,
    /// A hole in the WAL long ago, a failed backup, copies owed, alerts.
    Mixed,
}

const STORES: [&str; 3] = ["local", "r2", "b2"];
const SEGMENT: u64 = 16 << 20;

/// Writes it down; all of it ends now.
pub(crate) fn fill(place: &Place, mood: Mood) {
    let mut connection = Connection::open(place.state().join("catalog.sqlite")).expect("open the catalog");
    let transaction = connection.transaction().expect("begin");
    let mut life = Life { catalog: &transaction, now: Utc::now(), mood, state: 7, segment: 0xA000 };
    let first = life.now.date_naive() - Days::new(90);
    for day in 0..=90 {
        let date = first + Days::new(day);
        for hour in 0..24 {
            let at = date.and_time(NaiveTime::from_hms_opt(hour, 0, 0).unwrap()).and_utc();
            if at < life.now {
                life.hour(at, 90 - day as i64);
            }
        }
        life.usage(date, day);
    }
    life.last_things();
    transaction.commit().expect("commit");
}

struct Life<'a> {
    catalog: &'a Connection,
    now: DateTime<Utc>,
    mood: Mood,
    state: u64,
    segment: u64,
}

impl Life<'_> {
    fn random(&mut self, below: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state % below
    }

    fn hex(&mut self, digits: usize) -> String {
        (0..digits).map(|_| char::from_digit(self.random(16) as u32, 16).unwrap()).collect()
    }

    fn put(&self, sql: &str, values: impl rusqlite::Params) {
        self.catalog.prepare_cached(sql).expect("prepare").execute(values).expect("insert");
    }

    fn hour(&mut self, at: DateTime<Utc>, days_ago: i64) {
        self.wal(at, days_ago);
        let growth = 1.0 + (90 - days_ago) as f64 / 140.0;
        let shake = 0.95 + self.random(1000) as f64 / 10_000.0;
        let is_sunday = at.weekday() == Weekday::Sun;
        let hours = |hours: i64| TimeDelta::minutes(hours);
        match at.hour() {
            1 if is_sunday || days_ago == 90 || days_ago == 36 => {
                self.backup("cluster", None, None, at, 5.2e9 * growth, 3.6, 1_800.0 * growth * shake);
            }
            2 if self.mood == Mood::Mixed && days_ago == 21 => {
                let message = "connect to database \"shop\": the server is shutting down";
                self.run("backup database", at, 12.0, ("failed", 30, Some(message)));
            }
            2 => {
                self.backup(
                    "database",
                    Some("shop"),
                    None,
                    at,
                    8.2e8 * growth * shake,
                    4.4,
                    410.0 * growth * shake,
                );
                self.backup("database", Some("crm"), None, at + hours(20), 1.1e8 * growth, 5.1, 70.0 * shake);
            }
            3 if is_sunday => self.backup("config", None, None, at, 240_000.0, 4.1, 1.2),
            4 if days_ago % 7 == 0 => {
                for tenant in 0..12 {
                    let (id, size) = ((1000 + tenant).to_string(), 3e6 * f64::from(tenant + 1) * growth);
                    let at = at + TimeDelta::seconds(9 * i64::from(tenant));
                    self.backup(
                        "tenant",
                        Some("shop"),
                        Some(&id),
                        at,
                        size,
                        5.0,
                        4.0 + f64::from(tenant) * 0.6,
                    );
                }
            }
            _ => {}
        }
        match at.hour() % 6 {
            0 => self.run("verify", at + hours(30), 14.0, ("done", 0, None)),
            1 if self.mood == Mood::Mixed && days_ago == 0 => {
                let message = "done, but incomplete: something is missing or a warning stands";
                self.run("sync", at + hours(45), 3.0, ("incomplete", 3, Some(message)));
            }
            1 => self.run("sync", at + hours(45), 3.0, ("done", 0, None)),
            _ => {}
        }
    }

    fn wal(&mut self, at: DateTime<Utc>, days_ago: i64) {
        let distance = (i64::from(at.hour()) - 14).unsigned_abs();
        let busy = 12 + 9 * 8_u64.saturating_sub(distance) / 8;
        for number in 0..busy {
            let at = at + TimeDelta::seconds((3600 * number / busy) as i64);
            if at > self.now - TimeDelta::minutes(4) {
                break;
            }
            self.segment += 1;
            if self.mood == Mood::Mixed && days_ago == 38 && at.hour() == 11 && (2..4).contains(&number) {
                continue;
            }
            let name = format!("00000001{:08X}{:08X}", self.segment / 256, self.segment % 256);
            let (sha, size) = (self.hex(64), 200_000 + self.random(320_000) as i64);
            for store in STORES {
                let is_owed =
                    self.mood == Mood::Mixed && store == "b2" && at > self.now - TimeDelta::hours(3);
                let stored =
                    (!is_owed).then(|| timestamp_text(at + TimeDelta::seconds(self.random(8) as i64)));
                self.put(
                    "INSERT INTO wal_segments (timeline, segment, content_sha256, store, size_bytes, state, stored_at, \
                     proven_at, proven_how) VALUES (1, ?1, ?2, ?3, ?4, iif(?5 IS NULL, 'owed', 'good'), ?5, ?5, \
                     iif(?5 IS NULL, NULL, 'written'))",
                    params![name, sha, store, size, stored],
                );
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a backup has as many properties")]
    fn backup(
        &mut self,
        kind: &str,
        database: Option<&str>,
        tenant: Option<&str>,
        at: DateTime<Utc>,
        read: f64,
        ratio: f64,
        seconds: f64,
    ) {
        if at > self.now {
            return;
        }
        let id = format!("{}-{kind}-{}", at.format("%Y%m%dT%H%M%SZ"), self.hex(8));
        let size = (read / ratio) as i64;
        let lsn =
            |segment: u64| format!("{:X}/{:X}", (segment * SEGMENT) >> 32, (segment * SEGMENT) & 0xFFFF_FFFF);
        let is_cluster = kind == "cluster";
        let (start, stop, checksum) = (lsn(self.segment - 1), lsn(self.segment), self.hex(64));
        self.put(
            "INSERT INTO backups (id, type, database, tenant_id, filename, status, size_bytes, original_size_bytes, \
             compressed_size_bytes, checksum, local_path, r2_path, b2_path, codec, rows, entries, format_version, \
             pgkeep_version, started_at, finished_at, seconds, consistent_at, timeline, start_lsn, stop_lsn, \
             wal_segment_size, damaged_pages) VALUES (?1, ?2, ?3, ?4, ?5, 'complete', ?6, ?7, ?6, ?8, ?5, ?5, ?5, \
             'zstd:5', 10, 10, 1, '0.1.0', ?9, ?10, ?11, ?9, ?12, ?13, ?14, ?15, 0)",
            params![
                id,
                kind,
                database,
                tenant,
                format!("{}/backups/{id}/", place_name()),
                size,
                read as i64,
                checksum,
                timestamp_text(at),
                timestamp_text(at + TimeDelta::seconds(seconds as i64)),
                seconds,
                is_cluster.then_some(1),
                is_cluster.then_some(start),
                is_cluster.then_some(stop),
                is_cluster.then_some(SEGMENT as i64),
            ],
        );
        for (object, bytes) in [("data.00000", size - 900), ("manifest", 900)] {
            let sha = self.hex(64);
            for store in STORES {
                let age = (self.now - at).num_days().min([1, 2, 5, 9, 12, 20, 28][self.random(7) as usize]);
                self.put(
                    "INSERT INTO copies (backup_id, object, store, size_bytes, sha256, state, seen_at, proven_at, \
                     proven_how) VALUES (?1, ?2, ?3, ?4, ?5, 'good', ?6, ?6, 'read')",
                    params![id, object, store, bytes, sha, timestamp_text(self.now - TimeDelta::days(age))],
                );
            }
        }
        self.run(&format!("backup {kind}"), at, seconds, ("done", 0, None));
    }

    fn run(&mut self, command: &str, at: DateTime<Utc>, seconds: f64, end: (&str, u8, Option<&str>)) {
        if at > self.now {
            return;
        }
        let (outcome, code, message) = end;
        let id = self.hex(8);
        self.put(
            "INSERT INTO runs (id, command, arguments, user, host, terminal, pid, pgkeep_version, started_at, ended_at, \
             seconds, outcome, exit_code, message) VALUES (?1, ?2, '--quiet ' || ?2, 'postgres', 'db1', 'none', 4711, \
             '0.1.0', ?3, ?4, ?5, ?6, ?7, ?8)",
            params![
                id,
                command,
                timestamp_text(at),
                timestamp_text(at + TimeDelta::seconds(seconds as i64)),
                seconds,
                outcome,
                code,
                message
            ],
        );
    }

    fn usage(&mut self, date: chrono::NaiveDate, day: u64) {
        for store in STORES {
            let bytes = 2_000_000_000 + day as i64 * 680_000_000;
            self.put(
                "INSERT INTO store_usage VALUES (?1, ?2, ?3, 4000)",
                params![date.to_string(), store, bytes],
            );
        }
    }

    fn last_things(&mut self) {
        for (kind, skipped, days, seconds) in
            [("cluster", 3, 27, 2510.0), ("database", 40, 27, 640.0), ("cluster", 8, 58, 2300.0)]
        {
            let at = self.now - TimeDelta::days(days);
            self.put(
                "INSERT INTO restore_log (backup_id, initiated_by, restore_mode, state, started_at, ended_at, seconds, \
                 purpose) SELECT id, 'postgres', 'full', 'done', ?1, ?2, ?3, 'test' FROM backups WHERE type = ?4 \
                 ORDER BY id DESC LIMIT 1 OFFSET ?5",
                params![
                    timestamp_text(at),
                    timestamp_text(at + TimeDelta::seconds(seconds as i64)),
                    seconds,
                    kind,
                    skipped
                ],
            );
        }
        if self.mood == Mood::Well {
            return;
        }
        let ago = |hours: i64| timestamp_text(self.now - TimeDelta::hours(hours));
        for (kind, about, message, hours, times) in [
            (
                "backup-size",
                "crm",
                "backup of database crm: 31% larger than the median of its last seven",
                9,
                2,
            ),
            ("copies-owed", "b2", "store b2 is owed copies for more than a day", 27, 26),
        ] {
            self.put(
                "INSERT INTO alerts (alert_type, severity, message, created_at, subject, times) \
                 VALUES (?1, 'WARNING', ?2, ?3, ?4, ?5)",
                params![kind, message, ago(hours), about, times],
            );
        }
        self.put(
            "INSERT INTO jobs (command, arguments, priority, scheduled_for, requested_by, created_at) \
             VALUES ('backup tenant', '[\"backup\", \"tenant\", \"1004\"]', 7, ?1, 'ada', ?2)",
            params![ago(-5), ago(1)],
        );
    }
}

/// The cluster's name of every place.
const fn place_name() -> &'static str {
    "test"
}
