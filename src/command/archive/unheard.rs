//! Stores that could not be asked which WAL they have, since this catalog was made or another host may have written to
//! them: until they answer, what is in no other store may be there, and nobody can call it a hole.
//!
//! Each of them is an open alert. So it is kept in the catalog, and somebody looks after the store.

use std::collections::BTreeMap;

use chrono::Utc;

use crate::catalog::{Catalog, CopyState};
use crate::command::Context;
use crate::config::Settings;
use crate::model::{RunId, Severity, StoreName, WalName};
use crate::plan::conditions::{Condition, UNHEARD};

/// Those of the settings.
pub(in crate::command) fn stores(settings: &Settings, catalog: &Catalog) -> anyhow::Result<Vec<StoreName>> {
    let mut found = open(catalog)?;
    found.retain(|store, _| settings.stores().contains(store));
    Ok(found.into_keys().collect())
}

fn open(catalog: &Catalog) -> anyhow::Result<BTreeMap<StoreName, String>> {
    let alerts = catalog.alerts().open()?.into_iter().filter(|alert| alert.alert_type == UNHEARD);
    Ok(alerts.filter_map(|alert| Some((alert.subject.parse().ok()?, alert.message))).collect())
}

/// Which of these stores may have the segment as far as the catalog knows: of those that once said what they have of it,
/// more is known.
pub(in crate::command) fn that_may_have(
    catalog: &Catalog,
    stores: &[StoreName],
    segment: &WalName,
) -> anyhow::Result<Vec<StoreName>> {
    if stores.is_empty() {
        return Ok(Vec::new());
    }
    let rows = catalog.wal().of(segment)?;
    // What is owed, nobody has asked about.
    let has_said =
        |store: &StoreName| rows.iter().any(|it| it.store == *store && it.state != CopyState::Owed);
    Ok(stores.iter().copied().filter(|store| !has_said(store)).collect())
}

/// Writes down that stores could not be asked, each with why, and that others have answered now.
pub(in crate::command) fn note(
    context: &Context,
    heard: &[StoreName],
    silent: &[(StoreName, String)],
) -> anyhow::Result<()> {
    let before = open(&context.catalog)?;
    let mut now = before.clone();
    for (store, why) in silent {
        now.entry(*store).or_insert_with(|| {
            format!("store {store} could not be asked which WAL it has: where the other stores have a gap, it may have none: {why}")
        });
    }
    now.retain(|store, _| !heard.contains(store) && context.settings.stores().contains(store));
    if now == before {
        return Ok(());
    }
    let condition = |(store, message): (StoreName, String)| Condition {
        kind: UNHEARD,
        subject: store.to_string(),
        severity: Severity::Warning,
        message,
    };
    let conditions: Vec<Condition> = now.into_iter().map(condition).collect();
    let run = Some(RunId::as_str(&context.run));
    context.catalog.alerts().hold(&conditions, &[UNHEARD], run, Utc::now())?;
    Ok(())
}
