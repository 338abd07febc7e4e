//! A cluster's backup: unpacked, compared with its own manifest, replayed, and every database in it looked at.

use std::ffi::OsString;
use std::path::Path;

use super::home::{THROWAWAY, refuse_little_memory};
use super::{Laps, Test, Tested};
use crate::command::instance::{Instance, Reached, Wanted, tablespaces_of};
use crate::command::restore_cluster::{PlannedRestore, RestoreClusterRequest, TargetAction, TimelineWish};
use crate::format::manifest::Manifest;
use crate::model::{ConnectionSettings, WalName, timestamp_text};
use crate::plan::recovery::Target;
use crate::postgres::proof::{self, Proven};
use crate::postgres::{Server, facts, tools};
use crate::system::process::Running;
use crate::system::{Step, durable, step};
use crate::target::database as target;

/// Lines of a program that are findings.
const NAMED: usize = 5;

impl Test<'_> {
    pub(super) async fn cluster(&self, tested: &mut Tested) -> anyhow::Result<()> {
        let context = self.context;
        let mut laps = Laps::begin(context);
        "a throwaway server".clone_into(&mut tested.place);
        let root = context.scratch()?.join("cluster");
        let request = RestoreClusterRequest {
            backup: self.row.id.to_string(),
            to_dir: root.clone(),
            target: self.request.target_time.map_or(Target::End, Target::Time),
            timeline: TimelineWish::Latest,
            // Open for writing: amcheck has to be made in it.
            action: TargetAction::Promote,
            tablespaces: Vec::new(),
            contained: Some(tablespaces_of(&root)),
            force: false,
            standby: false,
            keep_archiving: false,
            start: false,
            port: None,
            dry_run: false,
        };
        refuse_little_memory()?;
        let planned = context.stop.or(PlannedRestore::plan(context, &request)).await?;
        let restored = context.stop.or(planned.carry_out(context, &request)).await?;
        tested.warnings.extend(restored.warnings);
        tested.bytes_fetched += planned.plan.fetch_bytes;
        step::reached(Step::TestRestoreUnpacked)?;
        laps.lap(tested, "fetch");
        let result = self.prove_cluster(&planned, &root, tested, &mut laps).await;
        let removed = durable::remove_dir_if_there(&root)
            .and_then(|()| durable::remove_dir_if_there(&tablespaces_of(&root)));
        laps.lap(tested, "drop");
        result?;
        removed
    }

    async fn prove_cluster(
        &self,
        planned: &PlannedRestore,
        root: &Path,
        tested: &mut Tested,
        laps: &mut Laps<'_>,
    ) -> anyhow::Result<()> {
        let (context, manifest) = (self.context, &*planned.manifest);
        let compared = context.stop.or(self.verify_backup(root, manifest)).await?;
        tested.check("files of the backup", "file", compared);
        laps.lap(tested, "check");
        let wanted = Wanted {
            root,
            major: manifest.postgres_version_num / 10_000,
            config_file: manifest.physical.as_ref().and_then(|cluster| cluster.config_file.as_deref()),
            settings: &THROWAWAY,
            what: "the throwaway server",
        };
        let mut instance = Instance::start(context, &wanted).await?;
        let looked = context.stop.or(self.look_into(&mut instance, planned, tested, laps)).await;
        let has_stopped = instance.stop(context).await;
        let looked = match looked {
            Ok(()) => {
                let pages = if has_stopped {
                    context.stop.or(self.checksums(root, manifest)).await
                } else {
                    Ok(Proven::not_checked("the throwaway server did not end"))
                };
                pages.map(|pages| tested.check("page checksums", "file", pages))
            }
            error => error,
        };
        laps.lap(tested, "check");
        instance.end(context).await?;
        looked
    }

    async fn look_into(
        &self,
        instance: &mut Instance,
        planned: &PlannedRestore,
        tested: &mut Tested,
        laps: &mut Laps<'_>,
    ) -> anyhow::Result<()> {
        let Reached { time, lsn } = instance.follow(self.context).await?;
        step::reached(Step::TestRestoreLoaded)?;
        let at = lsn.map_or_else(String::new, |lsn| format!(" at {lsn}"));
        tested.reached = Some(match self.request.target_time {
            Some(target) => format!("before {}{at}, last transaction {time}", timestamp_text(target)),
            None => format!("the end of the archive{at}, last transaction {time}"),
        });
        let size = planned.manifest.physical.as_ref().map_or(0, |cluster| cluster.wal_segment_size);
        let replayed =
            |name: &&WalName| name.start(size).is_some_and(|start| lsn.is_some_and(|lsn| start < lsn.0));
        let used: Vec<WalName> = planned.segments.iter().filter(replayed).cloned().collect();
        tested.wal_segments = used.len() as u64;
        tested.replayed = used;
        laps.lap(tested, "replay");
        self.check_databases(&instance.connection, tested).await?;
        step::reached(Step::TestRestoreChecked)?;
        laps.lap(tested, "check");
        Ok(())
    }

    /// Every database that one can connect to.
    async fn check_databases(
        &self,
        connection: &ConnectionSettings,
        tested: &mut Tested,
    ) -> anyhow::Result<()> {
        let stop = &self.context.stop;
        let server = target::connect_beside(connection, &[], stop).await?;
        // Who may log in need not be a superuser; on a throwaway server one can be it for the asking.
        let sql = "SELECT rolname::text FROM pg_roles WHERE oid = 10";
        let superuser: String = server.query_one("find the superuser", sql, &[]).await?.get(0);
        let databases = facts::databases(&server).await?;
        server.close().await;
        let connection = ConnectionSettings { user: Some(superuser), ..connection.clone() };
        let queries = self.queries()?;
        let mut all: [Proven; 6] = Default::default();
        let usable = databases.iter().filter(|database| database.allow_connections && !database.is_invalid);
        for database in usable {
            let name = &database.name;
            let stage = self.context.progress.waiting(&format!("check {name}"));
            let server = Server::connect(&connection, Some(name), stop).await?;
            let [tables, keys, heaps, indexes, sequences, own] = &mut all;
            let corruption = proof::corruption(&server).await?;
            heaps.add(name, corruption.heaps);
            indexes.add(name, corruption.indexes);
            keys.add(name, proof::orphans(&server, |_, _| true).await?);
            sequences.add(name, self.sequences(&server, name).await?);
            let named: Vec<&str> = self.said_of(name, &self.context.settings.questions.tables).collect();
            tables.add(name, proof::present(&server, &named).await?);
            let asked: Vec<&str> = self.said_of(name, &queries).collect();
            own.add(name, proof::ask(&server, None, &asked).await?);
            server.close().await;
            drop(stage);
        }
        let [tables, keys, heaps, indexes, sequences, own] = all;
        tested.check("key tables", "table", self.named_elsewhere(tables, &databases));
        tested.check("tables' pages", "relation", heaps);
        tested.check("indexes", "index", indexes);
        tested.check("foreign keys", "foreign key", keys);
        tested.check("sequences", "sequence", sequences);
        tested.check("your own queries", "query", own);
        Ok(())
    }

    /// A table of a database that is not there is not there either.
    fn named_elsewhere(&self, mut tables: Proven, databases: &[facts::DatabaseFacts]) -> Proven {
        let settings = &self.context.settings;
        for table in &settings.questions.tables {
            let Some(wanted) = table.database.as_ref().or(settings.postgres.database.as_ref()) else {
                continue;
            };
            if !databases.iter().any(|database| database.name == *wanted) {
                tables.checked += 1;
                tables.findings.push(format!("{wanted}: table {}: there is no such database", table.text));
            }
        }
        tables
    }

    /// PostgreSQL's own comparison of the files with the backup's manifest, before anything is replayed.
    async fn verify_backup(&self, root: &Path, manifest: &Manifest) -> anyhow::Result<Proven> {
        // The WAL is not in the directory: it comes out of the archive.
        self.program("pg_verifybackup", &["--no-parse-wal".into(), "--quiet".into(), root.into()], manifest)
            .await
    }

    /// The checksum of every page, after a clean end.
    async fn checksums(&self, root: &Path, manifest: &Manifest) -> anyhow::Result<Proven> {
        let Some(cluster) = &manifest.physical else { return Ok(Proven::default()) };
        if !cluster.data_checksums {
            return Ok(Proven {
                notes: vec!["the cluster has no page checksums (initdb --data-checksums)".to_owned()],
                ..Proven::default()
            });
        }
        let mut directory = OsString::from("--pgdata=");
        directory.push(root);
        self.program("pg_checksums", &["--check".into(), directory], manifest).await
    }

    /// Runs one of PostgreSQL's programs that finds fault with files; what it says is what it found.
    async fn program(
        &self,
        name: &str,
        arguments: &[OsString],
        manifest: &Manifest,
    ) -> anyhow::Result<Proven> {
        let major = manifest.postgres_version_num / 10_000;
        let tool = match tools::find(name, major, self.context.settings.pg_bindir.as_deref()) {
            Ok(tool) if tool.version.major == major => tool,
            Ok(tool) => return Ok(Proven::not_checked(format!("{name} is of PostgreSQL {}", tool.version))),
            Err(error) => return Ok(Proven::not_checked(format!("{error:#}"))),
        };
        let running = Running::start_with_ours(&tool.path, arguments).await?;
        let ended = running.wait(&self.context.stop).await?;
        let mut proven = Proven { checked: manifest.entries.len() as u64, ..Proven::default() };
        if ended.status.success() {
            return Ok(proven);
        }
        let said: Vec<&String> = ended.messages.iter().filter(|line| !line.trim().is_empty()).collect();
        proven.findings.extend(said.iter().take(NAMED).map(|line| (*line).clone()));
        if said.len() > NAMED {
            proven.findings.push(format!("{name}: and {} more", said.len() - NAMED));
        }
        if said.is_empty() {
            proven.findings.push(ended.account());
        }
        Ok(proven)
    }
}
