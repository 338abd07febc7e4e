//! A database's backup: unpacked, loaded, looked at.

use std::path::Path;
use std::sync::Arc;

use super::home::{self, Home};
use super::{Laps, Test, Tested};
use crate::format::manifest::Manifest;
use crate::model::{Fault, Kind};
use crate::postgres::swap;
use crate::system::{Step, durable, step};
use crate::target::database as target;

impl Test<'_> {
    pub(super) async fn database(&self, tested: &mut Tested) -> anyhow::Result<()> {
        let context = self.context;
        let laps = Laps::begin(context);
        let manifest = context.stop.or(self.manifest(tested)).await?;
        self.database_of(&manifest, tested, laps).await
    }

    /// The same for whatever is a dump of a database.
    pub(super) async fn database_of(
        &self,
        manifest: &Arc<Manifest>,
        tested: &mut Tested,
        mut laps: Laps<'_>,
    ) -> anyhow::Result<()> {
        let context = self.context;
        let Some(database) = &manifest.database else {
            return Fault::new(Kind::Damaged, format!("{} is no backup of a database", manifest.id)).err();
        };
        home::refuse_full(&context.settings.scratch_dir, manifest.original_size)?;
        let directory = context.stop.or(self.unpack(manifest, tested)).await?;
        laps.lap(tested, "fetch");
        let name = &database.properties.name;
        let staging = swap::derived_name(name, &format!("_test_{}", context.run));
        let bytes = home::size_of(self, name, manifest.original_size).await;
        let major = manifest.postgres_version_num / 10_000;
        let home = Home::open(self, staging, major, bytes, tested, &mut laps).await?;
        let proven =
            context.stop.or(self.prove_database(&home, manifest, &directory, tested, &mut laps)).await;
        let closed = home.close(self).await;
        laps.lap(tested, "drop");
        durable::remove_dir_if_there(&directory)?;
        proven?;
        closed
    }

    async fn prove_database(
        &self,
        home: &Home,
        manifest: &Arc<Manifest>,
        directory: &Path,
        tested: &mut Tested,
        laps: &mut Laps<'_>,
    ) -> anyhow::Result<()> {
        let Some(database) = &manifest.database else { return Ok(()) };
        home.create(self, database).await?;
        let stage = self.context.progress.bytes("load", manifest.original_size);
        target::load(&home.server, directory, &home.staging, &home.load, &self.context.stop).await?;
        drop(stage);
        step::reached(Step::TestRestoreLoaded)?;
        laps.lap(tested, "load");
        self.check_database(home, manifest, tested).await?;
        step::reached(Step::TestRestoreChecked)?;
        laps.lap(tested, "check");
        Ok(())
    }
}
