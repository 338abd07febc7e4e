//! How healthy the backups are: from facts to a score, with what takes points away and how to get them back.
//!
//! The score begins at 100. Each rule of [`RULES`] whose condition holds takes its points away, once, however often it
//! holds; below 0 it does not go. The README has the same table, and a test holds it to this one.

use std::time::Duration;

use serde::Serialize;

use crate::model::StoreName;

/// How old the newest successful test restore may become: a month and some days.
pub const TEST_LIMIT: Duration = Duration::from_hours(35 * 24);

/// How old the newest backup may become: a week and a day, because some make one a week and archive WAL in between.
pub const BACKUP_LIMIT: Duration = Duration::from_hours(8 * 24);

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// To be looked at some day soon.
    Warning,
    /// To be looked at now: a restore may fail, or bring back too little.
    Critical,
}

/// The state of all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nothing takes points away.
    Good,
    /// Something is to be looked at some day soon.
    Attention,
    /// Something is to be looked at now.
    Critical,
}

impl State {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Attention => "attention",
            Self::Critical => "critical",
        }
    }
}

/// A rule that may take points away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// What programs know it by.
    pub code: &'static str,
    /// How bad it is.
    pub level: Level,
    /// The points that it takes.
    pub points: u32,
    /// When it holds.
    pub when: &'static str,
    /// How the points come back.
    pub remedy: &'static str,
}

const fn critical(code: &'static str, points: u32, when: &'static str, remedy: &'static str) -> Rule {
    Rule { code, level: Level::Critical, points, when, remedy }
}

const fn warning(code: &'static str, points: u32, when: &'static str, remedy: &'static str) -> Rule {
    Rule { code, level: Level::Warning, points, when, remedy }
}

/// All rules, the heaviest first.
pub const RULES: [Rule; 18] = [
    critical(
        "no_backup",
        100,
        "there is no backup",
        "make one: pgkeep backup database, or pgkeep backup cluster",
    ),
    critical(
        "backup_lost",
        40,
        "no store has all of a backup",
        "see which with pgkeep verify, then pgkeep sync",
    ),
    critical("no_store", 30, "no store answers", "see why with pgkeep check"),
    critical(
        "rpo",
        25,
        "the newest data that is safe is older than RPO_TARGET",
        "see why the archiver or the backup does not run: pgkeep check",
    ),
    critical(
        "hole",
        25,
        "WAL is missing behind the newest cluster backup",
        "make a new one now: pgkeep backup cluster",
    ),
    critical(
        "test_failed",
        25,
        "the last test restore of a kind of backup failed",
        "read why in the log of runs, then pgkeep test-restore",
    ),
    critical("damaged", 20, "copies are damaged or missing", "make them anew from good ones: pgkeep sync"),
    critical(
        "too_few_copies",
        15,
        "a backup is whole in fewer stores than BACKUP_MIN_COPIES",
        "make the copies: pgkeep sync",
    ),
    critical(
        "failed",
        15,
        "the last run of a command in the crontab failed or died",
        "read its message, and run it by hand",
    ),
    critical(
        "backup_old",
        15,
        "the newest backup is older than 8 days",
        "see why cron does not make one, and make one now",
    ),
    critical(
        "alert_critical",
        10,
        "a CRITICAL alert is open and nobody has acknowledged it",
        "do what it says, then pgkeep alerts ack",
    ),
    warning(
        "rto",
        15,
        "the slowest of the last test restores took longer than RTO_TARGET",
        "restore with more --jobs, or from a nearer store",
    ),
    warning(
        "rto_unknown",
        10,
        "no test restore has succeeded for 35 days, or ever",
        "run one: pgkeep test-restore",
    ),
    warning("store_away", 10, "a store does not answer", "see why with pgkeep check"),
    warning(
        "proof",
        10,
        "a copy was not proven for BACKUP_PROOF_MAX_AGE",
        "read it: pgkeep verify, or all of them with --deep",
    ),
    warning("owed", 5, "copies are owed to a store", "make them: pgkeep sync"),
    warning(
        "old_hole",
        5,
        "WAL is missing between older cluster backups",
        "it can't be had any more; the windows on both sides can be reached",
    ),
    warning(
        "alert_warning",
        3,
        "a WARNING alert is open and nobody has acknowledged it",
        "do what it says, then pgkeep alerts ack",
    ),
];

