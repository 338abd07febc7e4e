//! `pgkeep check`: whether a backup would work, before cron finds out. Each line is ok, a warning or a fault.

mod archive;
mod certificates;
mod permissions;
mod tenants;

use std::path::Path;

use serde::Serialize;

use crate::catalog::Catalog;
use crate::command::context::{catalog_path, keyring};
use crate::command::stores::replicas;
use crate::command::{Environment, Report, judge};
use crate::config::Settings;
use crate::format::identity::Identity;
use crate::format::names;
use crate::model::{Bytes, Fault, Kind};
use crate::postgres::{Server, facts, tools};
use crate::store::{Body, Store, StoreErrorKind, StoreResult};
use crate::system::{durable, space};

/// What to do when the local store can't be used.
pub(in crate::command) const LOCAL_HINT: &str =
    "See that the directory of BACKUP_LOCAL_DIR exists, is mounted, and may be written by this user.";

/// Below this much of a file system a warning is given.
const LITTLE_SPACE: f64 = 0.2;

/// How one thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// As it should be.
    Ok,
    /// It works, and something should be looked at.
    Warning,
    /// It does not work.
    Fault,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
pub struct CheckLine {
    /// What was looked at.
    pub subject: String,
    /// How it is.
    pub standing: Standing,
    /// In words.
    pub message: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    #[serde(skip)]
    kind: Option<Kind>,
}

/// All that was looked at.
#[derive(Debug, Clone, Serialize)]
pub struct CheckReport {
    /// In the order in which it was done.
    pub lines: Vec<CheckLine>,
}

impl Report for CheckReport {
    fn shortfall(&self) -> Option<Kind> {
        let fault = self.lines.iter().find(|line| line.standing == Standing::Fault);
        match fault {
            Some(line) => line.kind.or(Some(Kind::Incomplete)),
            None if self.lines.iter().any(|line| line.standing == Standing::Warning) => {
                Some(Kind::Incomplete)
            }
            None => None,
        }
    }
}

impl CheckReport {
    fn ok(&mut self, subject: &str, message: impl Into<String>) {
        self.line(subject, Standing::Ok, message.into(), None, None);
    }

    fn warn(&mut self, subject: &str, message: impl Into<String>, hint: &str) {
        self.line(subject, Standing::Warning, message.into(), Some(hint.to_owned()), None);
    }

    fn fault(&mut self, subject: &str, error: &anyhow::Error) {
        let verdict = judge(error);
        let kind = Kind::ALL.into_iter().find(|kind| kind.exit_code() == verdict.exit_code);
        self.line(subject, Standing::Fault, verdict.message, verdict.hint, kind);
    }

    fn line(
        &mut self,
        subject: &str,
        standing: Standing,
        message: String,
        hint: Option<String>,
        kind: Option<Kind>,
    ) {
        self.lines.push(CheckLine { subject: subject.to_owned(), standing, message, hint, kind });
    }
}

/// Looks at everything a backup needs. Goes on after a fault as far as it can.
pub async fn run(environment: &Environment) -> CheckReport {
    let mut report = CheckReport { lines: Vec::new() };
    let settings = match Settings::load(&environment.inputs) {
        Ok(settings) => settings,
        Err(fault) => {
            report.fault("settings", &fault.into());
            return report;
        }
    };
    let origin = settings.env_file.as_ref().map_or_else(
        || "from the environment alone".to_owned(),
        |path| format!("from the environment and {}", path.display()),
    );
    report.ok("settings", format!("{} set, {origin}", settings.variables.len()));
    match keyring(&settings) {
        Ok(keys) => report.ok("key", format!("fingerprint {}", keys.fingerprint())),
        Err(error) => report.fault("key", &error),
    }
    state(&settings, &mut report);
    scratch(&settings, &mut report);
    permissions::check(&settings, &mut report);
    let identities = stores(&settings, &mut report).await;
    server(environment, &settings, &identities, &mut report).await;
    certificates::check(&settings, &mut report).await;
    report
}

fn state(settings: &Settings, report: &mut CheckReport) {
    let path = &settings.state_dir;
    if let Ok(true) = durable::open_to_others(path) {
        let hint = format!("Run `chmod 700 {}`.", path.display());
        report.warn("state directory", format!("{} is open to other users", path.display()), &hint);
    }
    // Runs, locks and the catalog's journal are written there; what is not there is said by the catalog.
    if path.exists() {
        match writable(path) {
            Ok(()) => room("state directory", path, 0, report),
            Err(error) => report.fault("state directory", &error),
        }
    }
    let opened = Catalog::open(&catalog_path(settings)).and_then(|catalog| {
        catalog.refuse_another_cluster(&settings.cluster)?;
        catalog.check()
    });
    match opened {
        Ok(findings) if findings.is_empty() => {
            report.ok("catalog", catalog_path(settings).display().to_string());
        }
        Ok(findings) => {
            let fault = Fault::new(Kind::Damaged, findings.join("; "))
                .hint("Move it away and run `pgkeep catalog rebuild`: no backup is lost.");
            report.fault("catalog", &fault.into());
        }
        Err(error) => report.fault("catalog", &error),
    }
}

fn scratch(settings: &Settings, report: &mut CheckReport) {
    let path = &settings.scratch_dir;
    match writable(path) {
        Err(error) => report.fault("scratch directory", &error),
        Ok(()) => room("scratch directory", path, settings.scratch_limit, report),
    }
}

