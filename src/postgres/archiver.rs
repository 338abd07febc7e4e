//! How the server's archiver is doing, as the server itself says.

use chrono::{TimeDelta, Utc};

use super::connection::Server;
use crate::model::{Lsn, Timestamp, WalName};
use crate::plan::conditions::Archiving;
use crate::plan::conditions::exposure::Position;

/// Asks for it.
pub async fn archiving(server: &Server) -> anyhow::Result<Archiving> {
    const ACTION: &str = "ask the server about its archiver";
    let sql = "SELECT current_setting('archive_mode') <> 'off' AND NOT pg_is_in_recovery(), last_failed_wal, \
               (extract(epoch FROM last_failed_time) * 1000)::int8, \
               coalesce(last_failed_time > last_archived_time, last_failed_time IS NOT NULL), \
               (extract(epoch FROM clock_timestamp()) * 1000)::int8, \
               CASE WHEN pg_is_in_recovery() THEN 0 ELSE \
               (pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0') % (SELECT setting::int8 FROM pg_settings \
               WHERE name = 'wal_segment_size'))::int8 END, \
               has_function_privilege('pg_ls_archive_statusdir()', 'EXECUTE'), \
               CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_lsn()::text END, \
               CASE WHEN NOT pg_is_in_recovery() THEN pg_walfile_name(pg_current_wal_lsn()) END, \
               (SELECT setting::int8 FROM pg_settings WHERE name = 'wal_segment_size'), pg_is_in_recovery() \
               FROM pg_stat_archiver";
    let row = server.query_one(ACTION, sql, &[]).await?;
    let here = Utc::now();
    let time = |milliseconds: i64| Timestamp::from_timestamp_millis(milliseconds);
    let (file, at): (Option<String>, Option<i64>) = (row.get(1), row.get(2));
    let failing = if row.get(3) { file.zip(at.and_then(time)) } else { None };
    // Counting them is a right of its own.
    let waiting = if row.get(6) {
        let sql = "SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'";
        let count: i64 = server.query_one(ACTION, sql, &[]).await?.get(0);
        u64::try_from(count).ok()
    } else {
        None
    };
    let (lsn, file): (Option<String>, Option<String>) = (row.get(7), row.get(8));
    let lsn = lsn.and_then(|text| text.parse::<Lsn>().ok());
    let timeline = file.and_then(|name| name.parse::<WalName>().ok()).map(|name| name.timeline());
    let size = u32::try_from(row.get::<_, i64>(9)).ok();
    let position = lsn.zip(timeline).zip(size);
    Ok(Archiving {
        position: position.map(|((lsn, timeline), segment_size)| Position { timeline, lsn, segment_size }),
        is_on: row.get(0),
        is_standby: row.get(10),
        waiting,
        failing,
        pending: u64::try_from(row.get::<_, i64>(5)).unwrap_or(0),
        clock_ahead: time(row.get(4)).map_or(TimeDelta::zero(), |there| there - here),
    })
}
