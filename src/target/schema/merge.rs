//! Rows of a schema of then that are missing in that of now: the dump's schema is made beside, its rows are laid beside
//! those of now, and what is missing is added. Then it is dropped again, all in the one transaction.
//!
//! While it is done in earnest nobody else writes the schema's tables, and nobody deletes rows of others that are referred to:
//! foreign keys are suspended in this session, so what others would delete between the check and the commit would be missed.
//! Who reads is not held up.

use super::{Dump, Replacing};
use crate::model::Stage;
use crate::postgres::quote::identifier;
use crate::postgres::tenants::{self, places};
use crate::system::Stop;
use crate::target::rows::{self, Merged};

impl Replacing<'_> {
    /// Adds what is missing; with `take`, rows that differ become those of the dump. Only `in_earnest` sequences are told of
    /// the numbers that came: that would stay when the rest is undone.
    pub async fn merge(
        &self,
        dump: &Dump,
        (take, in_earnest): (bool, bool),
        stage: &Stage,
        stop: &Stop,
    ) -> anyhow::Result<Merged> {
        let (server, plan) = (self.server, self.plan);
        // Rows come without their keys and indexes: those of now say what is the same row.
        let in_the_way = places::schema_oid(server, &plan.dumped_as).await?.is_some();
        if in_the_way {
            self.rename(&plan.dumped_as, &plan.aside).await?;
        }
        self.statements(dump, "pre-data", stop).await?;
        self.rows(dump, stage).await?;
        self.check().await?;
        self.rename(&plan.dumped_as, &plan.beside).await?;
        if in_the_way {
            self.rename(&plan.aside, &plan.dumped_as).await?;
        }
        let ours = |schema: &str| schema == plan.becomes;
        let facts = if in_earnest {
            rows::lock(server, |table| ours(&table.schema)).await?
        } else {
            tenants::facts(server).await?
        };
        // Those of which rows of the schema are a part, on either side.
        let keys = rows::foreign_keys(server, |child, parent| ours(&child.schema) || ours(&parent.schema));
        let keys = keys.await?;
        let before = rows::orphans(server, &keys).await?;
        rows::suspend(server).await?;
        let mut merged = Merged::default();
        for then in facts.tables.iter().filter(|table| table.name.schema == plan.beside) {
            let now = facts
                .tables
                .iter()
                .find(|table| ours(&table.name.schema) && table.name.name == then.name.name);
            let name = format!("{}.{}", plan.becomes, then.name.name);
            merged.tables.push(rows::table(server, (then, &rows::relation(then)), now, &name, take).await?);
            if let Some(now) = now.filter(|_| in_earnest) {
                rows::count_on(server, now).await?;
            }
        }
        rows::name_deferrable(server, &mut merged).await?;
        if in_earnest {
            // Rows of the schema itself are safe already.
            for key in keys.iter().filter(|key| !ours(&key.parent.schema)) {
                key.hold(server).await?;
            }
        }
        let after = rows::orphans(server, &keys).await?;
        merged.foreign_keys = after.len() as u64;
        rows::refuse_orphans(&keys, &before, &after)?;
        let action = format!("drop the schema \"{}\"", plan.beside);
        server.run(&action, &format!("DROP SCHEMA {} CASCADE", identifier(&plan.beside))).await?;
        Ok(merged)
    }
}
