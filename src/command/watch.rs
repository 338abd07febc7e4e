//! `pgkeep watch`: looks for what no other command would come upon, because nothing has run or the archiver has stopped.

use std::time::Duration;

use serde::Serialize;

use super::alerts::{Attended, Place, attend, look_at_certificates};
use super::looking::Looking;
use super::{Environment, Report, Shelf};
use crate::config::Settings;
use crate::model::{Kind, RunId, Severity};
use crate::plan::conditions::{Archiving, Server as Answer};
use crate::postgres::{Server, archiver};
use crate::system::Stop;

/// How long the server has for its answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// What holds now.
#[derive(Debug, Clone, Serialize)]
pub struct WatchReport {
    /// The conditions, the worst first.
    pub conditions: Vec<WatchedCondition>,
    /// How many of them were not known before.
    pub new: u64,
    /// Messages that arrived.
    pub delivered: u64,
    /// Messages that did not, and are tried again later.
    pub undelivered: u64,
    /// Why not, by channel.
    pub errors: Vec<String>,
}

/// A condition.
#[derive(Debug, Clone, Serialize)]
pub struct WatchedCondition {
    /// What is wrong, as one word for programs.
    pub alert_type: &'static str,
    /// What it is about.
    pub subject: String,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, for people.
    pub message: String,
}

impl Report for WatchReport {
    fn shortfall(&self) -> Option<Kind> {
        (self.undelivered > 0).then_some(Kind::Incomplete)
    }
}

/// Looks, writes down, and tells.
pub async fn run(environment: &Environment) -> anyhow::Result<WatchReport> {
    let shelf = Shelf::open(environment)?;
    let looking = Looking::begin(environment, &shelf, "watch")?;
    let result = look(environment, &shelf, &looking.run).await;
    // What is known already, and told, is no news.
    looking.end(&result, |report| report.new == 0 && report.delivered == 0);
    result
}

async fn look(environment: &Environment, shelf: &Shelf, run: &RunId) -> anyhow::Result<WatchReport> {
    let server = ask(&shelf.settings, &environment.stop).await?;
    let place = Place {
        settings: &shelf.settings,
        catalog: &shelf.catalog,
        progress: &*environment.progress,
        run: Some(run),
        tells: true,
    };
    if let Err(error) = environment.stop.or(look_at_certificates(place)).await {
        environment.stop.check()?;
        // What else holds is found out nevertheless.
        environment.progress.note(&format!("warning: look at certificates: {error:#}"));
    }
    let Attended { conditions, new, told } = attend(place, server).await?;
    let conditions = conditions.into_iter().map(|it| WatchedCondition {
        alert_type: it.kind,
        subject: it.subject,
        severity: it.severity,
        message: it.message,
    });
    Ok(WatchReport {
        conditions: conditions.collect(),
        new,
        delivered: told.delivered,
        undelivered: told.failed,
        errors: told.errors,
    })
}

/// Asks the server about its archiver; that it does not answer is an answer too.
async fn ask(settings: &Settings, stop: &Stop) -> anyhow::Result<Answer> {
    let asked = tokio::time::timeout(PATIENCE, answer(settings, stop)).await;
    stop.check()?;
    Ok(match asked {
        Ok(Ok(archiving)) => Answer::Answered(archiving),
        Ok(Err(error)) => Answer::Unreachable(format!("{error:#}")),
        Err(_) => Answer::Unreachable(format!("not within {} s", PATIENCE.as_secs())),
    })
}

async fn answer(settings: &Settings, stop: &Stop) -> anyhow::Result<Archiving> {
    let server = Server::connect(&settings.postgres, None, stop).await?;
    let archiving = archiver::archiving(&server).await;
    server.close().await;
    archiving
}
