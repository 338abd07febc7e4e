//! Typed settings: read once, checked together, then passed down as values.
//!
//! The binary calls [`Settings::load`] at the start of every command that touches a store or a server. Nothing
//! below this module reads the environment. The environment wins over the env file, an empty value counts as
//! not set, all faults are reported in one error, and no secret is ever part of a message.

mod alerts;
mod clouds;
mod documented;
mod duration;
mod env_file;
mod faults;
mod inputs;
mod keys;
mod paths;
mod postgres;
mod private_file;
mod questions;
mod read;
mod retention;
mod size;
mod tenants;
#[cfg(test)]
mod tests;
mod values;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::model::{
    ClusterName, Codec, ConnectionSettings, Fault, Kind, StoreName, Tenancy, TenantRules, TestQuestions,
};
use crate::system::Secret;

pub use alerts::{AlertSettings, Email, Sms, SmtpTls, Webhook};
pub use clouds::Cloud;
pub use documented::{Documented, documented};
pub use duration::parse_duration;
pub use inputs::Inputs;
pub use retention::Retention;
pub use size::parse_size;
pub use values::{Source, Variable};

/// How frames are compressed unless `BACKUP_COMPRESSION` says otherwise: the fastest level that stores no more
/// than gzip level 9 would, by the table in the README.
pub const DEFAULT_COMPRESSION: Codec = Codec::Zstd(5);

/// How WAL is compressed unless `BACKUP_WAL_COMPRESSION` says otherwise: the server waits for it, and it shrinks well.
pub const DEFAULT_WAL_COMPRESSION: Codec = Codec::Zstd(1);

/// The settings of one run, valid each for itself and together.
///
/// Neither a key nor a store has to be set, because not every command needs them: [`Settings::keys`] and
/// [`Settings::require_store`] are for those that do. `Debug` shows no secret.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `BACKUP_CLUSTER`: the first part of every object's key.
    pub cluster: ClusterName,
    /// `BACKUP_STATE_DIR`: catalog and locks. Absolute.
    pub state_dir: PathBuf,
    /// `BACKUP_ENCRYPTION_KEY` or the content of `BACKUP_ENCRYPTION_KEY_FILE`: Fernet keys, the first one
    /// seals, all open. May be empty.
    pub keys: Vec<Secret>,
    /// Why there are none although a file is set.
    pub key_fault: Option<Fault>,
    /// `BACKUP_LOCAL_DIR`: the local store. Absolute.
    pub local_dir: Option<PathBuf>,
    /// `R2_*` and `B2_*`: the stores in a cloud, those that are set.
    pub clouds: Vec<Cloud>,
    /// `BACKUP_READ_ORDER`: every store that is configured, in the order in which they are read.
    pub read_order: Vec<StoreName>,
    /// `BACKUP_RATE_LIMIT` in bytes per second, for each cloud; recovery is not held to it.
    pub rate_limit: Option<u64>,
    /// `BACKUP_MIN_COPIES`: how many stores must hold a backup before it counts. At least 1.
    pub min_copies: usize,
    /// `BACKUP_COMPRESSION`.
    pub compression: Codec,
    /// `BACKUP_WAL_COMPRESSION`.
    pub wal_compression: Codec,
    /// `BACKUP_VOLUME_SIZE` in bytes: a volume is closed when it has reached it.
    pub volume_bytes: u64,
    /// `BACKUP_JOBS`: 1 to 64.
    pub jobs: usize,
    /// `BACKUP_SCRATCH_DIR`: where a dump waits to be packed. Absolute; neither in the local store nor around it.
    pub scratch_dir: PathBuf,
    /// `BACKUP_SCRATCH_LIMIT` in bytes: how much of a dump may wait there.
    pub scratch_limit: u64,
    /// `PGDATA`: where the server's data directory is seen from here, if not where the server says. Absolute.
    pub data_directory: Option<PathBuf>,
    /// `BACKUP_ARCHIVE_TIMEOUT`: how long a cluster backup waits for its WAL to be archived.
    pub archive_timeout: Duration,
    /// `BACKUP_VERIFY_BUDGET` in bytes: what one `verify` reads; `None`: as much as it takes.
    pub verify_budget: Option<u64>,
    /// `BACKUP_PROOF_MAX_AGE`: how old the proof of a copy may become.
    pub proof_max_age: Duration,
    /// `BACKUP_RETENTION_DAYS` and `BACKUP_KEEP_*`.
    pub retention: Retention,
    /// `TENANT_COLUMN`, `TENANT_TABLE` and `TENANT_TABLES`.
    pub tenants: TenantRules,
    /// `TENANT_MODE`, `TENANT_PATTERN` and `TENANT_QUERY`.
    pub tenancy: Tenancy,
    /// `TEST_RESTORE_TABLES` and `TEST_RESTORE_SQL`.
    pub questions: TestQuestions,
    /// `ALERT_*` and the channels' settings.
    pub alerts: AlertSettings,
    /// `RPO_TARGET`: how much of the newest data may be lost at most.
    pub rpo_target: Duration,
    /// `RTO_TARGET`: how long a restore may take at most.
    pub rto_target: Duration,
    /// `PGKEEP_ADMINS`: who may restore and remove, users and `%groups`; empty: everybody who can read the settings.
    pub admins: Vec<String>,
    /// `BACKUP_CONFIG_PATHS`: what is backed up with the server's configuration. Absolute.
    pub config_paths: Vec<PathBuf>,
    /// `BACKUP_PG_BINDIR`: the directory with `pg_dump` and `pg_restore`. Absolute.
    pub pg_bindir: Option<PathBuf>,
    /// `PGHOST` and its like.
    pub postgres: ConnectionSettings,
    /// The home directory of the user, for `~/.pgpass` and the programs that are started.
    pub home: Option<PathBuf>,
    /// `PATH`, where programs are looked for when no directory is set.
    pub search_path: Option<OsString>,
    /// `BACKUP_ENCRYPTION_KEY_FILE`, if that is where the keys are.
    pub key_file: Option<PathBuf>,
    /// The env file that was read, if there was one.
    pub env_file: Option<PathBuf>,
    /// Every setting that was set and where; secrets are `[redacted]`.
    pub variables: Vec<Variable>,
}

impl Settings {
    /// Reads and checks all settings.
    ///
    /// Fails with one fault that names every wrong setting on a line of its own. Its kind is
    /// [`Kind::Key`] when nothing but the key is wrong, else [`Kind::Settings`].
    pub fn load(inputs: &Inputs) -> Result<Self, Fault> {
        read::settings(inputs)
    }

    /// Returns the keys, or the fault that none is set.
    pub fn keys(&self) -> Result<&[Secret], Fault> {
        if let Some(fault) = &self.key_fault {
            return Err(fault.clone());
        }
        if self.keys.is_empty() {
            return Err(Fault::new(Kind::Key, "no encryption key is set").hint(
                "Make one with `pgkeep key new`, set it as BACKUP_ENCRYPTION_KEY, and keep a copy of it \
                 outside of this machine, because without it no backup can ever be read.",
            ));
        }
        Ok(&self.keys)
    }

    /// The stores that are configured, in the order in which they are read.
    pub fn stores(&self) -> &[StoreName] {
        &self.read_order
    }

    /// Fails when no store is configured.
    pub fn require_store(&self) -> Result<(), Fault> {
        if self.stores().is_empty() {
            return Err(Fault::new(Kind::Settings, "no store is configured").hint(
                "Set BACKUP_LOCAL_DIR to a directory for backups, best on another disk, or R2_* or B2_*.",
            ));
        }
        Ok(())
    }
}
