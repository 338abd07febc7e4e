//! Fills the data directory, writes the recovery's settings, and starts the server if that is wanted.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use chrono::Utc;

use super::plan::Restore;
use super::{RestoreClusterReport, RestoreClusterRequest, TimelineWish, start};
use crate::command::restore::Phase;
use crate::command::volumes::Volumes;
use crate::command::{Context, manifests};
use crate::config::Settings;
use crate::model::Elapsed;
use crate::pipeline::{RangeReader, Unpack, unpack};
use crate::plan::recovery::Target;
use crate::postgres::recovery_settings::RecoverySettings;
use crate::system::{Step, step};
use crate::target::cluster::ClusterTarget;

impl Restore {
    /// All of it. After an error no server can start on the directory.
    pub(in crate::command) async fn carry_out(
        &self,
        context: &Context,
        request: &RestoreClusterRequest,
    ) -> anyhow::Result<RestoreClusterReport> {
        let clock = Instant::now();
        let mut report = RestoreClusterReport { dry_run: false, ..self.report() };
        step::reached(Step::RestoreBegun)?;
        context.stop.check()?;
        let mut lap = Instant::now();
        let mut phase = |report: &mut RestoreClusterReport, name: &'static str| {
            context.progress.detail(&format!("{name}: {}", Elapsed(lap.elapsed())));
            report.phases.push(Phase { name, seconds: lap.elapsed().as_secs_f64() });
            lap = Instant::now();
        };
        let target = self.fill(context, &mut report).await?;
        phase(&mut report, "unpack");
        let settings = self.settings(context, request, &mut report)?;
        let signal = if request.standby { "standby.signal" } else { "recovery.signal" };
        // Flushing is not broken off: what follows is short, and then the directory is whole.
        context.stop.check()?;
        let finish = move || target.finish(&settings, Some(signal));
        let warnings = tokio::task::spawn_blocking(finish).await.context("flush the data directory")??;
        report.warnings.extend(warnings);
        phase(&mut report, "flush");
        if request.start {
            report.reached = Some(start::follow(context, request, self).await?);
            phase(&mut report, "replay");
        }
        report.seconds = clock.elapsed().as_secs_f64();
        Ok(report)
    }

    async fn fill(
        &self,
        context: &Context,
        report: &mut RestoreClusterReport,
    ) -> anyhow::Result<ClusterTarget> {
        let sink = ClusterTarget::begin(self.places.clone(), Arc::clone(&self.manifest))?;
        let request = Unpack {
            entries: (0..self.manifest.entries.len()).collect(),
            stage: context.progress.bytes("restore", self.manifest.original_size),
            manifest: Arc::clone(&self.manifest),
        };
        let id = &self.manifest.id;
        let reader = Arc::new(Volumes::in_all_stores(context, id)?);
        let volumes = Arc::clone(&reader) as Arc<dyn RangeReader>;
        let unpacked = unpack(request, volumes, sink, context.stop.clone()).await;
        // Marked also when no copy was good enough in the end.
        report.warnings.extend(manifests::mark(context, id, &reader.bad())?);
        let away = context.reading().away().into_iter();
        report.warnings.extend(
            away.map(|(store, why)| format!("store {store} could not be read, the next one was: {why}")),
        );
        unpacked
    }

    /// The lines for `postgresql.auto.conf`.
    fn settings(
        &self,
        context: &Context,
        request: &RestoreClusterRequest,
        report: &mut RestoreClusterReport,
    ) -> anyhow::Result<String> {
        let mut restore_command = restore_command(&context.settings)?;
        // Of several stores this run reads one: so does what it starts.
        if let [store] = context.settings.stores()
            && context.replicas.each().count() > 1
        {
            restore_command.extend(["--store".to_owned(), store.to_string()]);
        }
        if self.target != Target::End && !request.standby {
            restore_command.push("--bounded".to_owned());
        }
        if request.contained.is_some() {
            let from = self.manifest.physical.as_ref().map(|cluster| cluster.start_lsn).unwrap_or_default();
            restore_command.extend(["--contained".to_owned(), from.to_string()]);
        }
        if context.settings.env_file.is_none() {
            report.warnings.push(
                "the settings are in the environment alone: the server must be started with the same variables, or \
                 restore_command finds none"
                    .to_owned(),
            );
        }
        let target = match &self.target {
            Target::Consistent => Some(("recovery_target", "immediate".to_owned())),
            Target::End => None,
            Target::Time(time) => Some(("recovery_target_time", time.format("%F %T%.6f+00").to_string())),
            Target::Lsn(lsn) => Some(("recovery_target_lsn", lsn.to_string())),
            Target::Transaction(id) => Some(("recovery_target_xid", id.clone())),
            Target::Name(name) => Some(("recovery_target_name", name.clone())),
        };
        let timeline = match request.timeline {
            TimelineWish::Latest => "latest".to_owned(),
            TimelineWish::Current => "current".to_owned(),
            TimelineWish::Number(number) => number.to_string(),
        };
        let settings = RecoverySettings {
            restore_command: &restore_command,
            target: target.filter(|_| !request.standby),
            timeline,
            action: request.action.as_str(),
            archives: request.keep_archiving,
        };
        Ok(settings.text(self.manifest.id.as_str(), Utc::now()))
    }
}

/// This program with this env file, wherever the server is started from.
fn restore_command(settings: &Settings) -> anyhow::Result<Vec<String>> {
    let program = std::env::current_exe().context("find out where pgkeep is")?;
    let mut words = vec![program.display().to_string()];
    if let Some(file) = &settings.env_file {
        let file = file.canonicalize().with_context(|| format!("find {}", file.display()))?;
        words.extend(["--env-file".to_owned(), file.display().to_string()]);
    }
    words.push("wal-fetch".to_owned());
    Ok(words)
}
