//! A whole cluster: its data directory and tablespaces, read file by file between the beginning and the end of the
//! server's backup mode.
//!
//! What is read changes meanwhile, and that is fine: replay from `start_lsn` on writes everything anew that was changed
//! after it, and the backup counts only when replay has reached `stop_lsn`. What replay can't mend is a page whose
//! checksum is wrong although nobody has changed it: that is looked for here.

mod files;
mod walk;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use chrono::{DateTime, Utc};
use tokio::task::spawn_blocking;

use crate::format::backup_manifest::{self, ManifestFile};
use crate::format::cluster::{Cluster, Tablespace};
use crate::model::{ConnectionSettings, Fault, Kind, Lsn, Progress, Stage, Timestamp, WalName};
use crate::pipeline::{FinishedEntry, Framer};
use crate::postgres::Server;
use crate::postgres::base_backup::{self, Begun, ClusterFacts};
use crate::system::stop::Interrupted;
use crate::system::{Step, Stop, step};

use files::{Pages, ReadFile};
use walk::Walked;

/// How often the data directory is listed, when tablespaces come and go.
const LISTINGS: u32 = 5;
/// How long the server may take to hear that a backup is not wanted any more.
const CANCELLING: Duration = Duration::from_secs(2);

/// How to back up.
#[derive(Debug, Clone)]
pub struct ClusterPlan {
    /// How to reach the server.
    pub connection: ConnectionSettings,
    /// Where its data directory is seen from here, if not where the server says.
    pub data_directory: Option<PathBuf>,
    /// How many files are read at the same time.
    pub jobs: usize,
    /// Let the server make its checkpoint at once.
    pub fast: bool,
    /// What the server is told that it is for.
    pub label: String,
}

/// A cluster in backup mode.
#[derive(Debug)]
pub struct ClusterSource {
    plan: ClusterPlan,
    facts: ClusterFacts,
    directory: PathBuf,
    begun: Begun,
    /// By number, and where they are.
    tablespaces: Vec<(u32, PathBuf)>,
    walked: Walked,
    /// The server's system identifier.
    pub system_identifier: u64,
}

/// What was read.
#[derive(Debug)]
pub struct ClusterContents {
    /// The files.
    pub entries: Vec<FinishedEntry>,
    /// Where it lies in the stream of WAL.
    pub cluster: Cluster,
    /// When it is consistent, by the server's clock.
    pub consistent_at: Timestamp,
    /// The server's version.
    pub postgres_version_num: u32,
    /// What is not as it should be.
    pub warnings: Vec<String>,
    /// The connection, out of backup mode.
    pub server: Server,
}

impl ClusterSource {
    /// Looks whether it can be done, begins the backup mode, and lists what is to be read.
    ///
    /// A server that does not archive, or that is not on this machine: [`Kind::Postgres`].
    pub async fn open(plan: ClusterPlan, progress: &dyn Progress, stop: &Stop) -> anyhow::Result<Self> {
        let server = Server::connect(&plan.connection, None, stop).await?;
        let facts = base_backup::cluster(&server).await?;
        refuse_without_archive(&facts)?;
        let directory = data_directory(&plan, &facts)?;
        let waiting = progress.waiting("checkpoint");
        let begun = tokio::select! {
            begun = base_backup::begin(server, &plan.label, plan.fast) => begun?,
            // The connection goes, and with it the server's part.
            () = stop.requested() => return Err(Interrupted.into()),
        };
        drop(waiting);
        step::reached(Step::ClusterModeBegun)?;
        let (tablespaces, walked) = list(&facts, &directory, begun.server()).await?;
        let system_identifier = facts.system_identifier;
        Ok(Self { plan, facts, directory, begun, tablespaces, walked, system_identifier })
    }

    /// What is going to be read, for those who want to see it.
    pub fn details(&self) -> String {
        format!(
            "read {} files in {} directories of {} and {} tablespaces, replay begins at {}",
            self.walked.files.len(),
            self.walked.directories.len(),
            self.directory.display(),
            self.tablespaces.len(),
            self.begun.start_lsn
        )
    }

    /// Bytes of the files as they are now.
    pub fn estimate(&self) -> u64 {
        self.walked.files.iter().map(|file| file.size).sum()
    }

