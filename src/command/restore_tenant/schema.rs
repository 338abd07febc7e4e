//! A tenant's own schema: made anew out of a dump in one transaction on the database in use, see `target::schema`.

mod merging;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use chrono::Utc;

use super::own::{self, Image, OwnPlan, Wanted};
use super::{
    Confirm, RestoreTenantReport, RestoreTenantRequest, TenantPlan, TenantRestored, lap, or_cancel,
    write_down,
};
use crate::catalog::{NewRestore, Purpose, RestoreMode};
use crate::command::restore::{next_best, turn_of};
use crate::command::volumes::Volumes;
use crate::command::{Context, manifests};
use crate::format::manifest::{Manifest, Table};
use crate::model::{BackupKind, Fault, Kind, PlaceKind};
use crate::pipeline::{RangeReader, Unpack, unpack};
use crate::postgres::tenants::places;
use crate::postgres::{Server, facts, swap};
use crate::system::{Step, Stop, durable, step};
use crate::target::database::LoadPlan;
use crate::target::directory::DirectoryTarget;
use crate::target::schema::{self as target, Dump, Loaded, Replacing, SchemaPlan};
use crate::target::tenant::{Applied, Mode};

/// One schema of one backup, and where it goes.
struct Schema<'a> {
    context: &'a Context,
    request: &'a RestoreTenantRequest,
    wanted: &'a Wanted,
    database: &'a str,
    manifest: Arc<Manifest>,
    /// The dump, where it is at hand.
    dump: Option<PathBuf>,
    load: LoadPlan,
    /// Its name in the dump.
    dumped_as: String,
    /// Its name afterwards.
    becomes: String,
}

/// Restores it, or shows what would be done.
pub(super) async fn restore(
    context: &Context,
    request: &RestoreTenantRequest,
    database: &str,
    wanted: &Wanted,
    image: Option<Image>,
    confirm: Confirm<'_>,
    report: &mut RestoreTenantReport,
) -> anyhow::Result<TenantRestored> {
    let Image { manifest, dump, .. } = match image {
        Some(image) => image,
        None => own::fetch(context, request, wanted, Some(database), report).await?,
    };
    own::refuse_another_mode(&manifest, PlaceKind::Schema)?;
    let dumped_as = dumped_as(&manifest, wanted)?;
    let becomes = wanted.anew.as_ref().map(|(_, name)| name).or(wanted.name.as_ref());
    let becomes = becomes.unwrap_or(&dumped_as).clone();
    let load = LoadPlan {
        connection: context.settings.postgres.clone(),
        jobs: request.jobs.unwrap_or(context.settings.jobs),
        bindir: context.settings.pg_bindir.clone(),
        no_owner: request.no_owner,
        no_privileges: request.no_privileges,
    };
    let manifest = Arc::new(manifest);
    let schema = Schema { context, request, wanted, database, manifest, dump, load, dumped_as, becomes };
    // A connection of its own: the dump's statements change the session.
    let server = Server::connect(&schema.load.connection, Some(database), &context.stop).await?;
    // Where there is none, there is nothing to merge with.
    let take = match request.mode {
        Mode::Merge { take } if places::schema_oid(&server, &schema.becomes).await?.is_some() => Some(take),
        _ => None,
    };
    if request.dry_run {
        let plan = match take {
            None => context.stop.or(schema.plan(&server)).await?,
            Some(take) => merging::dry_run(&schema, &server, take, report).await?,
        };
        server.close().await;
        return Ok(own::restored(plan, None, None));
    }
    let what = format!("restore schema \"{}\" of database \"{database}\"", schema.becomes);
    let _turn = context.turn(&turn_of(&format!("{database}/{}", schema.becomes)), &what).await?;
    let entry = schema.begin()?;
    let result = match take {
        None => schema.carry_out(&server, entry, confirm, report).await,
        Some(take) => merging::carry_out(&schema, &server, take, confirm, report).await,
    };
    server.close().await;
    write_down(context, entry, result)
}

