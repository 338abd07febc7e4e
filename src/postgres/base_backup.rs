//! Backup mode of the server (manual, "Making a Base Backup Using the Low Level API"), and what a physical backup must
//! know of it.
//!
//! Backup mode belongs to the connection on which it was begun. When that ends, however it ends, the server leaves it.

use std::path::PathBuf;

use chrono::DateTime;

use super::connection::Server;
use super::facts;
use crate::model::{Fault, FaultContext, Kind, Lsn, Timestamp};

/// The server as a physical backup sees it.
#[derive(Debug, Clone)]
pub struct ClusterFacts {
    /// Which cluster it is.
    pub system_identifier: u64,
    /// Where its data lies on its machine.
    pub data_directory: PathBuf,
    /// Bytes of a page.
    pub block_size: u32,
    /// `postgresql.conf`; empty where the user may not know.
    pub config_file: String,
    /// Pages in each file of a relation but the last.
    pub segment_blocks: u32,
    /// Bytes of a WAL segment.
    pub wal_segment_size: u32,
    /// Whether pages have checksums.
    pub data_checksums: bool,
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// `wal_level`.
    pub wal_level: String,
    /// `archive_mode`.
    pub archive_mode: String,
    /// `archive_command`; empty where the user may not see it, too.
    pub archive_command: String,
    /// `archive_timeout` in seconds; 0: none.
    pub archive_timeout: u64,
}

/// Asks for them.
pub async fn cluster(server: &Server) -> anyhow::Result<ClusterFacts> {
    const ACTION: &str = "ask the server about its data directory";
    let setting = async |name: &str| -> anyhow::Result<String> {
        let sql = "SELECT setting FROM pg_settings WHERE name = $1";
        let rows = server.query(ACTION, sql, &[&name]).await?;
        Ok(rows.first().and_then(|row| row.get::<_, Option<String>>(0)).unwrap_or_default())
    };
    let data_directory = facts::data_directory(server).await?;
    let Some(data_directory) = data_directory else {
        return Fault::new(Kind::Postgres, "the user may not know where the server's data lies")
            .hint("GRANT pg_read_all_settings TO the role, or use a superuser.")
            .err();
    };
    let number = async |name: &str| -> anyhow::Result<u64> {
        let text = setting(name).await?;
        text.parse().or_fault(|| Fault::new(Kind::Postgres, format!("the setting {name} is \"{text}\"")))
    };
    Ok(ClusterFacts {
        system_identifier: facts::system_identifier(server).await?,
        data_directory,
        block_size: u32::try_from(number("block_size").await?)?,
        config_file: setting("config_file").await?,
        segment_blocks: u32::try_from(number("segment_size").await?)?,
        wal_segment_size: u32::try_from(number("wal_segment_size").await?)?,
        data_checksums: setting("data_checksums").await? == "on",
        in_recovery: facts::server(server).await?.in_recovery,
        wal_level: setting("wal_level").await?,
        archive_mode: setting("archive_mode").await?,
        archive_command: setting("archive_command").await?,
        archive_timeout: number("archive_timeout").await?,
    })
}

/// Tablespaces by number, and where they are; those that PostgreSQL comes with are not among them.
pub async fn tablespaces(server: &Server) -> anyhow::Result<Vec<(u32, PathBuf)>> {
    let sql = "SELECT oid, pg_tablespace_location(oid) FROM pg_tablespace ORDER BY oid";
    let rows = server.query("list the tablespaces", sql, &[]).await?;
    let tablespace = |row: &tokio_postgres::Row| {
        let path: Option<String> = row.get(1);
        // Empty for those that PostgreSQL comes with, relative for those of tests (allow_in_place_tablespaces).
        path.filter(|path| path.starts_with('/')).map(|path| (row.get(0), PathBuf::from(path)))
    };
    Ok(rows.iter().filter_map(tablespace).collect())
}