/// What is known. Ages are from now back.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// `RPO_TARGET`.
    pub rpo_target: Duration,
    /// `RTO_TARGET`.
    pub rto_target: Duration,
    /// `BACKUP_PROOF_MAX_AGE`.
    pub proof_max_age: Duration,
    /// How old the newest data is that is safe in enough stores; `None` when none is.
    pub rpo: Option<Duration>,
    /// How long the slowest of the newest successful test restores of each kind took; `None`: never measured.
    pub rto: Option<Duration>,
    /// How long ago the newest successful test restore was.
    pub tested: Option<Duration>,
    /// The kinds of backup whose last test restore failed.
    pub failed_tests: Vec<String>,
    /// How old the newest backup is.
    pub newest_backup: Option<Duration>,
    /// Backups that no store has whole.
    pub lost: u64,
    /// Backups that fewer stores have whole than should.
    pub short: u64,
    /// Whether WAL is missing behind the newest cluster backup.
    pub hole: bool,
    /// Holes between older ones.
    pub old_holes: u64,
    /// Copies that were never made.
    pub owed: u64,
    /// Copies that are gone.
    pub missing: u64,
    /// Copies that are not what was written.
    pub damaged: u64,
    /// Stores that were asked.
    pub asked: usize,
    /// Those that did not answer.
    pub away: Vec<StoreName>,
    /// How long ago the copy was proven that was proven least lately.
    pub oldest_proof: Option<Duration>,
    /// What cron ran and failed the last time.
    pub failed: Vec<String>,
    /// Open CRITICAL alerts that nobody has acknowledged.
    pub critical_alerts: u64,
    /// The same of WARNING.
    pub warning_alerts: u64,
}

/// A rule that holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Deduction {
    /// What programs know it by.
    pub code: &'static str,
    /// How bad it is.
    pub level: Level,
    /// The points that it takes.
    pub points: u32,
    /// What is the matter.
    pub what: String,
    /// How the points come back.
    pub remedy: &'static str,
}

/// The result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Health {
    /// 0 to 100.
    pub score: u32,
    /// In a word.
    pub state: State,
    /// What takes points away, the heaviest first.
    pub deductions: Vec<Deduction>,
}

/// Decides.
pub fn judge(facts: &Facts) -> Health {
    let holds = |rule: &Rule| {
        said(rule.code, facts).map(|what| Deduction {
            code: rule.code,
            level: rule.level,
            points: rule.points,
            what,
            remedy: rule.remedy,
        })
    };
    let mut deductions: Vec<Deduction> = RULES.iter().filter_map(holds).collect();
    deductions.sort_by_key(|deduction| std::cmp::Reverse(deduction.points));
    let lost: u32 = deductions.iter().map(|deduction| deduction.points).sum();
    let state = match deductions.iter().map(|deduction| deduction.level).max() {
        None => State::Good,
        Some(Level::Warning) => State::Attention,
        Some(Level::Critical) => State::Critical,
    };
    Health { score: 100_u32.saturating_sub(lost), state, deductions }
}

