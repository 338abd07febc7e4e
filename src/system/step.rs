//! The steps after which a run may be cut off, by name, so that tests can cut it off there.
//!
//! Every step that writes something lasting calls [`reached`]. In builds for tests (debug assertions on) the
//! variable `PGKEEP_TEST_STOP` = `<step>:<kill|term|int|fail>` makes the process send itself that signal, or
//! fail, at that step. Release builds hold none of this.

/// The steps of all commands, in the order in which they happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Every command: the run has its lock, but no row.
    RunLocked,
    /// `init`: the state directory is there, the catalog is not.
    InitStateDirectory,
    /// `init`: the catalog is there, the identity is in no store.
    InitCatalog,
    /// `backup`: the run has its row, nothing else has happened.
    BackupBegun,
    /// `backup`: the snapshot is exported, `pg_dump` has not started.
    BackupSnapshot,
    /// `backup`: `pg_dump` is running.
    BackupDumping,
    /// `backup cluster`: the server is in backup mode, nothing is read.
    ClusterModeBegun,
    /// `backup cluster`: all files are read, the server is still in backup mode.
    ClusterFilesRead,
    /// `backup cluster`: the WAL that it needs is archived, there is no manifest.
    ClusterArchived,
    /// `backup config`: roles and tablespaces are in the scratch directory, no file is read.
    ConfigGlobals,
    /// `backup`: frames are being written into an unfinished volume.
    BackupFrames,
    /// `backup`: a volume is closed and flushed, but not under its name.
    BackupVolumeClosed,
    /// `backup`: a volume is under its name.
    BackupVolumeStored,
    /// `backup`: all volumes are made, clouds are still being sent to, there is no manifest.
    BackupVolumesStored,
    /// `backup`: the local store has the manifest, clouds are still being sent to.
    BackupManifestPlaced,
    /// `backup`: every store has the manifest or has failed, the catalog does not know.
    BackupManifestStored,
    /// `backup`: the catalog knows, the scratch directory is still there.
    BackupRecorded,
    /// `restore`: the log has its row, nothing else has happened.
    RestoreBegun,
    /// `restore`: the files are unpacked, the server knows nothing.
    RestoreUnpacked,
    /// `restore`: the staging database exists, empty.
    RestoreCreated,
    /// `restore`: `pg_restore` is running.
    RestoreLoading,
    /// `restore`: the staging database is filled.
    RestoreLoaded,
    /// `restore`: the staging database is checked and has its properties.
    RestoreChecked,
    /// `restore`: both renames are done in a transaction that is not committed.
    RestoreSwapPrepared,
    /// `restore`: the databases are swapped, the log does not know.
    RestoreSwapped,
    /// `restore --drop-old`: the replaced database is dropped, the log does not know.
    RestoreOldDropped,
    /// `restore`: the log knows, the scratch directory is still there.
    RestoreRecorded,
    /// `restore --to-dir`: the directory is marked, no server can start on it, nothing is removed yet.
    DirectoryBegun,
    /// `restore --to-dir`: everything is there but the control file, not flushed.
    DirectoryFilled,
    /// `restore --to-dir`: the control file is in its place, the marker is still there.
    DirectoryWhole,
    /// `restore --to-dir` of a configuration: all files are there, the directory has not its name yet.
    ConfigFilled,
    /// `restore --tenant`: what goes is removed, in a transaction that is not committed.
    TenantRemoved,
    /// `restore --tenant`: everything is written and checked, not committed.
    TenantWritten,
    /// `restore --tenant`: committed, the log does not know.
    TenantCommitted,
    /// `verify`: every store is listed and that is written down, nothing is read.
    VerifyListed,
    /// `restore --tenant`, of a schema: the log has its row, nothing else has happened.
    SchemaBegun,
    /// `restore --tenant`, of a schema: the files are unpacked, the server knows nothing.
    SchemaUnpacked,
    /// `restore --tenant`, of a schema: it is made, checked and in its place, in a transaction that is not committed.
    SchemaLoaded,
    /// `restore --tenant`, of a schema: committed, the log does not know.
    SchemaCommitted,
    /// `restore --tenant --drop-old`, of a schema: the replaced one is dropped, the log does not know.
    SchemaOldDropped,
    /// `test-restore`: the log has its row, nothing else has happened.
    TestRestoreBegun,
    /// `test-restore`: the backup is unpacked, nothing is brought to life.
    TestRestoreUnpacked,
    /// `test-restore`: the database is filled, or the cluster replayed.
    TestRestoreLoaded,
    /// `test-restore`: everything is looked at, nothing is dropped.
    TestRestoreChecked,
    /// `test-restore`: it is dropped and written down, the scratch directory is still there.
    TestRestoreRecorded,
    /// `verify`: some copies are read, their proofs are not written down.
    VerifyRead,
    /// `verify`: all proofs are written down, nothing is repaired.
    VerifyProven,
    /// `verify --repair`: copies are replaced and that is written down, it was not said.
    RepairMade,
    /// `sync`: copies are made, the catalog does not know.
    SyncCopied,
    /// `keep`, `unkeep`: the catalog knows, no store does.
    KeepWritten,
    /// `cleanup`: it is decided what goes, and nothing is written down.
    CleanupPlanned,
    /// `cleanup`: what goes is marked in the catalog, and all of it is still there.
    CleanupMarked,
    /// `cleanup`: a store has no manifest any more of what goes, its volumes are still there.
    CleanupManifestsGone,
    /// `cleanup`: a store has no objects any more of the backups that go, the catalog does not know.
    CleanupObjectsGone,
    /// `cleanup`: a store does not have WAL files any more, the catalog does not know.
    CleanupWalGone,
    /// `cleanup`: no store that could be reached has anything of it, the backups' rows do not say so.
    CleanupCleared,
    /// `key rotate`: the first manifest is about to be sealed anew.
    KeyBegun,
    /// `key rotate`: a store has a manifest under the new key, the catalog does not know.
    KeySealed,
    /// `key rotate`: the catalog knows of one that is sealed anew, others are waiting.
    KeyRecorded,
    /// `wal-push`: the file is sealed and flushed, no store has it.
    WalSealed,
    /// `wal-push`: the local store has it or has failed, the clouds have not been asked.
    WalStoredHere,
    /// `wal-push`: enough stores have it, those that are waiting have not been looked at.
    WalPushed,
    /// `wal-push`: those archived ahead are written down, the catalog does not know.
    WalAcknowledged,
    /// `wal-fetch`: the file is whole beside its place, and not under its name.
    WalFetched,
    /// Every command: the run has ended, and a plain copy of the catalog waits to be sealed and saved.
    RunSaving,
    /// Every command: alerts are written down, and nobody has been told.
    AlertsSending,
    /// Every command: a message has arrived, and the catalog does not know.
    AlertsSent,
    /// `run-due`: a job is taken, and its run has not begun.
    JobTaken,
    /// `run-due`: a job's run has ended, and the job does not know.
    JobEnded,
    /// `catalog rebuild`: a new catalog is filled, and not in its place.
    RebuildFilled,
    /// `status`: the page is written, and not under its name.
    StatusPage,
    /// `status`: the page is under its name, the metrics are written and not under theirs.
    StatusMetrics,
}

