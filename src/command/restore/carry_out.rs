//! Carries out a restore: everything up to the swap in a database of its own, then the swap, then what is left to do.

use std::convert::Infallible;
use std::fmt::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::plan::{Restore, RestorePlan};
use super::{Confirm, Phase, RestoreReport, next_best};
use crate::catalog::RestorePlaces;
use crate::command::volumes::Volumes;
use crate::command::{judge, manifests, staging};
use crate::model::{Elapsed, Fault, Kind, Stage};
use crate::pipeline::{RangeReader, Unpack, unpack};
use crate::postgres::{Server, facts, subscriptions, swap};
use crate::system::{Step, Stop, durable, step};
use crate::target::database::{self as target, Checked};
use crate::target::directory::DirectoryTarget;

/// How often it is asked how large the staging database is.
const MEASURE: Duration = Duration::from_millis(500);

/// The swap was committed or not: the connection went away with the answer, and the server can't be reached again.
#[derive(Debug)]
struct AnswerLost;

impl fmt::Display for AnswerLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the answer to the swap was lost")
    }
}

impl Restore<'_> {
    /// All of the restore. After an error the database in use is as it was, and the staging database is gone or written
    /// down; nothing that happens after the swap is an error.
    pub(super) async fn carry_out(&self, entry: i64, confirm: Confirm<'_>) -> anyhow::Result<RestoreReport> {
        let clock = Instant::now();
        let (plan, server) = self.context.stop.or(self.plan()).await?;
        self.refuse_connections(&plan)?;
        if self.request.to_database.is_none() {
            confirm(&plan)?;
            self.context.hold_again().await?;
        }
        // Written down before they exist: whoever comes after a crash knows what to drop and what to name, and where.
        self.context.catalog.restores().set_places(
            entry,
            RestorePlaces {
                // Not everybody may ask; then the next run has to believe that it is the server of the settings.
                system_identifier: facts::system_identifier(&server).await.ok(),
                staging: &self.staging,
                previous: plan.previous_database.as_deref(),
            },
        )?;
        let mut report = self.report(plan);
        if let Err(error) = self.replace(&server, entry, &mut report).await {
            // Where nobody can tell which of the two it is, the next run looks.
            if error.downcast_ref::<AnswerLost>().is_none() {
                self.drop_staging(&server, entry).await;
            }
            return Err(error);
        }
        self.finish(&server, &mut report).await;
        server.close().await;
        report.seconds = clock.elapsed().as_secs_f64();
        Ok(report)
    }

    /// Everything up to the commit of the swap. After an error the database in use bears its name.
    async fn replace(&self, server: &Server, entry: i64, report: &mut RestoreReport) -> anyhow::Result<()> {
        step::reached(Step::RestoreBegun)?;
        let made = self.context.stop.or(self.prepare(server, entry, report)).await?;
        self.swap(server, &report.plan, made).await
    }

    /// Everything up to a staging database that is filled and checked; returns its number.
    async fn prepare(&self, server: &Server, entry: i64, report: &mut RestoreReport) -> anyhow::Result<u32> {
        let context = self.context;
        let directory = match &self.dump {
            Some(dump) => dump.clone(),
            None => context.scratch()?.join("dump"),
        };
        let mut clock = Instant::now();
        let mut lap = |report: &mut RestoreReport, name| {
            context.progress.detail(&format!("{name}: {}", Elapsed(clock.elapsed())));
            report.phases.push(Phase { name, seconds: clock.elapsed().as_secs_f64() });
            clock = Instant::now();
        };

        if self.dump.is_none() {
            self.unpack(&directory, report).await?;
        }
        step::reached(Step::RestoreUnpacked)?;
        lap(report, "unpack");

        target::create(server, self.source(), &self.staging, &self.load).await?;
        let made = self.number(server).await?;
        context.catalog.restores().set_database(entry, made)?;
        let stage = context.progress.bytes("load", self.manifest.original_size);
        tokio::select! {
            loaded = target::load(server, &directory, &self.staging, &self.load, &context.stop) => loaded?,
            never = self.measure(server, &stage) => match never {},
        }
        drop(stage);
        durable::remove_dir_if_there(&directory)?;
        lap(report, "load");

        let stage = Arc::new(context.progress.rows("check", self.manifest.rows()));
        let checked = target::check(&self.manifest, &self.staging, &self.load, &stage, &context.stop).await?;
        refuse_findings(&checked, &self.staging)?;
        (report.checked_tables, report.checked_rows) = (checked.tables, checked.rows);
        report.warnings.extend(target::apply(server, self.source(), &self.staging, &self.load).await?);
        step::reached(Step::RestoreChecked)?;
        lap(report, "check");
        Ok(made)
    }

    /// Fetches the dump.
    async fn unpack(&self, directory: &Path, report: &mut RestoreReport) -> anyhow::Result<()> {
        let context = self.context;
        let sink = DirectoryTarget::create(directory.to_owned(), Arc::clone(&self.manifest))?;
        let request = Unpack {
            entries: (0..self.manifest.entries.len()).collect(),
            stage: context.progress.bytes("unpack", self.manifest.original_size),
            manifest: Arc::clone(&self.manifest),
        };
        let id = &self.manifest.id;
        let reader = Arc::new(Volumes::in_all_stores(context, id)?);
        let volumes = Arc::clone(&reader) as Arc<dyn RangeReader>;
        let unpacked = unpack(request, volumes, sink, context.stop.clone()).await;
        // Marked also when no copy was good enough in the end.
        report.warnings.extend(manifests::mark(context, id, &reader.bad())?);
        report.warnings.extend(
            context
                .reading()
                .away()
                .into_iter()
                .map(|(store, why)| format!("store {store} could not be read, the next one was: {why}")),
        );
        unpacked.map_err(|error| next_best(context, id, error))?;
        Ok(())
    }

    /// Shows how large the staging database has become, for as long as somebody waits for it.
    async fn measure(&self, server: &Server, stage: &Stage) -> Infallible {
        loop {
            tokio::time::sleep(MEASURE).await;
            // Who may not ask sees no progress, and loses nothing else.
            if let Ok(Some(bytes)) = facts::database_size(server, &self.staging).await {
                stage.set_done(bytes);
            }
        }
    }

    /// The number of the staging database, by which it is known again whatever its name is.
    async fn number(&self, server: &Server) -> anyhow::Result<u32> {
        let Some(number) = facts::database_oid(server, &self.staging).await? else {
            let message = format!("the database \"{}\", made a moment ago, is gone", self.staging);
            return Fault::new(Kind::Postgres, message)
                .hint("Somebody else has dropped it: find out who, and run the restore again.")
                .err();
        };
        Ok(number)
    }

    /// Puts the staging database into its place. Not to be interrupted: it takes one transaction.
    async fn swap(&self, server: &Server, plan: &RestorePlan, made: u32) -> anyhow::Result<()> {
        let order = swap::Swap {
            current: &self.target,
            staging: &self.staging,
            keep_as: plan.previous_database.as_deref(),
            terminate: self.request.terminate,
        };
        let prepared = || step::reached(Step::RestoreSwapPrepared).and_then(|()| self.context.stop.check());
        let Err(error) = swap::swap(server, order, &self.context.stop, prepared).await else {
            return Ok(());
        };
        // Was it the answer to the commit that got lost? The server knows.
        match self.is_in_place(made).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(error),
            Err(_) if judge(&error).exit_code != Kind::Postgres.exit_code() => Err(error),
            Err(_) => {
                let message = format!(
                    "database \"{}\" is either as it was or the restored one, and the server can't be asked",
                    self.target
                );
                let fault = Fault::new(Kind::Postgres, message)
                    .hint("Run `pgkeep verify` when the server answers again: it finds out and clears up.");
                Err(error.context(AnswerLost).context(fault))
            }
        }
    }

    async fn is_in_place(&self, made: u32) -> anyhow::Result<bool> {
        let stop = Stop::default();
        let server =
            target::connect_beside(&self.load.connection, &[&self.target, &self.staging], &stop).await?;
        Ok(facts::database_oid(&server, &self.target).await? == Some(made))
    }

    /// What is left to do when the restored database is in its place. Nothing undoes it any more, so what fails now is
    /// a warning.
    async fn finish(&self, server: &Server, report: &mut RestoreReport) {
        if let Err(error) = step::reached(Step::RestoreSwapped) {
            report.warnings.push(format!("the restored database is in its place; {error:#}"));
        }
        if report.plan.replaces {
            report.kept_as.clone_from(&report.plan.previous_database);
        }
        match subscriptions::names(server, &self.target).await {
            Ok(names) => report.warnings.extend(subscribed(&names, report)),
            Err(error) => report.warnings.push(format!("{error:#}")),
        }
        if report.plan.drop_old
            && let Some(old) = report.kept_as.clone()
        {
            match facts::drop_database(server, &old, false).await {
                Ok(()) => {
                    report.kept_as = None;
                    if let Err(error) = step::reached(Step::RestoreOldDropped) {
                        report.warnings.push(format!("the replaced database is dropped; {error:#}"));
                    }
                }
                Err(error) => {
                    report.warnings.push(format!("the replaced database is still there: {error:#}"));
                }
            }
        }
    }

    /// Removes the staging database if it is there; the next run tries again if this fails.
    async fn drop_staging(&self, server: &Server, entry: i64) {
        let avoid = [self.target.as_str(), self.staging.as_str()];
        let dropping =
            staging::remove(self.context, server, &self.load.connection, &avoid, &self.staging, entry);
        if let Err(error) = dropping.await {
            let name = &self.staging;
            self.context
                .progress
                .note(&format!("warning: the unfinished database \"{name}\" may still be there: {error:#}"));
        }
    }
}

/// What becomes of subscriptions: `pg_dump` writes them disabled, and their slots are of now, not of then.
fn subscribed(names: &[String], report: &RestoreReport) -> Option<String> {
    let first = names.first()?;
    let mut text = format!(
        "subscriptions come back disabled ({}): their slots on the publishers stand where the replaced database left them, \
         so what was published since the backup does not come again by itself. Copy it anew (drop and create them), or \
         ALTER SUBSCRIPTION ... ENABLE if nothing is missing",
        names.join(", ")
    );
    if let Some(kept) = report.kept_as.as_ref().filter(|_| !report.plan.drop_old) {
        let statements = subscriptions::forgetting(first).join("; ");
        let _ = write!(
            text,
            ". Those of \"{kept}\" go on: before you drop it, run in it for each: {statements}; else their slots are \
             dropped with them"
        );
    }
    Some(text)
}

fn refuse_findings(checked: &Checked, staging: &str) -> anyhow::Result<()> {
    if checked.findings.is_empty() {
        return Ok(());
    }
    Fault::new(Kind::Damaged, format!("check database \"{staging}\": {}", checked.findings.join("; ")))
        .hint("Nothing was replaced. Restore another backup (`pgkeep list`), and report this one.")
        .err()
}