/// What is the matter, in words, if the rule holds.
fn said(code: &str, facts: &Facts) -> Option<String> {
    let there_is_one = facts.newest_backup.is_some();
    let counted = |count: u64, what: &str| {
        (count > 0).then(|| format!("{count} {what}{}", if count == 1 { "" } else { "s" }))
    };
    match code {
        "no_backup" => (!there_is_one).then(|| "there is no backup".to_owned()),
        "backup_lost" => counted(facts.lost, "backup").map(|it| format!("no store has all of {it}")),
        "no_store" => {
            (facts.asked > 0 && facts.away.len() == facts.asked).then(|| "no store answers".to_owned())
        }
        "rpo" => match facts.rpo {
            Some(age) if age > facts.rpo_target => Some(format!(
                "the newest data that is safe is {} old, the target is {}",
                days(age),
                days(facts.rpo_target)
            )),
            // Without any backup one sentence is enough.
            None if there_is_one => Some("no data is safe in enough stores".to_owned()),
            _ => None,
        },
        "hole" => facts.hole.then(|| "WAL is missing behind the newest cluster backup".to_owned()),
        "test_failed" => (!facts.failed_tests.is_empty())
            .then(|| format!("the last test restore failed: {}", facts.failed_tests.join(", "))),
        "damaged" => {
            counted(facts.damaged + facts.missing, "stored file").map(|it| format!("{it} damaged or missing"))
        }
        "too_few_copies" => {
            counted(facts.short, "backup").map(|it| format!("{it} in fewer stores than there should be"))
        }
        "failed" => {
            (!facts.failed.is_empty()).then(|| format!("the last run failed: {}", facts.failed.join(", ")))
        }
        "backup_old" => facts
            .newest_backup
            .filter(|age| *age > BACKUP_LIMIT)
            .map(|age| format!("the newest backup is {} old", days(age))),
        "alert_critical" => counted(facts.critical_alerts, "open CRITICAL alert"),
        "rto" => facts.rto.filter(|took| *took > facts.rto_target).map(|took| {
            format!("a test restore took {}, the target is {}", days(took), days(facts.rto_target))
        }),
        "rto_unknown" => match facts.tested {
            _ if !there_is_one => None,
            None => Some("how long a restore takes was never measured".to_owned()),
            Some(age) => {
                (age > TEST_LIMIT).then(|| format!("the last successful test restore was {} ago", days(age)))
            }
        },
        "store_away" => (!facts.away.is_empty() && facts.away.len() < facts.asked).then(|| {
            let names: Vec<&str> = facts.away.iter().map(|store| store.as_str()).collect();
            format!("no answer from {}", names.join(", "))
        }),
        "proof" => facts
            .oldest_proof
            .filter(|age| *age > facts.proof_max_age)
            .map(|age| format!("a copy was last proven {} ago", days(age))),
        "owed" => counted(facts.owed, "stored file").map(|it| format!("{it} owed to a store")),
        "old_hole" => counted(facts.old_holes, "hole").map(|it| format!("{it} in older WAL")),
        "alert_warning" => counted(facts.warning_alerts, "open WARNING alert"),
        _ => None,
    }
}

