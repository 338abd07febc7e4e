//! `pgkeep restore BACKUP --to-dir DIR` of a configuration: its files, as they were, into a directory of their own. They
//! are put into their places by hand: what of them fits a new machine is for the operator to say.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use chrono::Utc;
use serde::Serialize;

use super::volumes::Volumes;
use super::{Context, Report, judge, manifests};
use crate::catalog::{NewRestore, Purpose, RestoreEnd, RestoreMode, RestoreState};
use crate::format::manifest::Manifest;
use crate::model::{BackupId, BackupKind, Fault, Kind};
use crate::pipeline::{RangeReader, Unpack, unpack};
use crate::target::config::{self as target, ConfigTarget};

/// What to restore, and where to.
#[derive(Debug, Clone)]
pub struct RestoreConfigRequest {
    /// An identifier or the beginning of one.
    pub backup: String,
    /// The directory, which is empty or is made.
    pub to_dir: PathBuf,
    /// Only show what there is.
    pub dry_run: bool,
}

/// A file of a configuration.
#[derive(Debug, Clone, Serialize)]
pub struct ConfigFile {
    /// Below the directory.
    pub name: String,
    /// Permission bits, octal.
    pub mode: String,
    /// Its size.
    pub size_bytes: u64,
}

/// What was restored; with `dry_run` what would be.
#[derive(Debug, Clone, Serialize)]
pub struct RestoreConfigReport {
    /// Whether nothing was done.
    pub dry_run: bool,
    /// The backup.
    pub backup: BackupId,
    /// When it was made.
    pub consistent_at: String,
    /// The directory.
    pub to_dir: String,
    /// What is in it.
    pub files: Vec<ConfigFile>,
    /// Duration in seconds.
    pub seconds: f64,
    /// What is not as it should be.
    pub warnings: Vec<String>,
}

impl Report for RestoreConfigReport {
    fn shortfall(&self) -> Option<Kind> {
        (!self.dry_run && !self.warnings.is_empty()).then_some(Kind::Incomplete)
    }
}

/// Whether the backup that is named is one of a configuration.
pub fn is_meant(context: &Context, backup: &str) -> anyhow::Result<bool> {
    // The newest of whatever kind is never asked for with --to-dir: that is a cluster.
    Ok(backup != "latest"
        && manifests::find(&context.catalog, backup, None, None)?.kind == BackupKind::Config)
}

/// What is in a backup of a configuration.
pub(super) fn files(manifest: &Manifest) -> Vec<ConfigFile> {
    let file = |entry: &crate::format::manifest::Entry| ConfigFile {
        name: entry.name.clone(),
        mode: format!("{:04o}", entry.mode),
        size_bytes: entry.size,
    };
    manifest.entries.iter().map(file).collect()
}

/// Restores, or shows what there is.
pub async fn run(context: &Context, request: &RestoreConfigRequest) -> anyhow::Result<RestoreConfigReport> {
    let clock = Instant::now();
    let row = manifests::find(&context.catalog, &request.backup, None, None)?;
    let keyring = context.keyring()?;
    let fetched = manifests::fetch(&context.settings, context.reading(), &row.id, &keyring).await?;
    let warnings = manifests::mark(context, &row.id, &fetched.bad)?;
    let manifest = Arc::new(fetched.manifest);
    let to_dir = std::path::absolute(&request.to_dir)?;
    let mut report = RestoreConfigReport {
        dry_run: request.dry_run,
        backup: row.id.clone(),
        consistent_at: manifest.consistent_at.clone(),
        to_dir: to_dir.display().to_string(),
        files: files(&manifest),
        seconds: 0.0,
        warnings,
    };
    target::refuse_filled(&to_dir)?;
    if request.dry_run {
        return Ok(report);
    }
    let _turn = context.turn("restore-config", "restore a configuration").await?;
    let entry = context.catalog.restores().begin(&NewRestore {
        run_id: Some(context.run.clone()),
        purpose: Purpose::Restore,
        store: None,
        backup_id: row.id.clone(),
        initiated_by: context.caller.person(),
        tenant_ids: None,
        mode: RestoreMode::Full,
        target_timestamp: None,
        source_database: None,
        target_database: None,
        target_directory: Some(report.to_dir.clone()),
        started_at: Utc::now(),
    })?;
    let result = write(context, &manifest, to_dir).await;
    let end = match &result {
        Ok(bad) => {
            report.warnings.extend(bad.iter().cloned());
            let checks = serde_json::json!({ "files": report.files.len() });
            let message = (!report.warnings.is_empty()).then(|| report.warnings.join("; "));
            RestoreEnd {
                state: RestoreState::Done,
                message,
                rows: None,
                checks: Some(checks),
                at: Utc::now(),
            }
        }
        Err(error) => {
            let verdict = judge(error);
            let state = match verdict.exit_code {
                code if code == Kind::Interrupted.exit_code() => RestoreState::Interrupted,
                code if code == Kind::Refused.exit_code() => RestoreState::Refused,
                _ => RestoreState::Failed,
            };
            RestoreEnd { state, message: Some(verdict.message), rows: None, checks: None, at: Utc::now() }
        }
    };
    if let Err(error) = context.catalog.restores().end(entry, &end) {
        context.progress.note(&format!("warning: write down how the restore ended: {error:#}"));
    }
    result?;
    report.seconds = clock.elapsed().as_secs_f64();
    Ok(report)
}

/// Writes all of it; returns which copies turned out to be bad.
async fn write(context: &Context, manifest: &Arc<Manifest>, to_dir: PathBuf) -> anyhow::Result<Vec<String>> {
    let sink = ConfigTarget::create(to_dir.clone(), Arc::clone(manifest))?;
    let request = Unpack {
        entries: (0..manifest.entries.len()).collect(),
        stage: context.progress.bytes("unpack", manifest.original_size),
        manifest: Arc::clone(manifest),
    };
    let reader = Arc::new(Volumes::in_all_stores(context, &manifest.id)?);
    let volumes = Arc::clone(&reader) as Arc<dyn RangeReader>;
    let unpacked = unpack(request, volumes, sink, context.stop.clone()).await;
    let bad = manifests::mark(context, &manifest.id, &reader.bad())?;
    let done = unpacked.and_then(ConfigTarget::complete_all);
    if done.is_err() {
        target::abandon(&to_dir)?;
    }
    done.map(|()| bad).map_err(|error| match error.downcast_ref::<Fault>() {
        Some(_) => error,
        None => error.context(format!("restore {}", manifest.id)),
    })
}
