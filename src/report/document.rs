//! What is known of the backups at one moment. Its JSON has a schema, `src/cli/schema/status.json`.

use serde::{Serialize, Serializer};

use crate::model::{BackupId, BackupKind, Lsn, StoreName, Timestamp, WalName, timestamp_text};
use crate::plan::health::Health;

/// Writes a time as every JSON output has it.
fn time<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&timestamp_text(*time))
}

/// The same for one that may be missing.
#[allow(clippy::ref_option)] // serde hands it over so
fn maybe_time<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(timestamp_text).serialize(serializer)
}

/// Everything that is known now.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// The cluster's name.
    pub cluster: String,
    /// When this was found out.
    #[serde(serialize_with = "time")]
    pub at: Timestamp,
    /// The score, and what takes points away.
    pub health: Health,
    /// How much of the newest data would be lost now.
    pub rpo: Rpo,
    /// How long a restore takes.
    pub rto: Rto,
    /// Windows of time within which any point can be reached, by timeline and time.
    pub windows: Vec<WindowLine>,
    /// Cluster backups of which the WAL is not all there.
    pub inconsistent: Vec<BackupId>,
    /// The stores in the order in which they are read.
    pub stores: Vec<StoreStatus>,
    /// The backups.
    pub backups: HeldBackups,
    /// The last ten runs, newest first.
    pub runs: Vec<RunLine>,
    /// The last run of each command.
    pub last_runs: Vec<LastRun>,
    /// Open alerts, the worst and oldest first.
    pub alerts: Vec<AlertLine>,
    /// The next jobs, the next one first.
    pub jobs: Vec<JobLine>,
    /// The files that were written.
    pub written: Vec<String>,
    /// What was before; only where it was asked for.
    #[serde(skip)]
    pub history: Option<History>,
}

/// How much of the newest data would be lost if the server were lost now.
#[derive(Debug, Clone, Serialize)]
pub struct Rpo {
    /// `RPO_TARGET` in seconds.
    pub target_seconds: u64,
    /// How old the newest data is that is safe in enough stores; `None`: there is none.
    pub now_seconds: Option<u64>,
    /// What that is: `wal` or `backup`.
    pub by: Option<&'static str>,
    /// The segment, or the backup.
    pub newest: Option<String>,
    /// When it was safe.
    #[serde(serialize_with = "maybe_time")]
    pub safe_at: Option<Timestamp>,
    /// In how many stores it must be.
    pub copies: usize,
}

/// How long a restore takes, as test restores have measured it.
#[derive(Debug, Clone, Serialize)]
pub struct Rto {
    /// `RTO_TARGET` in seconds.
    pub target_seconds: u64,
    /// The slowest of the newest successful test restores of each kind; `None`: never measured.
    pub measured_seconds: Option<f64>,
    /// The newest test restore of each kind.
    pub tests: Vec<TestRestore>,
}

/// A test restore.
#[derive(Debug, Clone, Serialize)]
pub struct TestRestore {
    /// What was restored.
    pub kind: BackupKind,
    /// The backup.
    pub backup: BackupId,
    /// When it was begun.
    #[serde(serialize_with = "time")]
    pub started_at: Timestamp,
    /// How long it took.
    pub seconds: Option<f64>,
    /// How it ended: `done`, `failed`, ...
    pub state: String,
    /// How long the newest successful one of this kind took, which may be an older one.
    pub measured_seconds: Option<f64>,
}

/// A window of time within which any point can be reached.
#[derive(Debug, Clone, Serialize)]
pub struct WindowLine {
    /// The timeline along which it is reached.
    pub timeline: u32,
    /// The earliest point.
    #[serde(serialize_with = "time")]
    pub from: Timestamp,
    /// About the latest point.
    #[serde(serialize_with = "time")]
    pub until: Timestamp,
    /// The earliest position.
    pub from_lsn: Lsn,
    /// Where the gapless part ends.
    pub until_lsn: Lsn,
    /// Cluster backups in it.
    pub backups: u64,
    /// WAL segments in it.
    pub segments: u64,
    /// The stores that alone have all of its WAL.
    pub whole_in: Vec<StoreName>,
    /// The first segment that is missing behind it although there are later ones.
    pub missing: Option<WalName>,
    /// The next one that is there.
    pub next: Option<WalName>,
}

/// Whether a store answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreAnswer {
    /// It did.
    Reachable,
    /// It did not, or said something else than it should.
    Away,
    /// It was not asked.
    NotAsked,
}

/// A store.
#[derive(Debug, Clone, Serialize)]
pub struct StoreStatus {
    /// Its name.
    pub store: StoreName,
    /// Where it is.
    pub place: String,
    /// Whether it answered.
    pub answer: StoreAnswer,
    /// What is the matter, if it did not.
    pub message: Option<String>,
    /// Bytes of good copies of backups and WAL, as the catalog has it.
    pub bytes: u64,
    /// Their number.
    pub objects: u64,
    /// Those of them that are WAL.
    pub wal_files: u64,
    /// Backups that it has whole.
    pub backups: u64,
    /// Copies that are owed to it.
    pub owed: u64,
    /// Copies that it lost.
    pub missing: u64,
    /// Copies in it that are damaged.
    pub damaged: u64,
    /// When the copy of a backup was proven that was proven least lately.
    #[serde(serialize_with = "maybe_time")]
    pub oldest_proof: Option<Timestamp>,
    /// What fits into it, as far as that is known: of the local store, the size of its file system.
    pub capacity_bytes: Option<u64>,
    /// What still fits.
    pub free_bytes: Option<u64>,
}