    /// Reads everything into the pipeline, and ends the backup mode. Succeeds only when the connection that holds it
    /// lived to the end.
    pub async fn read(self, framer: Framer, stage: Stage, stop: &Stop) -> anyhow::Result<ClusterContents> {
        let Self { plan, facts, directory, begun, tablespaces: places, walked, system_identifier } = self;
        let Walked { files, directories, left_out, warnings, mode, .. } = walked;
        let pages = pages(&facts);
        let (abandoned, stage) = (Stop::default(), Arc::new(stage));
        let reading = files::read_all(files, &framer, plan.jobs, pages, &stage, [stop, &abandoned]);
        let read = tokio::select! {
            read = reading => read?,
            lost = begun.server().lost() => {
                abandoned.request();
                return Err(lost);
            }
        };
        step::reached(Step::ClusterFilesRead)?;
        let control = directory.join("global/pg_control");
        let (control, framer) = spawn_blocking(move || -> anyhow::Result<(ReadFile, Framer)> {
            let mut framer = framer;
            // Last, as pg_basebackup does: on a standby it says up to where replay must go.
            let file = files::control(&control, &mut framer)?;
            Ok((file, framer))
        })
        .await
        .context("read pg_control")??;
        let ending = tokio::time::timeout(CANCELLING.max(Duration::from_mins(5)), begun_end(begun));
        let (ended, start_lsn, server) =
            ending.await.context("the server does not end the base backup")??;
        let segment = |position: Lsn| WalName::segment(ended.timeline, position, facts.wal_segment_size);
        let mut read = read;
        read.push(control);
        read.sort_by(|left, right| left.entry.name.cmp(&right.entry.name));
        let cluster = Cluster {
            start_lsn,
            stop_lsn: ended.stop_lsn,
            timeline: ended.timeline,
            wal_segment_size: facts.wal_segment_size,
            first_segment: segment(start_lsn).to_string(),
            // The position is behind the last byte that is needed.
            last_segment: segment(Lsn(ended.stop_lsn.0.saturating_sub(1))).to_string(),
            block_size: facts.block_size,
            data_checksums: facts.data_checksums,
            from_standby: facts.in_recovery,
            mode,
            owner: walk::owner_of(&directory)?,
            data_directory: facts.data_directory.to_str().map(ToOwned::to_owned),
            config_file: Some(facts.config_file.clone())
                .filter(|file| !file.is_empty() && !Path::new(file).starts_with(&facts.data_directory)),
            directories,
            tablespaces: tablespaces(&places)?,
            damaged_pages: read.iter().filter_map(ReadFile::damaged).collect(),
            left_out,
        };
        let version_num = server.version_num();
        let entries = spawn_blocking({
            let cluster = cluster.clone();
            move || -> anyhow::Result<Vec<FinishedEntry>> {
                let mut framer = framer;
                // No tablespace_map: the server would put the links back to where the tablespaces were, which may be
                // those of the original. A restore makes the links itself, as pg_basebackup does.
                let mut added = vec![files::text("backup_label", &ended.label, &mut framer)?];
                let all = read.iter().map(|file| (&file.entry, file.modified));
                let all = all.chain(added.iter().map(|entry| (entry, ended.at)));
                let manifest = manifest(all, &cluster, system_identifier, version_num / 10_000);
                added.push(files::text("backup_manifest", &manifest, &mut framer)?);
                framer.close()?;
                let mut entries: Vec<FinishedEntry> = read.into_iter().map(|file| file.entry).collect();
                entries.extend(added);
                Ok(entries)
            }
        });
        let entries = entries.await.context("write the backup's label")??;
        Ok(ClusterContents {
            entries,
            cluster,
            consistent_at: ended.at,
            postgres_version_num: version_num,
            warnings,
            server,
        })
    }
}

async fn begun_end(begun: Begun) -> anyhow::Result<(base_backup::Ended, Lsn, Server)> {
    let start_lsn = begun.start_lsn;
    let (ended, server) = begun.end().await?;
    Ok((ended, start_lsn, server))
}