impl Step {
    /// Every step.
    pub const ALL: &[Self] = &[
        Self::RunLocked,
        Self::InitStateDirectory,
        Self::InitCatalog,
        Self::BackupBegun,
        Self::BackupSnapshot,
        Self::BackupDumping,
        Self::ClusterModeBegun,
        Self::ClusterFilesRead,
        Self::ClusterArchived,
        Self::ConfigGlobals,
        Self::BackupFrames,
        Self::BackupVolumeClosed,
        Self::BackupVolumeStored,
        Self::BackupVolumesStored,
        Self::BackupManifestPlaced,
        Self::BackupManifestStored,
        Self::BackupRecorded,
        Self::RestoreBegun,
        Self::RestoreUnpacked,
        Self::RestoreCreated,
        Self::RestoreLoading,
        Self::RestoreLoaded,
        Self::RestoreChecked,
        Self::RestoreSwapPrepared,
        Self::RestoreSwapped,
        Self::RestoreOldDropped,
        Self::RestoreRecorded,
        Self::DirectoryBegun,
        Self::DirectoryFilled,
        Self::DirectoryWhole,
        Self::ConfigFilled,
        Self::TenantRemoved,
        Self::TenantWritten,
        Self::TenantCommitted,
        Self::VerifyListed,
        Self::SchemaBegun,
        Self::SchemaUnpacked,
        Self::SchemaLoaded,
        Self::SchemaCommitted,
        Self::SchemaOldDropped,
        Self::TestRestoreBegun,
        Self::TestRestoreUnpacked,
        Self::TestRestoreLoaded,
        Self::TestRestoreChecked,
        Self::TestRestoreRecorded,
        Self::VerifyRead,
        Self::VerifyProven,
        Self::RepairMade,
        Self::SyncCopied,
        Self::KeepWritten,
        Self::CleanupPlanned,
        Self::CleanupMarked,
        Self::CleanupManifestsGone,
        Self::CleanupObjectsGone,
        Self::CleanupWalGone,
        Self::CleanupCleared,
        Self::KeyBegun,
        Self::KeySealed,
        Self::KeyRecorded,
        Self::WalSealed,
        Self::WalStoredHere,
        Self::WalPushed,
        Self::WalAcknowledged,
        Self::WalFetched,
        Self::RunSaving,
        Self::AlertsSending,
        Self::AlertsSent,
        Self::JobTaken,
        Self::JobEnded,
        Self::RebuildFilled,
        Self::StatusPage,
        Self::StatusMetrics,
    ];
}

/// Marks that a step is reached; in builds for tests, the place where a run can be made to end.
#[cfg(debug_assertions)]
pub fn reached(step: Step) -> anyhow::Result<()> {
    use rustix::process::{Signal, getpid, kill_process};
    let Ok(wanted) = std::env::var("PGKEEP_TEST_STOP") else { return Ok(()) };
    let Some((name, how)) = wanted.split_once(':') else { return Ok(()) };
    if name != format!("{step:?}") {
        return Ok(());
    }
    let signal = match how {
        "kill" => Signal::KILL,
        "term" => Signal::TERM,
        "int" => Signal::INT,
        _ => anyhow::bail!("made to fail at step {step:?}"),
    };
    kill_process(getpid(), signal)?;
    // A signal that is handled ends the run a moment later: give the handler that moment, once.
    std::thread::sleep(std::time::Duration::from_millis(200));
    Ok(())
}

/// Marks that a step is reached.
#[cfg(not(debug_assertions))]
#[inline]
pub fn reached(_: Step) -> anyhow::Result<()> {
    Ok(())
}
