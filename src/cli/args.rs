//! The command line; the doc comments are the help.

use std::fmt::Write;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::model::{Kind, StoreName};

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
    /// Restore a database beside the one in use, check it, and swap it in by renaming
    Restore(Restore),
    /// Compare what is stored with what should be
    Verify(Verify),
    /// Make the copies that a store missed, lost or damaged
    Sync(Sync),
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
    },
    /// Gets segments beforehand; started by `wal-fetch`
    #[command(hide = true)]
    WalPrefetch {
        /// The first segment
        first: String,
        /// The size of segments in bytes
        segment_size: u32,
    },
    /// List the backups
    List(List),
    /// Show everything about one backup
    Show(Show),
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
    Man,
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
    /// One database: `pg_dump` under one snapshot, compressed, encrypted, stored
    Database {
        /// The database [default: PGDATABASE]
        name: Option<String>,
        /// How many tables to read at the same time [default: `BACKUP_JOBS`]
        #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..=64))]
        jobs: Option<u16>,
    },
}

/// Restoring.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub struct Restore {
    /// The backup: `latest`, an identifier, or the beginning of one
    pub backup: String,
    /// What becomes of the data that is there
    #[arg(long, value_enum, default_value_t = Mode::Full)]
    pub mode: Mode,
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
}

/// What becomes of the data that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// It is replaced as a whole
    Full,
}

/// Verifying.
#[derive(Debug, Args)]
pub struct Verify {
    /// One backup [default: all]
    pub backup: Option<String>,
    /// Read everything: SHA-256 of what is stored, decrypt, SHA-256 of what was read
    #[arg(long)]
    pub deep: bool,
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

/// Listing.
#[derive(Debug, Args)]
pub struct List {
    /// Only backups of this database
    #[arg(long, value_name = "NAME")]
    pub database: Option<String>,
}

/// Showing.
#[derive(Debug, Args)]
pub struct Show {
    /// The backup: `latest`, an identifier, or the beginning of one
    pub backup: String,
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
}

impl Command {
    /// Whether its result is all that it is for, so that there would be no sense in keeping quiet about it.
    pub fn only_answers(&self) -> bool {
        matches!(self, Self::List(_) | Self::Show(_) | Self::Key(_) | Self::Completions { .. } | Self::Man)
    }

    /// The subcommand as it is typed, for the audit and for start and end lines.
    pub fn words(&self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Check => "check",
            Self::Backup(Backup::Cluster { .. }) => "backup cluster",
            Self::Backup(Backup::Database { .. }) => "backup database",
            Self::Restore(_) => "restore",
            Self::Verify(_) => "verify",
            Self::Sync(_) => "sync",
            Self::WalPush { .. } => "wal-push",
            Self::WalFetch { .. } => "wal-fetch",
            Self::WalPrefetch { .. } => "wal-prefetch",
            Self::List(_) => "list",
            Self::Show(_) => "show",
            Self::Catalog(Catalog::Rebuild) => "catalog rebuild",
            Self::Catalog(Catalog::Check) => "catalog check",
            Self::Key(Key::New) => "key new",
            Self::Completions { .. } => "completions",
            Self::Man => "man",
        }
    }
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