fn manifest<'a>(
    files: impl Iterator<Item = (&'a FinishedEntry, DateTime<Utc>)>,
    cluster: &Cluster,
    system_identifier: u64,
    major: u32,
) -> String {
    let files = files.map(|(entry, modified)| ManifestFile {
        path: &entry.name,
        size: entry.size,
        modified,
        sha256: &entry.sha256,
    });
    backup_manifest::write(files, cluster, system_identifier, major)
}

/// How pages are looked at; `None` when there is nothing to be learned from them.
fn pages(facts: &ClusterFacts) -> Option<Pages> {
    let is_known_size = facts.block_size as usize == crate::postgres::page::PAGE_BYTES;
    (facts.data_checksums && is_known_size).then_some(Pages { blocks_per_file: facts.segment_blocks })
}

/// Lists what is to be read. The tablespaces are asked for in backup mode: one that was made while the server's checkpoint
/// was waited for is not in the WAL that is replayed.
async fn list(
    facts: &ClusterFacts,
    directory: &Path,
    server: &Server,
) -> anyhow::Result<(Vec<(u32, PathBuf)>, Walked)> {
    let mut unknown = Vec::new();
    for _ in 0..LISTINGS {
        let tablespaces = base_backup::tablespaces(server).await?;
        let (top, server_top) = (directory.to_owned(), facts.data_directory.clone());
        let (places, major) = (tablespaces.clone(), server.major());
        let walking = spawn_blocking(move || walk::walk(&top, &server_top, &places, major));
        let walked = walking.await.context("list the data directory")??;
        if walked.unknown_tablespaces.is_empty() {
            return Ok((tablespaces, walked));
        }
        // One was made in between.
        unknown.clone_from(&walked.unknown_tablespaces);
    }
    let message = format!(
        "{} in {} is a link, and no tablespace of the server",
        unknown.join(", "),
        directory.display()
    );
    Fault::new(Kind::Postgres, message)
        .hint("A tablespace that was dropped can leave it behind: look where it leads, and remove the link.")
        .err()
}

fn tablespaces(places: &[(u32, PathBuf)]) -> anyhow::Result<Vec<Tablespace>> {
    let tablespace = |(oid, path): &(u32, PathBuf)| {
        let mode = walk::mode_of(path)?;
        let path = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?.to_owned();
        anyhow::Ok(Tablespace { oid: *oid, path, mode })
    };
    places.iter().map(tablespace).collect()
}

/// A backup that can never be made consistent is none.
fn refuse_without_archive(facts: &ClusterFacts) -> anyhow::Result<()> {
    let hint = "Set wal_level = replica, archive_mode = on and archive_command = 'pgkeep wal-push %p' in \
                postgresql.conf, and restart the server (README, \"Point-in-time recovery in ten minutes\").";
    if facts.wal_level == "minimal" {
        let message =
            "wal_level is minimal: what is written is not all in the WAL, so no cluster backup can be made";
        return Fault::new(Kind::Postgres, message).hint(hint).err();
    }
    // A standby's WAL is archived by its primary.
    if facts.archive_mode == "off" && !facts.in_recovery {
        let message = "archive_mode is off: without its WAL a cluster backup can't be brought back";
        return Fault::new(Kind::Postgres, message).hint(hint).err();
    }
    Ok(())
}

/// The data directory as it is seen from here: it must be that of the server.
fn data_directory(plan: &ClusterPlan, facts: &ClusterFacts) -> anyhow::Result<PathBuf> {
    let directory: &Path = plan.data_directory.as_ref().unwrap_or(&facts.data_directory);
    let shown = directory.display();
    let found = super::wal::control_identifier(directory).map_err(|error| {
        Fault::new(Kind::Postgres, format!("the data directory {shown} can't be read from here: {error:#}")).hint(
            "Run it on the server's machine, as a user who may read the data directory; where it is mounted \
             elsewhere (a container), set PGDATA.",
        )
    })?;
    if found != facts.system_identifier {
        let message = format!(
            "the data directory {shown} is another cluster's (system identifier {found}, the server's is {})",
            facts.system_identifier
        );
        return Fault::new(Kind::Refused, message)
            .hint("Correct PGDATA, or PGHOST and PGPORT: both must be of one server.")
            .err();
    }
    Ok(directory.to_owned())
}
