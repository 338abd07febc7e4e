//! The command line; the doc comments are the help.

pub mod test_restore;

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::command::status::StatusRequest;
use crate::config::{parse_duration, parse_size};
use crate::model::{Fault, Kind, Lsn, StoreName, Timestamp, parse_timestamp};

mod alerts;
mod restore;

pub use alerts::{AlertAction, Alerts, Jobs};
pub use restore::{Action, Mode, OnConflict, Restore, RestoreCluster, RestoreTenants};

/// Backs up a PostgreSQL server, proves the backups, and brings back what was lost.
#[derive(Debug, Parser)]
#[command(name = "pgkeep", version, propagate_version = true, after_help = exit_codes(), max_term_width = 110)]
pub struct Arguments {
    /// Read settings from this file [default: `PGKEEP_ENV_FILE`, then ./pgkeep.env, then /etc/pgkeep/pgkeep.env]
    #[arg(long, global = true, value_name = "FILE")]
    pub env_file: Option<PathBuf>,
    /// What to write to stdout: text for people, or one JSON document
    #[arg(long, global = true, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// Say nothing unless something is wrong (for cron)
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Say each step, and which programs and places are used
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    pub verbose: bool,
    /// How long to wait for runs that must not go on at the same time; 0: not at all
    #[arg(long, global = true, value_name = "DURATION", value_parser = duration, default_value = "1h")]
    pub wait: Duration,
    /// Do it at this time, RFC 3339 (2026-11-22T02:00:00Z), through `run-due`: backup, restore --yes, verify and their
    /// like
    #[arg(long, global = true, value_name = "TIME", value_parser = time)]
    pub at: Option<Timestamp>,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The form of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Text,
    /// One document for programs; the README names the schema of each
    Json,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make the catalog and write the cluster's identity to every store; may be run again
    Init,
    /// Look whether a backup would work: settings, key, stores, PostgreSQL, programs, rights
    Check,
    /// Back up
    #[command(subcommand)]
    Backup(Backup),
    /// Restore a database beside the one in use and swap it in by renaming; or, with --to-dir, a cluster to any point in
    /// time. Without any argument, at a terminal, it asks what has happened
    Restore(Box<Restore>),
    /// Compare what is stored with what should be, and read the copies whose proof is oldest
    Verify(Verify),
    /// Prove backups by restoring them into a place of their own, looking at what comes out, and dropping it
    TestRestore(test_restore::TestRestore),
    /// Make the copies that a store missed, lost or damaged
    Sync(Sync),
    /// Delete what is older than `BACKUP_RETENTION_DAYS` and needed by nothing; never the best proven backup
    Cleanup(Cleanup),
    /// Keep a backup whatever its age
    Keep {
        /// The backup: `latest`, an identifier, or the beginning of one
        backup: String,
        /// Why
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Leave a kept backup to the rules again
    Unkeep {
        /// The backup: an identifier, or the beginning of one
        backup: String,
    },
    /// Archive a WAL file: `archive_command = 'pgkeep wal-push %p'`
    WalPush {
        /// The file as the server names it (%p)
        path: PathBuf,
    },
    /// Get a WAL file out of the archive: `restore_command = 'pgkeep wal-fetch %f "%p"'`
    WalFetch {
        /// The file's name (%f)
        name: String,
        /// Where it is wanted (%p)
        destination: PathBuf,
        /// Recovery has a target: let a hole in the archive end it, since the server itself opens for writing only when
        /// it has reached its target
        #[arg(long)]
        bounded: bool,
        /// Give out no segment in which a tablespace is made from this place on (for servers that pgkeep starts beside the
        /// original)
        #[arg(long, value_name = "LSN", value_parser = restore::lsn, hide = true)]
        contained: Option<Lsn>,
        /// Read this store alone (for test restores)
        #[arg(long, value_name = "NAME", value_parser = store_name, hide = true)]
        store: Option<StoreName>,
    },
    /// Gets segments beforehand; started by `wal-fetch`
    #[command(hide = true)]
    WalPrefetch {
        /// The first segment
        first: String,
        /// The size of segments in bytes
        segment_size: u32,
        /// Read this store alone
        #[arg(long, value_parser = store_name)]
        store: Option<StoreName>,
    },
    /// What somebody should look at, until it is over
    Alerts(Alerts),
    /// Look for what no other command comes upon: nothing has run, the archiver has stopped (for cron)
    Watch,
    /// Run the jobs whose time has come (for cron)
    RunDue,
    /// What was put off with --at; `list --jobs` shows it
    #[command(subcommand)]
    Jobs(Jobs),
    /// List the backups
    List(List),
    /// Show everything about one backup
    Show(Show),
    /// Tell at a glance whether the data is safe: health score, RPO and RTO, stores, last runs, alerts, jobs
    Status(Status),
    /// Make the catalog anew out of the stores, or check it
    #[command(subcommand)]
    Catalog(Catalog),
    /// Encryption keys
    #[command(subcommand)]
    Key(Key),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page
    Man {
        /// Write a page for each command into this directory instead
        #[arg(long, value_name = "DIR")]
        to_dir: Option<PathBuf>,
    },
}

/// What to back up.
#[derive(Debug, Subcommand)]
pub enum Backup {
    /// The whole cluster, physically: the base of point-in-time recovery; needs WAL to be archived (`wal-push`)
    Cluster {
        /// Let the server make its checkpoint at once, instead of sparing its disk
        #[arg(long)]
        fast: bool,
        /// How many files to read at the same time [default: `BACKUP_JOBS`]
        #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..=64))]
        jobs: Option<u16>,
    },
    /// Tenants, each as a backup of its own; those that share tables or a database all at one instant
    Tenant {
        /// The tenants, by their key
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        tenants: Vec<String>,
        /// All that there are
        #[arg(long)]
        all: bool,
        /// The database [default: PGDATABASE]
        #[arg(long, value_name = "NAME")]
        database: Option<String>,
        /// How many tables to read at the same time [default: `BACKUP_JOBS`]
        #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..=64))]
        jobs: Option<u16>,
    },
    /// The server's configuration: `postgresql.conf` and what it includes, `pg_hba.conf`, `pg_ident.conf`, roles with
    /// their passwords, tablespaces, and `BACKUP_CONFIG_PATHS`
    Config,
    /// One database: `pg_dump` under one snapshot, compressed, encrypted, stored
    Database {
        /// The database [default: PGDATABASE]
        name: Option<String>,
        /// How many tables to read at the same time [default: `BACKUP_JOBS`]
        #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..=64))]
        jobs: Option<u16>,
    },
}

/// Verifying.
#[derive(Debug, Clone, Args)]
pub struct Verify {
    /// One backup [default: all]
    pub backup: Option<String>,
    /// Read everything: SHA-256 of what is stored, decrypt, SHA-256 of what was read
    #[arg(long)]
    pub deep: bool,
    /// Read in full so many bytes, such as 2G, of the copies whose proof is oldest; 0: none [default:
    /// `BACKUP_VERIFY_BUDGET`]
    #[arg(long, value_name = "BYTES", value_parser = size, conflicts_with = "deep")]
    pub budget: Option<u64>,
    /// Begin to read nothing more after this time, such as 20m
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub max_time: Option<Duration>,
    /// Replace missing and damaged copies from good ones
    #[arg(long)]
    pub repair: bool,
    /// Look at this store only: local, r2 or b2
    #[arg(long, value_name = "NAME", value_parser = store_name)]
    pub store: Option<StoreName>,
}

/// Making copies.
#[derive(Debug, Args)]
pub struct Sync {
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Cleaning up.
#[derive(Debug, Args)]
pub struct Cleanup {
    /// Show what becomes of every backup and of the WAL, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Go on although more than half of everything goes, or although by the catalog this machine's clock may be wrong
    #[arg(long)]
    pub yes: bool,
}

/// Listing.
#[derive(Debug, Args)]
pub struct List {
    /// Only backups of this database
    #[arg(long, value_name = "NAME")]
    pub database: Option<String>,
    /// The tenants of the database, and the newest backup of each
    #[arg(long, conflicts_with = "recoverable")]
    pub tenants: bool,
    /// Which points in time can be reached by restoring a cluster, and where the holes are
    #[arg(long, conflicts_with = "database")]
    pub recoverable: bool,
    /// The jobs that wait or run, and the last ones that have ended
    #[arg(long, conflicts_with_all = ["database", "tenants", "recoverable"])]
    pub jobs: bool,
}

/// Showing.
#[derive(Debug, Args)]
pub struct Show {
    /// The backup: `latest`, an identifier, or the beginning of one
    pub backup: String,
}

/// The glance.
#[derive(Debug, Args)]
pub struct Status {
    /// Write it as a page too: one file with charts that needs nothing else
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write it as metrics too, for the textfile collector of `node_exporter`; readable by everybody
    #[arg(long, value_name = "FILE")]
    pub prometheus: Option<PathBuf>,
    /// Do not ask the stores whether they answer
    #[arg(long)]
    pub offline: bool,
}

impl Status {
    /// What is wanted.
    pub fn request(&self) -> StatusRequest {
        let (html, prometheus) = (self.html.clone(), self.prometheus.clone());
        StatusRequest { html, prometheus, offline: self.offline }
    }
}

/// The catalog.
#[derive(Debug, Subcommand)]
pub enum Catalog {
    /// Take in every backup of the stores that the catalog does not know
    Rebuild,
    /// Check the catalog's own integrity
    Check,
}

/// Keys.
#[derive(Debug, Subcommand)]
pub enum Key {
    /// Print a new Fernet key for `BACKUP_ENCRYPTION_KEY`
    New,
    /// Seal every manifest in every store with the first key of `BACKUP_ENCRYPTION_KEY`, and say which keys are still
    /// needed; may be run again
    Rotate,
}

impl Command {
    /// Whether its result is all that it is for, so that there would be no sense in keeping quiet about it.
    pub fn only_answers(&self) -> bool {
        matches!(
            self,
            Self::Alerts(_)
                | Self::List(_)
                | Self::Show(_)
                | Self::Key(Key::New)
                | Self::Completions { .. }
                | Self::Man { .. }
        )
    }

