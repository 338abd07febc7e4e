//! What the wizard offers to choose from: databases, backups, tenants, seconds.

use std::collections::BTreeSet;

use super::ask::{say, text as ask_text, whether, which};
use super::{shown, when};
use crate::command::choices::{Choice, Choices};
use crate::command::{self, Environment, judge};
use crate::model::{BackupKind, Fault, Kind, Thousands, Timestamp, parse_timestamp};

/// What all questions need.
pub(super) struct Asking<'a> {
    pub(super) environment: &'a Environment,
    pub(super) choices: Choices,
}

/// Where a second in the past is reached from.
const ANOTHER: &str = "none of these: a second in between";

/// Which state comes back.
pub(super) enum Point {
    /// That of a backup.
    Backup(String),
    /// The newest there is.
    Newest,
    /// That of a second in the past.
    Second(Timestamp),
}

/// The only one, or the one that is chosen.
pub(super) fn pick(mut from: Vec<String>, what: &str) -> anyhow::Result<String> {
    match from.len() {
        0 => Fault::new(Kind::NotThere, format!("there is no backup of {what}"))
            .hint("`pgkeep list` shows what there is.")
            .err(),
        1 => Ok(from.remove(0)),
        _ => {
            let number = which("Which database?", from.clone())?;
            Ok(from.swap_remove(number))
        }
    }
}

