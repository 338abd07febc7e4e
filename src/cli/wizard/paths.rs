//! From what has happened to the narrowest restore that answers it.

use std::path::Path;
use std::sync::Arc;

use super::super::progress::Console;
use super::super::text;
use super::ask::{say, show, text as ask_text, whether, which};
use super::picks::{Asking, Point, pick};
use super::{Composed, Consent, Traces, shown};
use crate::command::choices::Choices;
use crate::command::{self, Environment, judge};
use crate::model::{BackupKind, Fault, Kind, timestamp_text};

/// Asks what has happened and what is to be done about it.
pub(super) async fn compose(
    environment: &Environment,
    progress: &Arc<Console>,
    traces: &mut Traces,
) -> anyhow::Result<Composed> {
    command::choices::refuse_others(environment).await?;
    say("pgkeep restore: a few questions, then the plan.")?;
    say("Nothing is changed until you have seen the plan and typed a name.")?;
    let happened = which(
        "What has happened?",
        [
            "rows or a table are lost or wrong",
            "one tenant's data is wrecked",
            "a database is gone or wrecked",
            "the machine or the whole server is gone",
            "nothing: I want to rehearse",
        ]
        .map(ToOwned::to_owned)
        .to_vec(),
    )?;
    let choices = open(environment, progress, happened == 3, traces).await?;
    let asking = Asking { environment, choices };
    match happened {
        0 => asking.rows().await,
        1 => asking.tenant().await,
        2 => asking.database(),
        3 => asking.machine(),
        _ => asking.rehearsal(),
    }
}

/// The catalog, or one that is made out of the stores, if that is wanted.
async fn open(
    environment: &Environment,
    progress: &Arc<Console>,
    is_machine_gone: bool,
    traces: &mut Traces,
) -> anyhow::Result<Choices> {
    let choices = match command::choices::run(environment) {
        Ok(choices) if !is_machine_gone => return with_backups(choices),
        Err(error) if judge(&error).exit_code != Kind::NotInitialised.exit_code() => return Err(error),
        Err(error) => {
            say(&format!("There is no catalog here: {}", judge(&error).message))?;
            None
        }
        Ok(choices) => Some(choices),
    };
    say("The stores know every backup; `pgkeep catalog rebuild` makes the catalog out of them.")?;
    say("It changes no backup.")?;
    match (whether("Do that now?", choices.is_none())?, choices) {
        (true, _) => {
            traces.catalog = true;
            let report = command::catalog::rebuild(environment).await?;
            progress.pause(|| show(&text::rebuild(&report)))?;
            with_backups(command::choices::run(environment)?)
        }
        (false, Some(choices)) => with_backups(choices),
        (false, None) => Err(super::ask::Left.into()),
    }
}

fn with_backups(choices: Choices) -> anyhow::Result<Choices> {
    if choices.backups.is_empty() {
        return Fault::new(Kind::NotThere, "there is no backup to restore")
            .hint(
                "See that the stores of the settings are the right ones; `pgkeep catalog rebuild` takes in what \
                 they have.",
            )
            .err();
    }
    Ok(choices)
}

