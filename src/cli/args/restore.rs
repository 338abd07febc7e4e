//! What `pgkeep restore` is told.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{said, time};
use crate::command::restore_cluster::TimelineWish;
use crate::model::{Lsn, Timestamp};

/// Restoring.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub struct Restore {
    /// The backup: `latest`, an identifier, or the beginning of one; with --tenant it may be left out
    #[arg(required_unless_present = "tenant", default_value = "latest", hide_default_value = true)]
    pub backup: String,
    /// What comes back [default: full; with --to-dir: pitr]
    #[arg(long, value_enum)]
    pub mode: Option<Mode>,
    /// With `latest`: the newest backup of this database
    #[arg(long, value_name = "NAME")]
    pub database: Option<String>,
    /// Restore into a new database of this name and replace nothing
    #[arg(long, value_name = "NAME")]
    pub to_database: Option<String>,
    /// How many tables and indexes to make at the same time [default: `BACKUP_JOBS`]
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: Option<u16>,
    /// End the connections to the database that is replaced
    #[arg(long)]
    pub terminate: bool,
    /// Drop the replaced database when all is done, instead of keeping it under another name
    #[arg(long)]
    pub drop_old: bool,
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask for confirmation
    #[arg(long)]
    pub yes: bool,
    /// Let everything belong to the user who restores
    #[arg(long)]
    pub no_owner: bool,
    /// Do not bring back privileges
    #[arg(long)]
    pub no_privileges: bool,
    /// One tenant among others
    #[command(flatten)]
    pub tenants: RestoreTenants,
    /// Where a cluster goes, and up to which point
    #[command(flatten)]
    pub cluster: RestoreCluster,
}

/// Putting tenants back among others.
#[derive(Debug, Args)]
#[command(next_help_heading = "Restoring tenants (--tenant)")]
pub struct RestoreTenants {
    /// Restore this tenant alone, by its key; may be repeated
    #[arg(long, value_name = "ID", group = "place", conflicts_with_all = ["to_dir", "to_database"])]
    pub tenant: Vec<String>,
    /// Make the tenant anew beside the old one, under this key: rows with new numbers where the database numbers them
    /// itself; a schema or a database under the name that `TENANT_PATTERN` makes of it
    #[arg(long = "as", value_name = "NEW_ID", requires = "tenant", conflicts_with = "on_conflict")]
    pub new_id: Option<String>,
    /// With --mode merge: what becomes of rows that differ [default: keep]
    #[arg(long, value_enum, requires = "tenant")]
    pub on_conflict: Option<OnConflict>,
    /// Show so many rows of each table that would be written or removed
    #[arg(long, value_name = "N", requires = "tenant", default_value_t = 0, hide_default_value = true)]
    pub show_rows: usize,
    /// Count and sum up everybody else's rows before and after
    #[arg(long, requires = "tenant")]
    pub prove_others: bool,
}

/// What becomes of a tenant's rows that differ from those of the backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnConflict {
    /// They stay
    Keep,
    /// They become those of the backup
    Take,
}

/// Restoring a cluster backup into a data directory.
#[derive(Debug, Args)]
#[command(next_help_heading = "Restoring a cluster (--to-dir)")]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub struct RestoreCluster {
    /// Restore a cluster backup, or the files of a configuration, into this directory, which is empty or is made
    #[arg(long, value_name = "DIR", group = "place", conflicts_with_all = ["to_database", "database", "terminate", "drop_old"])]
    pub to_dir: Option<PathBuf>,
    /// Up to this time, RFC 3339 (2026-11-22T14:02:00Z) [default: the end of the archive]
    #[arg(long, value_name = "TIME", value_parser = time, requires = "place", group = "target")]
    pub target_time: Option<Timestamp>,
    /// Up to this position in WAL
    #[arg(long, value_name = "LSN", value_parser = lsn, requires = "to_dir", group = "target")]
    pub target_lsn: Option<Lsn>,
    /// Up to this transaction
    #[arg(long, value_name = "XID", value_parser = clap::value_parser!(u64), requires = "to_dir", group = "target")]
    pub target_xid: Option<u64>,
    /// Up to this point, named with `pg_create_restore_point()`
    #[arg(long, value_name = "NAME", requires = "to_dir", group = "target")]
    pub target_name: Option<String>,
    /// Along this timeline: latest, current (that of the backup), or a number [default: latest]
    #[arg(long, value_name = "TIMELINE", value_parser = timeline, requires = "to_dir")]
    pub target_timeline: Option<TimelineWish>,
    /// What the server does there [default: promote]
    #[arg(long, value_enum, requires = "to_dir")]
    pub target_action: Option<Action>,
    /// Put a tablespace elsewhere; may be repeated
    #[arg(long, value_name = "OLD=NEW", value_parser = moved, requires = "to_dir")]
    pub tablespace: Vec<(PathBuf, PathBuf)>,
    /// Replace the data directory that is there, if it is of the same cluster and no server runs on it
    #[arg(long, requires = "to_dir")]
    pub force: bool,
    /// Make a standby
    #[arg(long, requires = "to_dir", conflicts_with = "target")]
    pub standby: bool,
    /// Start the server and follow it to the target
    #[arg(long, requires = "to_dir")]
    pub start: bool,
    /// The port for --start
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..), requires = "start")]
    pub port: Option<u16>,
    /// Let the copy archive its WAL as the original did
    #[arg(long, requires = "to_dir")]
    pub keep_archiving: bool,
}

/// What comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// The state of the backup itself
    Full,
    /// With --tenant: what is there stays, what is missing is added
    Merge,
    /// The state at a point in time: a cluster backup, and WAL replayed on it
    Pitr,
}

/// What a server does when it has reached the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Action {
    /// Open for writing, on a timeline of its own
    Promote,
    /// Wait, open for reading
    Pause,
    /// Stop
    Shutdown,
}

pub(super) fn lsn(text: &str) -> Result<Lsn, String> {
    text.parse().map_err(said)
}

fn timeline(text: &str) -> Result<TimelineWish, String> {
    match text {
        "latest" => Ok(TimelineWish::Latest),
        "current" => Ok(TimelineWish::Current),
        _ => match text.parse() {
            Ok(number) if number > 0 => Ok(TimelineWish::Number(number)),
            _ => Err("write latest, current, or a number".to_owned()),
        },
    }
}

fn moved(text: &str) -> Result<(PathBuf, PathBuf), String> {
    let parts = text.split_once('=').filter(|(old, new)| old.starts_with('/') && new.starts_with('/'));
    parts
        .map(|(old, new)| (PathBuf::from(old.trim_end_matches('/')), PathBuf::from(new)))
        .ok_or_else(|| "write OLD=NEW, both of them absolute".to_owned())
}
