//! `pgkeep backup tenant`: tenants at one instant, each a backup of its own. Every table is read once, whatever their number.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use futures_util::{StreamExt as _, stream};
use serde::Serialize;
use tokio::task::spawn_blocking;

use super::database::database_name;
use super::{BackupReport, Begun, Contents, Room, Source, one, own, present};
use crate::command::{Context, Report, judge};
use crate::format::tenant::Tenant;
use crate::model::{BackupId, BackupKind, Kind, PlaceKind, Stage, Tenancy, timestamp_text};
use crate::pipeline::Framer;
pub use crate::source::tenant::Wanted;
use crate::source::tenant::{self, Spool, TenantPlan, TenantSource};

/// Backups that are made at the same time: most of the time of a small one goes into waiting for the disk or a cloud.
const AT_ONCE: usize = 4;

/// Tenants whose backups are written down as begun together, and how many bytes of rows they have at most if they are more
/// than one.
const GROUP: usize = 16;
const GROUP_BYTES: u64 = 32 << 20;

/// Which tenants to back up.
#[derive(Debug, Clone)]
pub struct BackupTenants {
    /// The database; without a name that of the settings.
    pub database: Option<String>,
    /// The tenants.
    pub tenants: Wanted,
    /// How many tables are read at the same time; without it that of the settings.
    pub jobs: Option<usize>,
    /// Whether it is for undoing a restore that is about to begin.
    pub before_restore: bool,
}

/// The backups that were made.
#[derive(Debug, Clone, Serialize)]
pub struct TenantsReport {
    /// How tenants are told apart: `row`, `schema` or `database`.
    pub mode: &'static str,
    /// The database; nothing where each tenant has one of its own.
    pub database: Option<String>,
    /// The instant, the same for all; nothing where each tenant has a database of its own, and an instant of its own.
    pub consistent_at: Option<String>,
    /// One backup for each tenant.
    pub backups: Vec<BackupReport>,
    /// Those that could not be made.
    pub failed: Vec<FailedTenant>,
    /// What no tenant's backup covers.
    pub not_covered: Vec<String>,
    /// Duration in seconds.
    pub seconds: f64,
}

/// A tenant without a backup.
#[derive(Debug, Clone, Serialize)]
pub struct FailedTenant {
    /// The tenant.
    pub tenant: String,
    /// Why.
    pub message: String,
}

impl Report for TenantsReport {
    fn shortfall(&self) -> Option<Kind> {
        let is_short =
            !self.failed.is_empty() || self.backups.iter().any(|backup| backup.shortfall().is_some());
        is_short.then_some(Kind::Incomplete)
    }
}

impl TenantsReport {
    /// Of tenants that have such a thing of their own; nothing is made yet.
    pub(super) fn of(kind: PlaceKind) -> Self {
        Self {
            mode: kind.as_str(),
            database: None,
            consistent_at: None,
            backups: Vec::new(),
            failed: Vec::new(),
            not_covered: Vec::new(),
            seconds: 0.0,
        }
    }
}

/// Makes the backups. One that fails keeps the others from nothing; when all fail, so does the run.
pub async fn run(context: &Context, request: &BackupTenants) -> anyhow::Result<TenantsReport> {
    if let Tenancy::Own(places) = &context.settings.tenancy {
        return Box::pin(own::run(context, request, places)).await;
    }
    let _turn = context.turn("backup-tenant", "back up tenants").await?;
    let clock = Instant::now();
    let keyring = context.keyring()?;
    let presence = present(context).await?;
    let room = Room { context, keyring: &keyring, presence: &presence };
    let spool = Arc::new(spool(context, request).await?);
    let mut report = TenantsReport {
        mode: "row",
        database: Some(spool.database.clone()),
        consistent_at: Some(timestamp_text(spool.consistent_at)),
        backups: Vec::new(),
        failed: Vec::new(),
        not_covered: spool.warnings.clone(),
        seconds: 0.0,
    };
    let mut first = None;
    for group in groups(&spool) {
        for (number, made) in make(&room, &spool, request, group).await? {
            match made {
                Ok(made) => report.backups.push(made),
                Err(error) => {
                    let (message, tenant) = (format!("{error:#}"), spool.ids()[number].clone());
                    context.progress.note(&format!("warning: no backup of tenant \"{tenant}\": {message}"));
                    report.failed.push(FailedTenant { tenant, message });
                    first = first.or(Some(error));
                }
            }
        }
    }
    spool.remove()?;
    report.seconds = clock.elapsed().as_secs_f64();
    match first {
        Some(error) if report.backups.is_empty() => Err(error),
        _ => Ok(report),
    }
}