impl Asking<'_> {
    pub(super) fn has(&self, kind: BackupKind) -> bool {
        self.choices.backups.iter().any(|choice| choice.kind == kind)
    }

    pub(super) fn has_windows(&self) -> bool {
        !self.choices.windows.is_empty()
    }

    pub(super) fn pick_database(&self, kinds: &[BackupKind]) -> anyhow::Result<String> {
        let database = pick(shown::databases(&self.choices, kinds), "a database")?;
        say(&format!("  database {database}"))?;
        Ok(database)
    }

    /// A backup of the database, or none of them.
    pub(super) fn pick_backup(&self, database: &str) -> anyhow::Result<Option<String>> {
        let is_of_it = |choice: &&Choice| {
            choice.kind == BackupKind::Database && choice.database.as_deref() == Some(database)
        };
        let found: Vec<&Choice> = self.choices.backups.iter().filter(is_of_it).collect();
        let mut labels: Vec<String> = found.iter().map(|choice| shown::backup(choice)).collect();
        if self.has_windows() {
            labels.push(format!("{ANOTHER} (the whole server, beside)"));
        }
        let number = which("Which backup?", labels)?;
        Ok(found.get(number).map(|choice| choice.id.to_string()))
    }

    /// The tenants, out of those that the server has now and those that there are backups of.
    pub(super) async fn pick_tenants(&self, database: &str) -> anyhow::Result<Vec<String>> {
        say(&format!("  tenants of database {database}"))?;
        let mut known: BTreeSet<String> = self
            .choices
            .backups
            .iter()
            .filter(|choice| choice.database.as_deref() == Some(database))
            .filter_map(|choice| choice.tenant.clone())
            .collect();
        let mut labels = std::collections::BTreeMap::new();
        match command::tenants::run(self.environment, Some(database)).await {
            Ok(report) => {
                for tenant in report.tenants {
                    labels.insert(tenant.tenant.clone(), format!("{} rows now", Thousands(tenant.rows)));
                    known.insert(tenant.tenant);
                }
            }
            Err(error) if super::ask::has_left(&error) => return Err(error),
            Err(error) => {
                say(&format!("  the server can't tell its tenants: {}", judge(&error).message))?;
                say("  those that there are backups of:")?;
            }
        }
        let mut chosen: Vec<String> = Vec::new();
        loop {
            let left: Vec<&String> = known.iter().filter(|tenant| !chosen.contains(tenant)).collect();
            let label = |tenant: &&String| {
                let rows = labels.get(*tenant).map_or("no rows now", String::as_str);
                format!("{tenant} ({rows})")
            };
            if left.is_empty() {
                if chosen.is_empty() {
                    let check = |typed: &str| {
                        if typed.is_empty() { Err("it needs a key".to_owned()) } else { Ok(()) }
                    };
                    chosen.push(ask_text("The tenant's key:", None, "", check)?);
                }
                return Ok(chosen);
            }
            let number = which("Which tenant?", left.iter().map(label).collect())?;
            chosen.push(left[number].clone());
            if left.len() == 1 || !whether("Another tenant too?", false)? {
                return Ok(chosen);
            }
        }
    }

    /// Which state of the tenants: of their backups, of one of the database, or of a second.
    pub(super) fn pick_point(&self, database: &str, tenants: &[String]) -> anyhow::Result<Point> {
        let is_of_it = |choice: &&Choice| {
            let is_own = matches!(tenants, [one] if choice.tenant.as_ref() == Some(one));
            choice.database.as_deref() == Some(database) && (choice.kind == BackupKind::Database || is_own)
        };
        let found: Vec<&Choice> = self.choices.backups.iter().filter(is_of_it).collect();
        let mut points = Vec::new();
        let mut labels = Vec::new();
        if tenants.len() > 1 {
            points.push(Point::Newest);
            labels.push("the newest backup of each".to_owned());
        }
        for choice in found {
            let of = if choice.kind == BackupKind::Tenant { "its own" } else { "the database" };
            labels.push(format!("{}, {of}", shown::backup(choice)));
            points.push(Point::Backup(choice.id.to_string()));
        }
        if self.has_windows() {
            labels.push("a second in the past (takes longer)".to_owned());
        }
        if labels.is_empty() {
            return Fault::new(Kind::NotThere, "there is no backup that has the tenant")
                .hint("`pgkeep list` shows what there is; `pgkeep catalog rebuild` takes in what the stores have.")
                .err();
        }
        let number = which("Back to which state?", labels)?;
        if number < points.len() { Ok(points.swap_remove(number)) } else { self.ask_second() }
    }

    /// Which state of the whole cluster.
    pub(super) fn pick_moment(&self) -> anyhow::Result<Point> {
        let mut labels = Vec::new();
        if self.has_windows() {
            labels.push("the newest: all that is in the archive".to_owned());
            labels.push("a second in the past, before it happened".to_owned());
        }
        let found: Vec<&Choice> =
            self.choices.backups.iter().filter(|choice| choice.kind == BackupKind::Cluster).collect();
        if found.is_empty() {
            return Fault::new(Kind::NotThere, "there is no backup of the cluster")
                .hint("`pgkeep backup cluster` makes one, next time.")
                .err();
        }
        let others = labels.len();
        labels.extend(found.iter().map(|choice| format!("as backed up {}", shown::backup(choice))));
        match which("Back to which state?", labels)? {
            0 if others > 0 => Ok(Point::Newest),
            1 if others > 0 => self.ask_second(),
            number => Ok(Point::Backup(found[number - others].id.to_string())),
        }
    }

    /// A second that can be reached.
    pub(super) fn ask_second(&self) -> anyhow::Result<Point> {
        let (mut earliest, mut latest) = (None, None);
        for window in &self.choices.windows {
            let (from, until) = (parse_timestamp(&window.from)?, parse_timestamp(&window.until)?);
            earliest = Some(earliest.map_or(from, |earliest: Timestamp| earliest.min(from)));
            latest = latest.max(Some(until));
            say(&format!("  any second from {}", when::both(from)))?;
            say(&format!("      up to about {}", when::both(until)))?;
            if window.missing.is_some() {
                say("      then WAL is missing")?;
            }
        }
        let time = when::ask("When was everything still right?", earliest)?;
        if latest.is_some_and(|latest| time > latest) {
            say(
                "  This is later than what is known to be archived: the plan will say whether it is reached.",
            )?;
        }
        Ok(Point::Second(time))
    }
}
