//! What a restore is going to do, and everything that could stand in its way.

use std::path::PathBuf;
use std::sync::Arc;

use chrono::Utc;
use serde::Serialize;

use super::{RestoreReport, RestoreRequest};
use crate::command::{Context, quoting};
use crate::format::manifest::{Database, Manifest};
use crate::model::{BackupId, BackupKind, Bytes, Fault, Kind};
use crate::plan::quote::Quote;
use crate::postgres::{Server, database, facts, swap};
use crate::system::space;
use crate::target::database::{self as target, LoadPlan};

/// What a restore is going to do.
#[derive(Debug, Clone, Serialize)]
pub struct RestorePlan {
    /// The backup.
    pub backup: BackupId,
    /// The instant that it holds.
    pub consistent_at: String,
    /// The database that was backed up.
    pub source_database: String,
    /// The name that the restored database gets.
    pub target_database: String,
    /// Whether a database of that name is there now.
    pub replaces: bool,
    /// Its name while it is being made.
    pub staging_database: String,
    /// The name under which the replaced database is kept.
    pub previous_database: Option<String>,
    /// Whether the replaced database is dropped in the end.
    pub drop_old: bool,
    /// Bytes to fetch from a store.
    pub fetch_bytes: u64,
    /// Room needed in the scratch directory.
    pub scratch_bytes: u64,
    /// Where that is.
    pub scratch_directory: String,
    /// Tables.
    pub tables: u64,
    /// Rows.
    pub rows: u64,
    /// Connections to the database that would be replaced.
    pub connections: Vec<String>,
    /// What it is going to take.
    pub quote: Quote,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

/// A restore that may be planned and then carried out.
pub(super) struct Restore<'a> {
    pub(super) context: &'a Context,
    pub(super) request: &'a RestoreRequest,
    pub(super) manifest: Arc<Manifest>,
    /// How many bytes the sealed manifest has.
    pub(super) sealed: u64,
    /// The dump, where it is at hand and needs not be fetched.
    pub(super) dump: Option<PathBuf>,
    pub(super) load: LoadPlan,
    /// The name that the restored database gets in the end.
    pub(super) target: String,
    /// Its name until then.
    pub(super) staging: String,
}

impl<'a> Restore<'a> {
    pub(super) fn of(
        context: &'a Context,
        request: &'a RestoreRequest,
        manifest: Manifest,
        sealed: u64,
        dump: Option<PathBuf>,
    ) -> anyhow::Result<Self> {
        let Some(database) = &manifest.database else {
            return Fault::new(Kind::Usage, format!("{} is no backup of a database", manifest.id)).err();
        };
        let wanted = request.to_database.as_ref().or(request.replacing.as_ref());
        let target = wanted.unwrap_or(&database.properties.name).clone();
        if target.is_empty() || target.len() > swap::LONGEST_NAME {
            // The server would cut it off without a word.
            let message = format!("\"{target}\" is no name for a database: it has {} bytes", target.len());
            return Fault::new(Kind::Usage, message)
                .hint(format!("Give --to-database a name of 1 to {} bytes.", swap::LONGEST_NAME))
                .err();
        }
        let staging = swap::derived_name(&target, &format!("_restore_{}", context.run));
        let load = LoadPlan {
            connection: context.settings.postgres.clone(),
            jobs: request.jobs.unwrap_or(context.settings.jobs),
            bindir: context.settings.pg_bindir.clone(),
            no_owner: request.no_owner,
            no_privileges: request.no_privileges,
        };
        let manifest = Arc::new(manifest);
        Ok(Self { context, request, manifest, sealed, dump, load, target, staging })
    }

    pub(super) fn source(&self) -> &Database {
        // `of` has looked.
        self.manifest.database.as_ref().unwrap_or_else(|| unreachable!("a backup of a database"))
    }