/// Makes the backups of a group side by side; what became of each. An error when they were interrupted: then each has
/// cleared up after itself.
async fn make(
    room: &Room<'_>,
    spool: &Arc<Spool>,
    request: &BackupTenants,
    group: Vec<usize>,
) -> anyhow::Result<Vec<(usize, anyhow::Result<BackupReport>)>> {
    let context = room.context;
    let begun: Vec<(usize, Begun)> = group
        .into_iter()
        .map(|number| Ok((number, Begun::now(BackupKind::Tenant)?)))
        .collect::<anyhow::Result<_>>()?;
    let subject: Vec<&BackupId> = begun.iter().map(|(_, begun)| &begun.id).collect();
    context.catalog.runs().set_subject(&context.run, &subject)?;
    let making = begun.into_iter().map(|(number, begun)| async move {
        let source = OneTenant { spool: Arc::clone(spool), number, before_restore: request.before_restore };
        let made = match context.stop.check() {
            Ok(()) => one(room, begun, |_| async { Ok(source) }).await,
            Err(stopped) => Err(stopped),
        };
        (number, made)
    });
    let mut made: Vec<_> = stream::iter(making).buffered(AT_ONCE).collect().await;
    let is_interrupted = |made: &anyhow::Result<BackupReport>| {
        made.as_ref().is_err_and(|error| judge(error).exit_code == Kind::Interrupted.exit_code())
    };
    match made.iter().position(|(_, made)| is_interrupted(made)) {
        Some(place) => Err(made.swap_remove(place).1.err().context("an interruption without an error")?),
        None => Ok(made),
    }
}

/// The tenants in groups whose backups may be made side by side: many small ones, a large one alone, because each keeps
/// buffers of its own.
fn groups(spool: &Spool) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut room = 0;
    for number in 0..spool.ids().len() {
        let bytes = spool.bytes(number);
        match groups.last_mut() {
            Some(group) if group.len() < GROUP && bytes <= room => group.push(number),
            _ => {
                groups.push(vec![number]);
                room = GROUP_BYTES;
            }
        }
        room = room.saturating_sub(bytes);
    }
    groups
}

async fn spool(context: &Context, request: &BackupTenants) -> anyhow::Result<Spool> {
    let settings = &context.settings;
    let plan = TenantPlan {
        connection: settings.postgres.clone(),
        database: database_name(context, request.database.as_deref())?,
        jobs: request.jobs.unwrap_or(settings.jobs),
        scratch: context.scratch()?,
        rules: settings.tenants.clone(),
    };
    let source = TenantSource::open(plan, &request.tenants, &context.stop).await?;
    let stage = Arc::new(context.progress.bytes("read", source.estimate()));
    source.spool(&stage, &context.stop).await
}

/// One tenant out of the spool.
struct OneTenant {
    spool: Arc<Spool>,
    number: usize,
    before_restore: bool,
}

impl Source for OneTenant {
    fn system_identifier(&self) -> u64 {
        self.spool.system_identifier
    }

    fn details(&self) -> String {
        format!("tenant \"{}\" of database \"{}\"", self.spool.ids()[self.number], self.spool.database)
    }

    fn estimate(&self) -> u64 {
        self.spool.bytes(self.number)
    }

    async fn read(self, framer: Framer, stage: Stage, _: &Context) -> anyhow::Result<Contents> {
        let Self { spool, number, before_restore } = self;
        let packing = spawn_blocking({
            let spool = Arc::clone(&spool);
            move || tenant::pack(&spool, number, framer, &stage)
        });
        let (entries, tenant) = packing.await.context("take a tenant out of the spool")??;
        Ok(Contents {
            entries,
            consistent_at: spool.consistent_at,
            tool_version: String::new(),
            postgres_version_num: spool.postgres_version_num,
            warnings: Vec::new(),
            database: None,
            tenant: Some(Tenant { before_restore, ..tenant }),
            cluster: None,
        })
    }
}