/// A backup that the server has been told of. Dropping it closes the connection, and the server forgets it.
#[derive(Debug)]
pub struct Begun {
    server: Server,
    /// Where replay will begin.
    pub start_lsn: Lsn,
}

/// What the server says at the end.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Where the backup is consistent.
    pub stop_lsn: Lsn,
    /// Which timeline that is on.
    pub timeline: u32,
    /// When that was, by the server's clock.
    pub at: Timestamp,
    /// The content of `backup_label`.
    pub label: String,
}

/// Begins: the server makes a checkpoint, at once or in the course of its usual ones.
pub async fn begin(server: Server, label: &str, fast: bool) -> anyhow::Result<Begun> {
    // The functions were renamed, and non-exclusive became the only way, in PostgreSQL 15.
    let sql = if server.major() >= 15 {
        "SELECT pg_backup_start($1, $2)::text"
    } else {
        "SELECT pg_start_backup($1, $2, false)::text"
    };
    let begun = server.query_one("begin a base backup", sql, &[&label, &fast]).await;
    let row = begun.or_fault(|| {
        Fault::new(Kind::Postgres, "the server does not begin a base backup").hint(
            "The user must be a superuser, or be granted EXECUTE on pg_backup_start and pg_backup_stop.",
        )
    })?;
    let start_lsn = row.get::<_, String>(0).parse()?;
    Ok(Begun { server, start_lsn })
}

impl Begun {
    /// The connection, to be watched.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Ends the backup; what was read between is one when replay has come as far as `stop_lsn`. Does not wait until that
    /// is archived.
    pub async fn end(self) -> anyhow::Result<(Ended, Server)> {
        const ACTION: &str = "end the base backup";
        let server = self.server;
        let sql = if server.major() >= 15 {
            "SELECT lsn::text, labelfile FROM pg_backup_stop(false)"
        } else {
            "SELECT lsn::text, labelfile FROM pg_stop_backup(false, false)"
        };
        let row = server.query_one(ACTION, sql, &[]).await?;
        let (stop_lsn, label): (String, String) = (row.get(0), row.get(1));
        // The label names the timeline since PostgreSQL 11 (`build_backup_content`).
        let timeline =
            label.lines().find_map(|line| line.strip_prefix("START TIMELINE: ")?.trim().parse().ok());
        let Some(timeline) = timeline else {
            return Fault::new(Kind::Postgres, "the server's backup label names no timeline").err();
        };
        let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::int8";
        let milliseconds: i64 = server.query_one(ACTION, sql, &[]).await?.get(0);
        let at = DateTime::from_timestamp_millis(milliseconds)
            .ok_or_else(|| Fault::new(Kind::Postgres, "the server's clock shows an impossible time"))?;
        let ended = Ended { stop_lsn: stop_lsn.parse()?, timeline, at, label };
        Ok((ended, server))
    }
}

/// The file that the server's archiver has archived last.
pub async fn last_archived(server: &Server) -> anyhow::Result<Option<String>> {
    let sql = "SELECT last_archived_wal FROM pg_stat_archiver";
    Ok(server.query_one("ask the archiver", sql, &[]).await?.get(0))
}

/// What the archiver says of itself: why something is late.
pub async fn archiver_account(server: &Server) -> anyhow::Result<String> {
    let sql = "SELECT last_archived_wal, failed_count, last_failed_wal, \
                      last_failed_time > coalesce(last_archived_time, '-infinity') FROM pg_stat_archiver";
    let row = server.query_one("ask the archiver", sql, &[]).await?;
    let last: Option<String> = row.get(0);
    let failed: Option<String> = row.get(2);
    let last = last.map_or_else(
        || "it has archived nothing".to_owned(),
        |name| format!("the last that it archived is {name}"),
    );
    let is_failing: Option<bool> = row.get(3);
    Ok(match failed.filter(|_| is_failing == Some(true)) {
        Some(name) => {
            format!("{last}, and archive_command fails at {name} ({} failures so far)", row.get::<_, i64>(1))
        }
        None => last,
    })
}