impl Asking<'_> {
    /// Rows or a table: the tenant's own, or a copy of everything beside, out of which they are taken.
    async fn rows(&self) -> anyhow::Result<Composed> {
        let mut ways = vec![(0, "they are all one tenant's: put those back".to_owned())];
        if self.has(BackupKind::Database) {
            ways.push((1, "restore the database beside, copy out of it".to_owned()));
        }
        if self.has_windows() {
            ways.push((2, "the server as it was at a second, beside".to_owned()));
        }
        let (numbers, labels): (Vec<_>, Vec<_>) = ways.into_iter().unzip();
        match numbers[which("Which is the smallest that helps?", labels)?] {
            0 => self.tenant().await,
            1 => {
                let database = self.pick_database(&[BackupKind::Database])?;
                self.beside(&database)
            }
            _ => self.cluster(false),
        }
    }

    /// One tenant, or some, among all others.
    async fn tenant(&self) -> anyhow::Result<Composed> {
        let mut databases = shown::databases(&self.choices, &[BackupKind::Database, BackupKind::Tenant]);
        if let Some(own) = self.choices.database.clone().filter(|own| !databases.contains(own)) {
            databases.push(own);
        }
        let database = pick(databases, "a database")?;
        let tenants = self.pick_tenants(&database).await?;
        let mut words = vec!["restore".to_owned()];
        let point = self.pick_point(&database, &tenants)?;
        if let Point::Backup(id) = &point {
            words.push(id.clone());
        }
        for tenant in &tenants {
            // One that begins with a hyphen would be taken for an option.
            words.push(format!("--tenant={tenant}"));
        }
        words.extend(["--database".to_owned(), database]);
        match point {
            Point::Second(time) => {
                words.extend(["--mode".to_owned(), "pitr".to_owned(), "--target-time".to_owned()]);
                words.push(timestamp_text(time));
                say("Its rows become what they were then; newer ones go, and are saved before.")?;
            }
            Point::Backup(_) | Point::Newest => words.extend(how(&tenants)?),
        }
        let consent = match tenants.as_slice() {
            [_] => Consent::OfRestore,
            _ => Consent::Typed { which: "how many tenants these are", name: tenants.len().to_string() },
        };
        Ok(Composed { words, consent })
    }

    /// A whole database, in its place or beside it.
    fn database(&self) -> anyhow::Result<Composed> {
        if !self.has(BackupKind::Database) {
            say("There is no backup of a database alone; the whole server can be brought back beside.")?;
            return self.cluster(false);
        }
        let database = self.pick_database(&[BackupKind::Database])?;
        let in_place = which(
            "Where to?",
            vec![
                format!("in its place: what is there now is kept as {database}_old_..."),
                "beside, under another name: nothing is replaced".to_owned(),
            ],
        )?;
        if in_place == 1 {
            return self.beside(&database);
        }
        let Some(id) = self.pick_backup(&database)? else { return self.cluster(false) };
        let mut words = vec!["restore".to_owned(), id];
        if whether("End the connections of those who are in it, when it is replaced?", false)? {
            words.push("--terminate".to_owned());
        }
        Ok(Composed { words, consent: Consent::OfRestore })
    }

    fn beside(&self, database: &str) -> anyhow::Result<Composed> {
        let Some(id) = self.pick_backup(database)? else { return self.cluster(false) };
        let check = |typed: &str| if typed.is_empty() { Err("it needs a name".to_owned()) } else { Ok(()) };
        let usual = Some(format!("{database}_restored"));
        let name = ask_text("Name of the new database:", usual, "one that does not exist yet", check)?;
        let words = vec!["restore".to_owned(), id, format!("--to-database={name}")];
        Ok(Composed { words, consent: Consent::Typed { which: "the name of the new database", name } })
    }

    /// The machine: the whole cluster into a directory, or single databases into a server that is there.
    fn machine(&self) -> anyhow::Result<Composed> {
        match (self.has(BackupKind::Cluster), self.has(BackupKind::Database)) {
            (true, true) => {
                let ways =
                    ["the whole server, into a data directory", "one database, into a server that runs"];
                match which("What is to come back first?", ways.map(ToOwned::to_owned).to_vec())? {
                    0 => self.cluster(true),
                    _ => self.database(),
                }
            }
            (true, false) => self.cluster(true),
            _ => self.database(),
        }
    }

    /// Nothing has happened.
    fn rehearsal(&self) -> anyhow::Result<Composed> {
        say("`pgkeep test-restore` restores, checks and drops by itself, and measures the time.")?;
        let mut ways = Vec::new();
        if self.has(BackupKind::Database) {
            ways.push((0, "restore a database under another name".to_owned()));
            ways.push((1, "only see the plan of a database's restore".to_owned()));
        }
        if self.has(BackupKind::Cluster) {
            ways.push((2, "only see the plan of a whole server's restore".to_owned()));
        }
        if ways.is_empty() {
            return Fault::new(
                Kind::NotThere,
                "there is no backup of a database or a cluster to rehearse with",
            )
            .hint("A tenant is rehearsed with `pgkeep restore --tenant ID --dry-run`.")
            .err();
        }
        let (numbers, labels): (Vec<_>, Vec<_>) = ways.into_iter().unzip();
        let mut composed = match numbers[which("What do you want to rehearse?", labels)?] {
            0 => {
                let database = self.pick_database(&[BackupKind::Database])?;
                return self.beside(&database);
            }
            1 => self.database()?,
            _ => self.cluster(false)?,
        };
        composed.words.push("--dry-run".to_owned());
        composed.consent = Consent::DryRun;
        Ok(composed)
    }

    /// The whole cluster into a directory.
    fn cluster(&self, is_in_place: bool) -> anyhow::Result<Composed> {
        let mut words = vec!["restore".to_owned()];
        match self.pick_moment()? {
            Point::Backup(id) => words.extend([id, "--mode".to_owned(), "full".to_owned()]),
            Point::Newest => words.push("latest".to_owned()),
            Point::Second(time) => {
                words.extend(["latest".to_owned(), "--target-time".to_owned(), timestamp_text(time)]);
            }
        }
        let usual = self.choices.data_directory.as_ref().filter(|_| is_in_place);
        let usual = usual.map(|path| path.display().to_string());
        let check = |typed: &str| {
            if Path::new(typed).is_absolute() { Ok(()) } else { Err("write it from / on".to_owned()) }
        };
        let name = loop {
            let help = "empty, or not there yet";
            let name = ask_text("Data directory for it:", usual.clone(), help, check)?;
            let is_empty = std::fs::read_dir(&name).map_or(true, |mut entries| entries.next().is_none());
            if is_empty {
                break name;
            }
            let ways = ["choose another directory", "empty it first (only if it is this cluster's)"];
            if which("There is something in it.", ways.map(ToOwned::to_owned).to_vec())? == 1 {
                words.push("--force".to_owned());
                break name;
            }
        };
        words.push(format!("--to-dir={name}"));
        if whether("Start the server there when it is done?", true)? {
            words.push("--start".to_owned());
            let usual = Some(if is_in_place { "5432" } else { "5433" }.to_owned());
            let check = |typed: &str| match typed.parse::<u16>() {
                Ok(1..) => Ok(()),
                _ => Err("a number from 1 to 65535".to_owned()),
            };
            words.push(format!("--port={}", ask_text("Port:", usual, "", check)?));
        }
        let consent = if words.iter().any(|word| word == "--force") {
            Consent::OfRestore
        } else {
            Consent::Typed { which: "the directory", name }
        };
        Ok(Composed { words, consent })
    }
}

/// What becomes of a tenant's rows of now.
fn how(tenants: &[String]) -> anyhow::Result<Vec<String>> {
    let mut ways = vec![
        "only put back what is missing".to_owned(),
        "put back what is missing, undo what was changed".to_owned(),
        "exactly as it was: newer rows go (saved before)".to_owned(),
    ];
    if tenants.len() == 1 {
        ways.push("beside the old one, under a new key".to_owned());
    }
    let words: &[&str] = match which("What becomes of the rows that are there now?", ways)? {
        0 => &["--mode", "merge"],
        1 => &["--mode", "merge", "--on-conflict", "take"],
        2 => &["--mode", "full"],
        _ => {
            let check =
                |typed: &str| if typed.is_empty() { Err("it needs a key".to_owned()) } else { Ok(()) };
            return Ok(vec![format!("--as={}", ask_text("The new tenant's key:", None, "", check)?)]);
        }
    };
    Ok(words.iter().map(|word| (*word).to_owned()).collect())
}