/// The backups that there are.
#[derive(Debug, Clone, Serialize)]
pub struct HeldBackups {
    /// Complete ones of each kind.
    pub complete: Vec<BackupCount>,
    /// Those that no store has whole.
    pub lost: u64,
    /// Those that fewer stores have whole than should.
    pub short: u64,
    /// The newest of each kind and database; of tenants the newest of any.
    pub newest: Vec<NewestBackup>,
}

/// How many backups there are of a kind.
#[derive(Debug, Clone, Serialize)]
pub struct BackupCount {
    /// The kind.
    pub kind: BackupKind,
    /// Their number.
    pub count: u64,
}

/// The newest backup of a kind and database.
#[derive(Debug, Clone, Serialize)]
pub struct NewestBackup {
    /// The backup.
    pub id: BackupId,
    /// Its kind.
    pub kind: BackupKind,
    /// The database, where it is of one.
    pub database: Option<String>,
    /// When it was begun.
    #[serde(serialize_with = "time")]
    pub started_at: Timestamp,
    /// How long it took.
    pub seconds: f64,
    /// Bytes of one stored copy.
    pub size_bytes: u64,
    /// The stores that have it whole.
    pub stores: Vec<StoreName>,
}

/// A run of pgkeep.
#[derive(Debug, Clone, Serialize)]
pub struct RunLine {
    /// The command.
    pub command: String,
    /// When it began.
    #[serde(serialize_with = "time")]
    pub started_at: Timestamp,
    /// How long it took.
    pub seconds: Option<f64>,
    /// How it ended: `running`, `done`, `incomplete`, `failed`, `interrupted`, `died`.
    pub outcome: String,
    /// Its exit code.
    pub exit_code: Option<u8>,
    /// Who ran it.
    pub by: String,
    /// The error, or a word on the result.
    pub message: Option<String>,
}

/// The last run of a command that has ended.
#[derive(Debug, Clone, Serialize)]
pub struct LastRun {
    /// The command.
    pub command: String,
    /// When it began.
    #[serde(serialize_with = "time")]
    pub started_at: Timestamp,
    /// How long it took.
    pub seconds: Option<f64>,
    /// How it ended.
    pub outcome: String,
    /// Its exit code; `None` of one that died.
    pub exit_code: Option<u8>,
}

/// An open alert.
#[derive(Debug, Clone, Serialize)]
pub struct AlertLine {
    /// Its number.
    pub id: i64,
    /// What sort of alert.
    pub alert_type: String,
    /// `INFO`, `WARNING` or `CRITICAL`.
    pub severity: String,
    /// What it is about.
    pub subject: String,
    /// What it says.
    pub message: String,
    /// When it was raised.
    #[serde(serialize_with = "time")]
    pub created_at: Timestamp,
    /// How often it was found.
    pub times: u64,
    /// When somebody acknowledged it.
    #[serde(serialize_with = "maybe_time")]
    pub acknowledged_at: Option<Timestamp>,
    /// Who.
    pub acknowledged_by: Option<String>,
}

/// A job that waits.
#[derive(Debug, Clone, Serialize)]
pub struct JobLine {
    /// Its number.
    pub id: i64,
    /// The command.
    pub command: String,
    /// When it is due.
    #[serde(serialize_with = "time")]
    pub scheduled_for: Timestamp,
    /// Its priority, 1 to 9.
    pub priority: u8,
    /// Who wants it.
    pub requested_by: String,
}

/// What was before: the material of charts.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// The first moment that it is about.
    pub since: Timestamp,
    /// Complete backups, oldest first.
    pub backups: Vec<PastBackup>,
    /// Backup runs that failed or died.
    pub failures: Vec<PastFailure>,
    /// WAL by the hour, oldest first; hours without any are left out.
    pub wal: Vec<WalHour>,
    /// What the stores held, day by day.
    pub usage: Vec<UsageDay>,
    /// How many copies were proven how long ago.
    pub proofs: Vec<ProofAge>,
}

/// A backup of the past.
#[derive(Debug, Clone)]
pub struct PastBackup {
    /// The backup.
    pub id: BackupId,
    /// Its kind.
    pub kind: BackupKind,
    /// The database.
    pub database: Option<String>,
    /// The tenant.
    pub tenant: Option<String>,
    /// When it was begun.
    pub at: Timestamp,
    /// How long it took.
    pub seconds: f64,
    /// Bytes of one stored copy.
    pub size_bytes: u64,
    /// Bytes as they were read.
    pub original_size_bytes: u64,
    /// The stores that have it whole.
    pub stores: Vec<StoreName>,
}

/// A backup run that failed or died.
#[derive(Debug, Clone)]
pub struct PastFailure {
    /// When it began.
    pub at: Timestamp,
    /// The command.
    pub command: String,
}

/// An hour of WAL.
#[derive(Debug, Clone, Copy)]
pub struct WalHour {
    /// When the hour begins.
    pub at: Timestamp,
    /// Segments in the store that got the most of them.
    pub files: u64,
    /// Their size as stored.
    pub bytes: u64,
}

/// What a store held on a day.
#[derive(Debug, Clone)]
pub struct UsageDay {
    /// The beginning of the day.
    pub at: Timestamp,
    /// The store.
    pub store: StoreName,
    /// Bytes.
    pub bytes: u64,
}

/// Copies in a store that were proven in the same span of time.
#[derive(Debug, Clone)]
pub struct ProofAge {
    /// The store.
    pub store: StoreName,
    /// Days since the proof, at most; `None`: more than the others, or never.
    pub days: Option<u32>,
    /// How many copies.
    pub copies: u64,
}