/// The name of the tenant's schema in the backup.
fn dumped_as(manifest: &Manifest, wanted: &Wanted) -> anyhow::Result<String> {
    let own = manifest.tenant.as_ref().and_then(|tenant| tenant.schema.clone());
    let of_then = || wanted.name.clone().filter(|_| manifest.kind == BackupKind::Database);
    let Some(name) = own.or_else(of_then) else {
        let message =
            format!("which schema of {} is that of tenant \"{}\" is not known", manifest.id, wanted.id);
        return Fault::new(Kind::NotThere, message)
            .hint("TENANT_QUERY does not name the tenant any more: let it name the schema as it was called then.")
            .err();
    };
    Ok(name)
}

impl Schema<'_> {
    /// Writes down that the restore begins, whatever becomes of it.
    fn begin(&self) -> anyhow::Result<i64> {
        self.context.catalog.restores().begin(&NewRestore {
            run_id: Some(self.context.run.clone()),
            backup_id: self.manifest.id.clone(),
            purpose: Purpose::Restore,
            store: None,
            initiated_by: self.context.caller.person(),
            tenant_ids: Some(vec![self.wanted.becomes().to_owned()]),
            mode: match (self.request.pitr, self.request.mode) {
                (_, Mode::Merge { .. }) => RestoreMode::Merge,
                (Some(_), Mode::Full) => RestoreMode::Pitr,
                (None, Mode::Full) => RestoreMode::Full,
            },
            target_timestamp: self.request.pitr.flatten(),
            source_database: self.manifest.database_name(),
            target_database: Some(self.database.to_owned()),
            target_directory: None,
            started_at: Utc::now(),
        })
    }

    fn tables(&self) -> Vec<Table> {
        self.manifest.tables().filter(|table| table.schema == self.dumped_as).cloned().collect()
    }

    /// Looks at everything that could stand in the way.
    async fn plan(&self, server: &Server) -> anyhow::Result<TenantPlan> {
        let replaces = places::schema_oid(server, &self.becomes).await?.is_some();
        if replaces && self.wanted.anew.is_some() {
            return Fault::new(Kind::Refused, format!("there is a schema \"{}\" already", self.becomes))
                .hint("Nothing was changed. Give a key that nobody has.")
                .err();
        }
        let mut now = Vec::new();
        let mut keep_as = None;
        if replaces {
            self.refuse_hanging(server).await?;
            for table in places::tables_of(server, Some(&self.becomes)).await? {
                let rows = places::count(server, std::slice::from_ref(&table)).await?;
                // By the name in the backup, which is another one where the schema was renamed since.
                now.push((format!("{}.{}", self.dumped_as, table.name), rows));
            }
            keep_as = Some(self.name_for_the_old(server).await?);
        }
        let place = OwnPlan {
            kind: PlaceKind::Schema,
            name: self.becomes.clone(),
            replaces,
            keep_as,
            drop_old: replaces && self.request.drop_old,
            connections: Vec::new(),
        };
        Ok(own::plan(self.wanted, self.request, &self.manifest, self.database, place, (&self.tables(), &now)))
    }

    /// It would hang on the schema of before, which bears another name then, and be dropped with it.
    async fn refuse_hanging(&self, server: &Server) -> anyhow::Result<()> {
        let hanging = places::hanging_on(server, &self.becomes).await?;
        if hanging.is_empty() {
            return Ok(());
        }
        let message = format!(
            "something outside of the schema \"{}\" hangs on it and would go on hanging on the one of now: {}",
            self.becomes,
            hanging.join(", ")
        );
        Fault::new(Kind::Refused, message)
            .hint("Nothing was changed. Drop it for the time of the restore, or restore the tenant beside with --as NEW_ID.")
            .err()
    }

    /// The name under which the replaced schema is kept: a free one.
    async fn name_for_the_old(&self, server: &Server) -> anyhow::Result<String> {
        let suffix = format!("_old_{}", Utc::now().format("%Y%m%dT%H%M%SZ"));
        let mut name = swap::derived_name(&self.becomes, &suffix);
        for number in 2..100 {
            if places::schema_oid(server, &name).await?.is_none() {
                break;
            }
            name = swap::derived_name(&self.becomes, &format!("{suffix}_{number}"));
        }
        Ok(name)
    }

    /// All of the restore. After an error the schema in use is as it was; nothing that happens after the commit is an error.
    async fn carry_out(
        &self,
        server: &Server,
        entry: i64,
        confirm: Confirm<'_>,
        report: &mut RestoreTenantReport,
    ) -> anyhow::Result<TenantRestored> {
        let context = self.context;
        let plan = context.stop.or(self.plan(server)).await?;
        confirm(&plan)?;
        context.hold_again().await?;
        let mut clock = Instant::now();
        let keep_as = plan.own.as_ref().and_then(|own| own.keep_as.clone());
        // Written down before it is made: whoever comes after a crash knows where to look.
        let identifier = facts::system_identifier(server).await.ok();
        context.catalog.restores().set_schema(entry, identifier, &self.becomes, keep_as.as_deref())?;
        step::reached(Step::SchemaBegun)?;
        let (dump, list) = context.stop.or(self.unpacked(server, report)).await?;
        step::reached(Step::SchemaUnpacked)?;
        lap(report, "unpack", &mut clock);
        let schema_plan = self.schema_plan(list, keep_as.clone());
        let loaded = self.replace(server, entry, &dump, &schema_plan).await?;
        lap(report, "load", &mut clock);
        self.warn(&loaded, report);
        let kept_as = self.finish(server, keep_as, report).await;
        let removed = plan.tables.iter().map(|table| table.delete).sum();
        let applied = Applied {
            written: loaded.rows,
            removed,
            foreign_keys: loaded.foreign_keys,
            ..Applied::default()
        };
        Ok(own::restored(plan, kept_as, Some(applied)))
    }

    fn schema_plan(&self, list: Option<PathBuf>, keep_as: Option<String>) -> SchemaPlan {
        let run = &self.context.run;
        SchemaPlan {
            dumped_as: self.dumped_as.clone(),
            becomes: self.becomes.clone(),
            keep_as,
            aside: swap::derived_name(&self.dumped_as, &format!("_aside_{run}")),
            beside: swap::derived_name(&self.becomes, &format!("_restore_{run}")),
            list,
            tables: self.tables(),
            not_valid: self.manifest.database.as_ref().map(|it| it.not_valid.clone()).unwrap_or_default(),
        }
    }

    /// Everything that happens in the transaction, and its commit.
    async fn replace(
        &self,
        server: &Server,
        entry: i64,
        dump: &Dump,
        plan: &SchemaPlan,
    ) -> anyhow::Result<Loaded> {
        let (context, stop) = (self.context, &self.context.stop);
        let bytes = self.manifest.original_size;
        let loading = async {
            let replacing = Replacing::begin(server, &self.load, plan).await?;
            let stage = context.progress.bytes("load", bytes);
            let loaded = replacing.load(dump, &stage, stop).await?;
            anyhow::Ok((replacing, loaded))
        };
        let (replacing, loaded) = or_cancel(server, stop.or(loading).await).await?;
        or_cancel(server, stop.or(replacing.refuse_hanging()).await).await?;
        let ready = || {
            context.catalog.restores().set_schema_oid(entry, loaded.oid)?;
            step::reached(Step::SchemaLoaded)?;
            stop.check()
        };
        or_cancel(server, ready()).await?;
        let Err(error) = replacing.commit().await else { return Ok(loaded) };
        // Was it the answer to the commit that got lost? The server knows.
        match self.is_in_place(loaded.oid).await {
            Ok(true) => Ok(loaded),
            Ok(false) => Err(error),
            Err(_) => {
                let message = format!(
                    "the schema \"{}\" is either as it was or the restored one, and the server can't be asked",
                    self.becomes
                );
                Err(error.context(Fault::new(Kind::Postgres, message).hint(format!(
                    "Look when the server answers again: it is the restored one if \"{}\" is there.",
                    plan.keep_as.as_deref().unwrap_or(&self.becomes)
                ))))
            }
        }
    }

    async fn is_in_place(&self, made: u32) -> anyhow::Result<bool> {
        let server = Server::connect(&self.load.connection, Some(self.database), &Stop::default()).await?;
        target::wait_for_others(&server, &self.becomes).await?;
        Ok(places::schema_oid(&server, &self.becomes).await? == Some(made))
    }

    fn warn(&self, loaded: &Loaded, report: &mut RestoreTenantReport) {
        if !loaded.naming.is_empty() {
            report.warnings.push(format!(
                "functions name the schema \"{}\" in their text, which is not renamed with it: {}",
                self.dumped_as,
                loaded.naming.join(", ")
            ));
        }
    }

    /// What is left to do when the schema is in its place; what fails now is a warning. The name of what is kept.
    async fn finish(
        &self,
        server: &Server,
        kept: Option<String>,
        report: &mut RestoreTenantReport,
    ) -> Option<String> {
        if let Err(error) = step::reached(Step::SchemaCommitted) {
            report.warnings.push(format!("the restored schema is in its place; {error:#}"));
        }
        if let Some(kept) = &kept {
            match target::made_meanwhile(server, kept).await {
                Ok(hanging) if hanging.is_empty() => {}
                Ok(hanging) => report.warnings.push(format!(
                    "made while the schema was being replaced, so that it still reads the one of before, which is kept as \
                     \"{kept}\": {}; make it again",
                    hanging.join(", ")
                )),
                Err(error) => report.warnings.push(format!("the restored schema is in its place; {error:#}")),
            }
        }
        let old = kept.as_deref().filter(|_| self.request.drop_old);
        let Some(old) = old else { return kept };
        match target::drop_kept(server, old).await {
            Ok(()) => {
                if let Err(error) = step::reached(Step::SchemaOldDropped) {
                    report.warnings.push(format!("the replaced schema is dropped; {error:#}"));
                }
                None
            }
            Err(error) => {
                report.warnings.push(format!("the replaced schema is still there: {error:#}"));
                kept
            }
        }
    }

    /// Unpacks what is needed: of a tenant's own backup all of it, of a database's the table of contents, and of the rest
    /// what is the schema's.
    async fn unpacked(
        &self,
        server: &Server,
        report: &mut RestoreTenantReport,
    ) -> anyhow::Result<(Dump, Option<PathBuf>)> {
        if let Some(dump) = &self.dump {
            return Ok((Dump::new(server, dump.clone(), &self.load)?, None));
        }
        let scratch = self.context.scratch()?;
        let is_own = self.manifest.kind == BackupKind::Tenant;
        let directory = scratch.join(format!("then-{}", self.manifest.id));
        if is_own {
            self.unpack(&directory, report, |_| true).await?;
            return Ok((Dump::new(server, directory, &self.load)?, None));
        }
        let contents = scratch.join(format!("contents-{}", self.manifest.id));
        self.unpack(&contents, report, |name| name == "toc.dat").await?;
        let list = scratch.join(format!("list-{}-{}", self.manifest.id, self.wanted.id.len()));
        let dump = Dump::new(server, contents, &self.load)?;
        let Some(selection) = target::select(&dump, &self.dumped_as, list).await? else {
            let message = format!("there is no schema \"{}\" in {}", self.dumped_as, self.manifest.id);
            return Fault::new(Kind::NotThere, message)
                .hint("The tenant came later, or had another name then: name another backup.")
                .err();
        };
        self.unpack(&directory, report, |name| name == "toc.dat" || selection.files.contains(name)).await?;
        Ok((Dump::new(server, directory, &self.load)?, Some(selection.list)))
    }

    /// Unpacks those entries of the backup whose names are wanted.
    async fn unpack(
        &self,
        directory: &Path,
        report: &mut RestoreTenantReport,
        is_wanted: impl Fn(&str) -> bool,
    ) -> anyhow::Result<()> {
        let (context, manifest) = (self.context, &self.manifest);
        let entries: Vec<usize> =
            (0..manifest.entries.len()).filter(|entry| is_wanted(&manifest.entries[*entry].name)).collect();
        durable::remove_dir_if_there(directory)?;
        let sink = DirectoryTarget::create(directory.to_owned(), Arc::clone(manifest))?;
        let bytes = entries.iter().map(|entry| manifest.entries[*entry].size).sum();
        let stage = context.progress.bytes("unpack", bytes);
        let request = Unpack { entries, stage, manifest: Arc::clone(manifest) };
        let reader = Arc::new(Volumes::in_all_stores(context, &manifest.id)?);
        let volumes = Arc::clone(&reader) as Arc<dyn RangeReader>;
        let done = unpack(request, volumes, sink, context.stop.clone()).await;
        report.warnings.extend(manifests::mark(context, &manifest.id, &reader.bad())?);
        done.map(|_| ()).map_err(|error| next_best(context, &manifest.id, error))
    }
}
