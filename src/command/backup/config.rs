//! `pgkeep backup config`: the server's files of settings, its roles and tablespaces, and what the operator names.

use super::{BackupReport, Contents, Source};
use crate::command::Context;
use crate::model::{BackupKind, Stage};
use crate::pipeline::Framer;
use crate::source::config::{ConfigPlan, ConfigSource};

/// Makes the backup.
pub async fn run(context: &Context) -> anyhow::Result<BackupReport> {
    super::run(context, BackupKind::Config, |_| open(context)).await
}

async fn open(context: &Context) -> anyhow::Result<ConfigSource> {
    let settings = &context.settings;
    let plan = ConfigPlan {
        connection: settings.postgres.clone(),
        data_directory: settings.data_directory.clone(),
        extra: settings.config_paths.clone(),
        scratch: context.scratch()?,
        bindir: settings.pg_bindir.clone(),
    };
    ConfigSource::open(plan, &context.stop).await
}

impl Source for ConfigSource {
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
        let consistent_at = self.consistent_at;
        let contents = Self::read(self, framer, stage, &context.stop).await?;
        Ok(Contents {
            entries: contents.entries.into_iter().map(|entry| (entry, None)).collect(),
            consistent_at,
            tool_version: contents.tool_version,
            postgres_version_num: contents.postgres_version_num,
            warnings: contents.warnings,
            database: None,
            tenant: None,
            cluster: None,
        })
    }
}
