//! A database's backup: unpacked, loaded, looked at.

use std::path::Path;
use std::sync::Arc;

use super::home::{self, Home};
use super::{Laps, Test, Tested};
use crate::format::manifest::Manifest;
use crate::model::{Fault, Kind};
use crate::system::{Step, step};
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
        let name = &database.properties.name;
        let bytes = home::size_of(self, name, manifest.original_size).await;
        let (home, directory) = self.enter(manifest, (name, bytes), tested, &mut laps).await?;
        let proven =
            context.stop.or(self.prove_database(&home, manifest, &directory, tested, &mut laps)).await;
        self.leave(home, &directory, proven, tested, &mut laps).await
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