    /// Whether it asks for confirmation.
    pub fn asks(&self) -> bool {
        matches!(self, Self::Restore(restore) if !restore.yes && !restore.dry_run)
    }

    /// The subcommand as it is typed, for the audit and for start and end lines.
    pub fn words(&self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Check => "check",
            Self::Backup(Backup::Cluster { .. }) => "backup cluster",
            Self::Backup(Backup::Config) => "backup config",
            Self::Backup(Backup::Database { .. }) => "backup database",
            Self::Backup(Backup::Tenant { .. }) => "backup tenant",
            Self::Restore(_) => "restore",
            Self::Verify(_) => "verify",
            Self::TestRestore(_) => "test-restore",
            Self::Sync(_) => "sync",
            Self::Cleanup(_) => "cleanup",
            Self::Keep { .. } => "keep",
            Self::Unkeep { .. } => "unkeep",
            Self::WalPush { .. } => "wal-push",
            Self::WalFetch { .. } => "wal-fetch",
            Self::WalPrefetch { .. } => "wal-prefetch",
            Self::Alerts(Alerts { action: None, .. }) => "alerts",
            Self::Alerts(Alerts { action: Some(AlertAction::Ack { .. }), .. }) => "alerts ack",
            Self::Alerts(Alerts { action: Some(AlertAction::Test), .. }) => "alerts test",
            Self::Watch => "watch",
            Self::RunDue => "run-due",
            Self::Jobs(Jobs::Cancel { .. }) => "jobs cancel",
            Self::List(_) => "list",
            Self::Show(_) => "show",
            Self::Status(_) => "status",
            Self::Catalog(Catalog::Rebuild) => "catalog rebuild",
            Self::Catalog(Catalog::Check) => "catalog check",
            Self::Key(Key::New) => "key new",
            Self::Key(Key::Rotate) => "key rotate",
            Self::Completions { .. } => "completions",
            Self::Man { .. } => "man",
        }
    }
}

/// A fault of the model as clap shows it.
fn said(fault: Fault) -> String {
    match fault.hint {
        Some(hint) => format!("{}\nhint: {hint}", fault.message),
        None => fault.message,
    }
}

fn time(text: &str) -> Result<Timestamp, String> {
    parse_timestamp(text).map_err(said)
}

fn size(text: &str) -> Result<u64, String> {
    parse_size(text).ok_or_else(|| "write bytes, or a whole number with K, M, G or T, such as 2G".to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    let found = if text == "0" { Some(Duration::ZERO) } else { parse_duration(text) };
    found.ok_or_else(|| "write a whole number with s, m, h or d, such as 30m; or 0".to_owned())
}

fn store_name(text: &str) -> Result<StoreName, String> {
    text.parse().map_err(|_| "the stores are local, r2 and b2".to_owned())
}

/// The table of exit codes.
pub fn exit_codes() -> String {
    let mut text = String::from("Exit codes:\n    0  done\n");
    for kind in Kind::ALL {
        // Writing into a string cannot fail.
        let _ = writeln!(text, "  {:>3}  {}", kind.exit_code(), kind.meaning());
    }
    text.push_str("\nSettings come from the environment and an env file; the README explains each.");
    text
}
