//! `pgkeep backup tenant` where each tenant has a schema or a database of its own: a dump each. Schemas all at one instant,
//! under one snapshot of their database; databases each under its own, since no snapshot spans two.

use std::path::Path;
use std::time::Instant;

use super::database::{contents, database_name, dump_plan};
use super::tenant::{BackupTenants, FailedTenant, TenantsReport, Wanted};
use super::{BackupReport, Begun, Contents, Room, Source, one, present};
use crate::command::{Context, judge};
use crate::format::tenant::Tenant;
use crate::model::{BackupKind, Fault, Kind, OwnPlaces, PlaceKind, Stage, timestamp_text};
use crate::pipeline::Framer;
use crate::postgres::Server;
use crate::postgres::tenants::places::{self, OwnPlace};
use crate::source::database::DatabaseSource;
use crate::system::durable;

/// Makes the backups, one after the other: each is made by several jobs. One that fails keeps the others from nothing; when
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
        for (number, place) in found.iter().enumerate() {
            let tenant = Tenant::with_own(of.kind, &place.id, &database, Some(&place.name));
            let scratch = scratch.join(format!("tenant-{number}"));
            let source = async {
                durable::create_private_dir(&scratch)?;
                Ok(whole.of_schema(&place.name, scratch.clone()))
            };
            self.make(place, of.kind, tenant, source).await?;
            durable::remove_dir_if_there(&scratch)?;
        }
        whole.close().await
    }

    async fn databases(&mut self, of: &OwnPlaces) -> anyhow::Result<()> {
        let context = self.room.context;
        let found = listed(context, of, self.request.database.as_deref()).await?;
        let found = wanted(found, of.kind, self.request)?;
        for place in &found {
            let tenant = Tenant::with_own(of.kind, &place.id, &place.name, None);
            let scratch = context.scratch()?;
            let source = async {
                let plan = dump_plan(context, self.request.jobs, scratch.clone());
                DatabaseSource::open(&place.name, plan, &*context.progress, &context.stop).await
            };
            Box::pin(self.make(place, of.kind, tenant, source)).await?;
            // What a dump that failed has left would be in the way of the next.
            durable::remove_dir_if_there(Path::new(&scratch.join("dump")))?;
        }
        Ok(())
    }

    /// Makes one backup. An error when it was interrupted; one that failed is reported.
    async fn make(
        &mut self,
        place: &OwnPlace,
        kind: PlaceKind,
        tenant: Tenant,
        source: impl Future<Output = anyhow::Result<DatabaseSource>>,
    ) -> anyhow::Result<()> {
        match self.try_make(place, kind, tenant, source).await {
            Ok(made) => self.report.backups.push(made),
            Err(error) if judge(&error).exit_code == Kind::Interrupted.exit_code() => return Err(error),
            Err(error) => {
                let (message, tenant) = (format!("{error:#}"), place.id.clone());
                let text = format!("warning: no backup of tenant \"{tenant}\": {message}");
                self.room.context.progress.note(&text);
                self.report.failed.push(FailedTenant { tenant, message });
                self.first.get_or_insert(error);
            }
        }
        Ok(())
    }

    async fn try_make(
        &self,
        place: &OwnPlace,
        kind: PlaceKind,
        tenant: Tenant,
        source: impl Future<Output = anyhow::Result<DatabaseSource>>,
    ) -> anyhow::Result<BackupReport> {
        let context = self.room.context;
        context.stop.check()?;
        if !place.exists {
            return Fault::new(Kind::NotThere, format!("there is no {kind} \"{}\"", place.name))
                .hint("TENANT_QUERY names it: correct that, or make it.")
                .err();
        }
        let begun = Begun::now(BackupKind::Tenant)?;
        context.catalog.runs().set_subject(&context.run, &[&begun.id])?;
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