/// Says how much room there is; a warning when it is less than `wanted` or little of the whole.
fn room(subject: &str, path: &Path, wanted: u64, report: &mut CheckReport) {
    match space::of(path) {
        Err(error) => report.fault(subject, &error),
        Ok(space) => {
            let (free, total) = (Bytes(space.free), Bytes(space.total));
            let message = format!("{}, {free} of {total} free", path.display());
            if space.free < wanted || (space.free as f64) < space.total as f64 * LITTLE_SPACE {
                report.warn(subject, message, "Make room before the next backup needs it.");
            } else {
                report.ok(subject, message);
            }
        }
    }
}

fn writable(path: &Path) -> anyhow::Result<()> {
    durable::create_private_dir(path)?;
    let probe = path.join(format!("check-{}", std::process::id()));
    durable::write_file(&probe, b"pgkeep check\n")?;
    durable::remove_file_if_there(&probe)
}

/// Writes to, reads from and deletes in every store; returns the identities that they hold.
async fn stores(settings: &Settings, report: &mut CheckReport) -> Vec<Identity> {
    let mut identities = Vec::new();
    let replicas = match replicas(settings) {
        Ok(replicas) => replicas,
        Err(error) => {
            report.fault("stores", &error);
            return identities;
        }
    };
    for store in replicas.each() {
        let subject = format!("store {}", store.name());
        match try_store(settings, &**store).await {
            Err(error) => report.fault(&subject, &error),
            Ok(None) => {
                let key = names::identity(&settings.cluster);
                let message = format!("{} is not there", store.locate(&key));
                let fault = Fault::new(Kind::NotInitialised, message)
                    .hint("Is the disk mounted? If this is a new place for backups, run `pgkeep init`.");
                report.fault(&subject, &fault.into());
            }
            Ok(Some((identity, true))) => {
                let text = format!("can be written, read and deleted in; cluster {}", identity.cluster);
                report.ok(&subject, text);
                identities.push(identity);
            }
            Ok(Some((identity, false))) => {
                report.warn(
                    &subject,
                    format!("can be written and read, not deleted in; cluster {}", identity.cluster),
                    "Good against thieves. What should go stays there and is paid for, until rules of the provider \
                     or another key remove it.",
                );
                identities.push(identity);
            }
        }
    }
    if let Some(directory) = settings.local_dir.as_ref().filter(|directory| directory.exists()) {
        room("local store", directory, 0, report);
    }
    identities
}

/// The store's identity, and whether something can be deleted there.
async fn try_store(settings: &Settings, store: &dyn Store) -> anyhow::Result<Option<(Identity, bool)>> {
    let key = names::identity(&settings.cluster);
    // First: probing must not make the directories of a store that is not mounted.
    let Some(bytes) = store.get_small(&key).await.fault()? else { return Ok(None) };
    let identity = Identity::from_bytes(&bytes)?;
    let probe = format!("{}/check-{}", settings.cluster, std::process::id());
    store.put(&probe, Body::Bytes(b"pgkeep check\n".to_vec())).await.fault()?;
    let read = store.get_small(&probe).await.fault()?;
    let deleted = store.delete(&probe).await;
    if read.as_deref() != Some(b"pgkeep check\n") {
        let message = format!("what was written to {} is not what was read back", store.locate(&probe));
        return Fault::new(Kind::Store, message).hint("Do not trust this store; look at its disk.").err();
    }
    match deleted {
        Err(error) if error.kind == StoreErrorKind::Denied => Ok(Some((identity, false))),
        deleted => deleted.fault().map(|()| Some((identity, true))),
    }
}

async fn server(
    environment: &Environment,
    settings: &Settings,
    identities: &[Identity],
    report: &mut CheckReport,
) {
    let database = settings.postgres.database.as_deref();
    let server = match Server::connect(&settings.postgres, database, &environment.stop).await {
        Ok(server) => server,
        Err(error) => return report.fault("PostgreSQL", &error),
    };
    if let Err(error) = ask(&server, settings, identities, report).await {
        report.fault("PostgreSQL", &error);
    }
    archive::check(settings, &server, &environment.stop, report).await;
    server.close().await;
}

async fn ask(
    server: &Server,
    settings: &Settings,
    identities: &[Identity],
    report: &mut CheckReport,
) -> anyhow::Result<()> {
    let facts = facts::server(server).await?;
    report.ok("PostgreSQL", format!("{} at {}", facts.version, server.endpoint()));
    for warning in server.warnings() {
        report.warn("PostgreSQL", warning, "See the README, section \"Settings\".");
    }
    let identifier = facts::system_identifier(server).await?;
    if let Some(identity) = identities.iter().find(|identity| identity.system_identifier != identifier) {
        let another = crate::command::manifests::refuse_another_server(identity, identifier);
        if let Err(error) = another {
            report.fault("cluster", &error);
        }
    }
    let rights = facts::rights(server).await?;
    if rights.superuser || (rights.read_all_data && rights.bypass_row_security) {
        report.ok("rights", format!("user \"{}\" may read everything", rights.user));
    } else {
        let message = format!("user \"{}\" may not read everything", rights.user);
        report.warn(
            "rights",
            message,
            "GRANT pg_read_all_data to it and give it BYPASSRLS, or use a superuser.",
        );
    }
    if !rights.superuser && !rights.create_databases {
        let message = format!("user \"{}\" may not create databases: restoring needs another", rights.user);
        report.warn("rights", message, "Give it CREATEDB, or restore as a superuser.");
    }
    for name in ["pg_dump", "pg_restore"] {
        match tools::find(name, server.major(), settings.pg_bindir.as_deref()) {
            Ok(tool) => report.ok(name, format!("{} at {}", tool.version.text, tool.path.display())),
            Err(error) => report.fault(name, &error),
        }
    }
    tenants::check(server, settings, report).await
}
