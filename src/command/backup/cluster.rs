//! `pgkeep backup cluster`: the data directory and all tablespaces, between the beginning and the end of the server's
//! backup mode; the base of point-in-time recovery.

use chrono::Utc;

use super::{BackupReport, Contents, Source};
use crate::catalog::Severity;
use crate::command::Context;
use crate::format::cluster::DamagedPages;
use crate::model::{BackupId, BackupKind, Stage};
use crate::pipeline::Framer;
use crate::source::cluster::{ClusterPlan, ClusterSource};

/// How many pages a message names.
const NAMED: usize = 5;

/// How to back up.
#[derive(Debug, Clone)]
pub struct BackupCluster {
    /// How many files are read at the same time; without it that of the settings.
    pub jobs: Option<usize>,
    /// Let the server make its checkpoint at once.
    pub fast: bool,
}

/// Makes the backup.
pub async fn run(context: &Context, request: &BackupCluster) -> anyhow::Result<BackupReport> {
    let mut report = super::run(context, BackupKind::Cluster, |id| open(context, request, id)).await?;
    if !report.damaged_pages.is_empty() {
        let message = format!("{}: {}", report.id, damage(&report.damaged_pages));
        context.catalog.alerts().raise("damaged-pages", Severity::Critical, &message, Utc::now())?;
        report.warnings.push(message);
    }
    Ok(report)
}

fn damage(files: &[DamagedPages]) -> String {
    let pages: usize = files.iter().map(|file| file.blocks.len()).sum();
    let each =
        files.iter().flat_map(|file| file.blocks.iter().map(|block| format!("{} page {block}", file.file)));
    let mut named: Vec<String> = each.take(NAMED).collect();
    if pages > NAMED {
        named.push(format!("{} more", pages - NAMED));
    }
    format!("{pages} pages of the server have a wrong checksum: {}", named.join(", "))
}

async fn open(context: &Context, request: &BackupCluster, id: BackupId) -> anyhow::Result<ClusterSource> {
    let settings = &context.settings;
    let plan = ClusterPlan {
        connection: settings.postgres.clone(),
        data_directory: settings.data_directory.clone(),
        jobs: request.jobs.unwrap_or(settings.jobs),
        fast: request.fast,
        label: format!("pgkeep {id}"),
    };
    ClusterSource::open(plan, &*context.progress, &context.stop).await
}

impl Source for ClusterSource {
    fn system_identifier(&self) -> u64 {
        self.system_identifier
    }

    fn details(&self) -> String {
        Self::details(self)
    }

    fn estimate(&self) -> u64 {
        Self::estimate(self)
    }

    async fn read(self, framer: Framer, stage: Stage, context: &Context) -> anyhow::Result<Contents> {
        let contents = Self::read(self, framer, stage, &context.stop).await?;
        Ok(Contents {
            entries: contents.entries.into_iter().map(|entry| (entry, None)).collect(),
            consistent_at: contents.consistent_at,
            // No program of others reads the files.
            tool_version: format!("pgkeep {}", env!("CARGO_PKG_VERSION")),
            postgres_version_num: contents.postgres_version_num,
            warnings: contents.warnings,
            database: None,
            tenant: None,
            cluster: Some((contents.cluster, contents.server)),
        })
    }
}
