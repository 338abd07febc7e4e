//! `pgkeep backup tenant` where each tenant has a schema or a database of its own: a dump each. Schemas all at one instant,
//! under one snapshot of their database; databases each under its own, since no snapshot spans two.

use std::path::PathBuf;
use std::time::Instant;

use futures_util::future::join_all;

use super::database::{contents, database_name, dump_plan};
use super::tenant::{BackupTenants, FailedTenant, TenantsReport, Wanted};
use super::{BackupReport, Begun, Contents, Room, Source, one, present};
use crate::command::{Context, judge};
use crate::format::tenant::Tenant;
use crate::model::{BackupId, BackupKind, Fault, Kind, OwnPlaces, PlaceKind, Stage, timestamp_text};
use crate::pipeline::Framer;
use crate::postgres::Server;
use crate::postgres::tenants::places::{self, OwnPlace};
use crate::source::database::DatabaseSource;
use crate::system::durable;

/// Makes the backups, as many at the same time as there are jobs; what jobs are left over go to each of them. One that fails keeps the others from nothing; when
/// all fail, so does the run.
pub(super) async fn run(
    context: &Context,
    request: &BackupTenants,
    of: &OwnPlaces,
) -> anyhow::Result<TenantsReport> {
    let _turn = context.turn("backup-tenant", "back up tenants").await?;
    let clock = Instant::now();
    let keyring = context.keyring()?;
    let presence = present(context).await?;
    let room = Room { context, keyring: &keyring, presence: &presence };
    let mut making = Making { room, request, report: TenantsReport::of(of.kind), first: None };
    match of.kind {
        PlaceKind::Schema => Box::pin(making.schemas(of)).await?,
        PlaceKind::Database => Box::pin(making.databases(of)).await?,
    }
    let Making { mut report, first, .. } = making;
    report.seconds = clock.elapsed().as_secs_f64();
    match first {
        Some(error) if report.backups.is_empty() => Err(error),
        _ => Ok(report),
    }
}

/// The tenants that are wanted; an error that names those that there are not, before anything is done.
fn wanted(found: Vec<OwnPlace>, kind: PlaceKind, request: &BackupTenants) -> anyhow::Result<Vec<OwnPlace>> {
    match &request.tenants {
        Wanted::All => Ok(found),
        Wanted::These(ids) => places::pick(&found, kind, ids),
    }
}

struct Making<'a> {
    room: Room<'a>,
    request: &'a BackupTenants,
    report: TenantsReport,
    first: Option<anyhow::Error>,
}