    /// Looks at everything that could stand in the way, before a byte is written.
    pub(super) async fn plan(&self) -> anyhow::Result<(RestorePlan, Server)> {
        let server =
            target::connect_beside(&self.load.connection, &[&self.target], &self.context.stop).await?;
        let replaces = facts::database_exists(&server, &self.target).await?;
        if replaces && self.request.to_database.is_some() {
            return Fault::new(Kind::Refused, format!("a database \"{}\" exists already", self.target))
                .hint("Name one that does not exist, or leave out --to-database to replace the original.")
                .err();
        }
        self.refuse_what_cannot_work(&server).await?;
        let held = if replaces { facts::connections(&server, &self.target).await? } else { Vec::new() };
        let connections: Vec<String> = held.iter().map(ToString::to_string).collect();
        let scratch = &self.context.settings.scratch_dir;
        let mut warnings = Vec::new();
        if server.major() < self.manifest.postgres_version_num / 10_000 {
            warnings.push(format!(
                "the backup is of PostgreSQL {}, this server is {}: older servers may not understand all of it",
                self.manifest.postgres_version_num / 10_000,
                server.major()
            ));
        }
        let previous_database = if replaces { Some(self.name_for_the_old(&server).await?) } else { None };
        let source = &self.source().properties.name;
        let mut work = quoting::work(self.context, &self.manifest, self.sealed)?;
        work.scratch_bytes = self.manifest.original_size;
        work.stops_at = format!("at {}, the instant of the backup", self.manifest.consistent_at);
        let quote = quoting::quote(self.context, BackupKind::Database, Some(source), work)?;
        let plan = RestorePlan {
            backup: self.manifest.id.clone(),
            consistent_at: self.manifest.consistent_at.clone(),
            source_database: self.source().properties.name.clone(),
            target_database: self.target.clone(),
            replaces,
            staging_database: self.staging.clone(),
            previous_database,
            drop_old: replaces && self.request.drop_old,
            fetch_bytes: self.manifest.stored_size,
            scratch_bytes: self.manifest.original_size,
            scratch_directory: scratch.display().to_string(),
            tables: self.manifest.tables().count() as u64,
            rows: self.manifest.rows(),
            connections,
            quote,
            warnings,
        };
        Ok((plan, server))
    }

    /// The name under which the replaced database is kept: a free one, also after another restore in this second.
    async fn name_for_the_old(&self, server: &Server) -> anyhow::Result<String> {
        let suffix = format!("_old_{}", Utc::now().format("%Y%m%dT%H%M%SZ"));
        let mut name = swap::derived_name(&self.target, &suffix);
        for number in 2..100 {
            if !facts::database_exists(server, &name).await? {
                break;
            }
            name = swap::derived_name(&self.target, &format!("{suffix}_{number}"));
        }
        Ok(name)
    }

    async fn refuse_what_cannot_work(&self, server: &Server) -> anyhow::Result<()> {
        let rights = facts::rights(server).await?;
        if !rights.superuser && !rights.create_databases {
            return Fault::new(Kind::Postgres, format!("user \"{}\" may not create databases", rights.user))
                .hint("Restore as a superuser, or as a user with CREATEDB who owns the database.")
                .err();
        }
        let properties = &self.source().properties;
        if !self.request.no_owner || !self.request.no_privileges {
            let missing = database::missing_roles(server, properties).await?;
            if !missing.is_empty() {
                return Fault::new(Kind::Postgres, format!("the server has no role {}", missing.join(", ")))
                    .hint("Create them, or restore with `--no-owner --no-privileges`.")
                    .err();
            }
        }
        if database::lacks_tablespace(server, properties).await? {
            return Fault::new(
                Kind::Postgres,
                format!("the server has no tablespace \"{}\"", properties.tablespace),
            )
            .hint("Create it, then run the restore again.")
            .err();
        }
        let scratch = &self.context.settings.scratch_dir;
        let free = space::of(scratch)?.free;
        if free < self.manifest.original_size {
            let need = Bytes(self.manifest.original_size);
            let message = format!(
                "the scratch directory {} has {} free, unpacking needs {need}",
                scratch.display(),
                Bytes(free)
            );
            return Fault::new(Kind::Store, message)
                .hint("Make room there, or set BACKUP_SCRATCH_DIR to a directory with more.")
                .err();
        }
        Ok(())
    }

    /// Refuses to begin while somebody is connected to what would be replaced, unless they may be ended.
    pub(super) fn refuse_connections(&self, plan: &RestorePlan) -> anyhow::Result<()> {
        if plan.connections.is_empty() || self.request.terminate {
            return Ok(());
        }
        Fault::new(
            Kind::Refused,
            format!("database \"{}\" is in use by {}", self.target, plan.connections.join("; ")),
        )
        .hint("Stop what uses it, or let the restore end these connections with --terminate.")
        .err()
    }

    /// The report of what is planned, of which nothing is done yet.
    pub(super) fn report(&self, plan: RestorePlan) -> RestoreReport {
        RestoreReport {
            dry_run: self.request.dry_run,
            warnings: plan.warnings.clone(),
            plan,
            phases: Vec::new(),
            checked_tables: 0,
            checked_rows: 0,
            kept_as: None,
            seconds: 0.0,
        }
    }
}