/// A duration in its two largest units: `4 min 12 s`, `3 h 5 min`, `12 d 3 h`.
pub fn days(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (large, small) = match seconds {
        0..60 => return format!("{seconds} s"),
        60..3600 => ((seconds / 60, "min"), (seconds % 60, "s")),
        3600..86_400 => ((seconds / 3600, "h"), (seconds % 3600 / 60, "min")),
        _ => ((seconds / 86_400, "d"), (seconds % 86_400 / 3600, "h")),
    };
    match small.0 {
        0 => format!("{} {}", large.0, large.1),
        _ => format!("{} {} {} {}", large.0, large.1, small.0, small.1),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn minutes(count: u64) -> Duration {
        Duration::from_mins(count)
    }

    fn well() -> Facts {
        Facts {
            rpo_target: minutes(15),
            rto_target: minutes(60),
            proof_max_age: minutes(60 * 24 * 30),
            rpo: Some(minutes(4)),
            rto: Some(minutes(12)),
            tested: Some(minutes(60 * 24 * 20)),
            newest_backup: Some(minutes(60 * 12)),
            asked: 3,
            oldest_proof: Some(minutes(60 * 24 * 3)),
            ..Facts::default()
        }
    }

    #[test]
    fn where_nothing_is_wrong_there_are_a_hundred_points() {
        assert_eq!(judge(&well()), Health { score: 100, state: State::Good, deductions: Vec::new() });
    }

    /// Every rule, alone: it takes its points, and its level decides the state.
    #[test]
    fn each_rule_takes_its_points_and_no_other_does() {
        type Spoil = fn(&mut Facts);
        let spoilt: [(&str, Spoil); RULES.len()] = [
            ("no_backup", |it| (it.newest_backup, it.rpo, it.tested, it.rto) = (None, None, None, None)),
            ("backup_lost", |it| it.lost = 1),
            ("no_store", |it| it.away = vec![StoreName::Local, StoreName::R2, StoreName::B2]),
            ("rpo", |it| it.rpo = Some(minutes(16))),
            ("hole", |it| it.hole = true),
            ("test_failed", |it| it.failed_tests = vec!["cluster".to_owned()]),
            ("damaged", |it| it.missing = 1),
            ("too_few_copies", |it| it.short = 2),
            ("failed", |it| it.failed = vec!["backup database".to_owned()]),
            ("backup_old", |it| it.newest_backup = Some(BACKUP_LIMIT + minutes(1))),
            ("alert_critical", |it| it.critical_alerts = 7),
            ("rto", |it| it.rto = Some(minutes(61))),
            ("rto_unknown", |it| (it.tested, it.rto) = (None, None)),
            ("store_away", |it| it.away = vec![StoreName::R2]),
            ("proof", |it| it.oldest_proof = Some(it.proof_max_age + minutes(1))),
            ("owed", |it| it.owed = 3),
            ("old_hole", |it| it.old_holes = 1),
            ("alert_warning", |it| it.warning_alerts = 1),
        ];
        for (rule, (code, spoil)) in RULES.iter().zip(spoilt) {
            assert_eq!(rule.code, code);
            let mut facts = well();
            spoil(&mut facts);
            let health = judge(&facts);
            assert_eq!(health.deductions.len(), 1, "{code}: {health:?}");
            assert_eq!(health.deductions[0].code, code);
            assert_eq!(health.score, 100 - rule.points, "{code}");
            let state = if rule.level == Level::Critical { State::Critical } else { State::Attention };
            assert_eq!(health.state, state, "{code}");
        }
    }

    #[test]
    fn points_add_up_and_end_at_nothing_and_the_heaviest_is_said_first() {
        let facts = Facts { owed: 1, damaged: 1, hole: true, ..well() };
        let health = judge(&facts);
        assert_eq!((health.score, health.state), (50, State::Critical));
        let codes: Vec<&str> = health.deductions.iter().map(|deduction| deduction.code).collect();
        assert_eq!(codes, ["hole", "damaged", "owed"]);
        let facts = Facts { newest_backup: None, rpo: None, hole: true, damaged: 1, ..well() };
        assert_eq!(judge(&facts).score, 0);
    }

    #[test]
    fn a_limit_itself_is_still_within() {
        let facts = Facts {
            rpo: Some(minutes(15)),
            rto: Some(minutes(60)),
            newest_backup: Some(BACKUP_LIMIT),
            oldest_proof: Some(minutes(60 * 24 * 30)),
            tested: Some(TEST_LIMIT),
            ..well()
        };
        assert_eq!(judge(&facts).score, 100);
    }

    #[test]
    fn ages_are_said_in_two_units() {
        let said: Vec<String> = [0, 59, 252, 3600, 11_100, 86_400 * 12 + 3 * 3600 + 5]
            .map(|it| days(Duration::from_secs(it)))
            .into();
        assert_eq!(said, ["0 s", "59 s", "4 min 12 s", "1 h", "3 h 5 min", "12 d 3 h"]);
    }
}