impl Making<'_> {
    async fn schemas(&mut self, of: &OwnPlaces) -> anyhow::Result<()> {
        let context = self.room.context;
        let database = database_name(context, self.request.database.as_deref())?;
        let scratch = context.scratch()?;
        let plan = dump_plan(context, self.request.jobs, scratch.clone());
        let whole = DatabaseSource::open(&database, plan, &*context.progress, &context.stop).await?;
        let looking = async {
            let found = wanted(places::own_places(whole.server(), of).await?, of.kind, self.request)?;
            let names: Vec<String> = found.iter().map(|place| place.name.clone()).collect();
            anyhow::Ok((found, places::uncovered_in(whole.server(), &names).await?))
        };
        let (found, not_covered) = context.stop.or(looking).await?;
        self.report.not_covered = not_covered;
        self.report.consistent_at = Some(timestamp_text(whole.consistent_at));
        self.report.database = Some(database.clone());
        let (at_once, jobs) = self.shares(found.len());
        for (group, places) in found.chunks(at_once).enumerate() {
            let making = self.begin(places)?.into_iter().enumerate().map(|(number, (place, begun))| {
                let tenant = Tenant::with_own(of.kind, &place.id, &database, Some(&place.name));
                let scratch = scratch.join(format!("tenant-{}", group * at_once + number));
                let source = {
                    let (whole, scratch) = (&whole, scratch.clone());
                    async move {
                        durable::create_private_dir(&scratch)?;
                        anyhow::Ok(whole.of_schema(&place.name, scratch, jobs))
                    }
                };
                self.make(place, begun, of.kind, tenant, source, scratch)
            });
            let made = join_all(making).await;
            self.take(made)?;
        }
        whole.close().await
    }

    async fn databases(&mut self, of: &OwnPlaces) -> anyhow::Result<()> {
        let context = self.room.context;
        let found = listed(context, of, self.request.database.as_deref()).await?;
        let found = wanted(found, of.kind, self.request)?;
        let (at_once, jobs) = self.shares(found.len());
        let scratch = context.scratch()?;
        for (group, places) in found.chunks(at_once).enumerate() {
            let making = self.begin(places)?.into_iter().enumerate().map(|(number, (place, begun))| {
                let tenant = Tenant::with_own(of.kind, &place.id, &place.name, None);
                let scratch = scratch.join(format!("tenant-{}", group * at_once + number));
                let source = {
                    let scratch = scratch.clone();
                    async move {
                        durable::create_private_dir(&scratch)?;
                        let plan = dump_plan(context, Some(jobs), scratch);
                        DatabaseSource::open(&place.name, plan, &*context.progress, &context.stop).await
                    }
                };
                self.make(place, begun, of.kind, tenant, source, scratch)
            });
            let made = Box::pin(join_all(making)).await;
            self.take(made)?;
        }
        Ok(())
    }

    /// How many backups are made at the same time, and with how many jobs each.
    fn shares(&self, tenants: usize) -> (usize, usize) {
        let jobs = self.request.jobs.unwrap_or(self.room.context.settings.jobs).max(1);
        let at_once = jobs.min(tenants).max(1);
        (at_once, jobs / at_once)
    }

    /// Backups of these are going to be made; the log knows of all of them before the first one begins.
    fn begin<'p>(&self, places: &'p [OwnPlace]) -> anyhow::Result<Vec<(&'p OwnPlace, Begun)>> {
        let context = self.room.context;
        context.stop.check()?;
        let begun = places.iter().map(|place| Ok((place, Begun::now(BackupKind::Tenant)?)));
        let begun: Vec<(&OwnPlace, Begun)> = begun.collect::<anyhow::Result<_>>()?;
        let ids: Vec<&BackupId> = begun.iter().map(|(_, begun)| &begun.id).collect();
        context.catalog.runs().set_subject(&context.run, &ids)?;
        Ok(begun)
    }

    /// Takes down what became of some backups. An error when they were interrupted; one that failed is reported.
    fn take(&mut self, made: Vec<(&OwnPlace, anyhow::Result<BackupReport>)>) -> anyhow::Result<()> {
        let mut interrupted = None;
        for (place, made) in made {
            match made {
                Ok(made) => self.report.backups.push(made),
                Err(error) if judge(&error).exit_code == Kind::Interrupted.exit_code() => {
                    interrupted = Some(error);
                }
                Err(error) => {
                    let (message, tenant) = (format!("{error:#}"), place.id.clone());
                    let text = format!("warning: no backup of tenant \"{tenant}\": {message}");
                    self.room.context.progress.note(&text);
                    self.report.failed.push(FailedTenant { tenant, message });
                    self.first.get_or_insert(error);
                }
            }
        }
        interrupted.map_or(Ok(()), Err)
    }

    /// Makes one backup by way of this directory, of which nothing is left.
    async fn make<'p>(
        &self,
        place: &'p OwnPlace,
        begun: Begun,
        kind: PlaceKind,
        tenant: Tenant,
        source: impl Future<Output = anyhow::Result<DatabaseSource>>,
        scratch: PathBuf,
    ) -> (&'p OwnPlace, anyhow::Result<BackupReport>) {
        let made = Box::pin(self.try_make(place, begun, kind, tenant, source)).await;
        let made = match durable::remove_dir_if_there(&scratch) {
            Err(error) if made.is_ok() => Err(error),
            _ => made,
        };
        (place, made)
    }

    async fn try_make(
        &self,
        place: &OwnPlace,
        begun: Begun,
        kind: PlaceKind,
        tenant: Tenant,
        source: impl Future<Output = anyhow::Result<DatabaseSource>>,
    ) -> anyhow::Result<BackupReport> {
        if !place.exists {
            return Fault::new(Kind::NotThere, format!("there is no {kind} \"{}\"", place.name))
                .hint("TENANT_QUERY names it: correct that, or make it.")
                .err();
        }
        let tenant = Tenant { before_restore: self.request.before_restore, ..tenant };
        one(&self.room, begun, |_| async { Ok(OneOwn { source: source.await?, tenant }) }).await
    }
}

/// The tenants with databases of their own. Which database is asked makes no difference to a pattern; a query is asked of
/// the one that is named, else of that of the settings.
pub(in crate::command) async fn listed(
    context: &Context,
    of: &OwnPlaces,
    database: Option<&str>,
) -> anyhow::Result<Vec<OwnPlace>> {
    let server = Server::connect(&context.settings.postgres, database, &context.stop).await?;
    let found = context.stop.or(places::own_places(&server, of)).await?;
    server.close().await;
    Ok(found)
}

/// The dump of what is one tenant's.
struct OneOwn {
    source: DatabaseSource,
    tenant: Tenant,
}

impl Source for OneOwn {
    fn system_identifier(&self) -> u64 {
        self.source.system_identifier
    }

    fn details(&self) -> String {
        format!("tenant \"{}\": {}", self.tenant.id, self.source.details())
    }

    fn estimate(&self) -> u64 {
        self.source.estimate()
    }

    async fn read(self, framer: Framer, stage: Stage, context: &Context) -> anyhow::Result<Contents> {
        let Self { source, tenant } = self;
        Ok(Contents { tenant: Some(tenant), ..contents(source, framer, stage, context).await? })
    }
}
