//! Whose the rows of which table are, where tenants share tables: part of `pgkeep check`.

use super::CheckReport;
use crate::config::Settings;
use crate::model::{OwnPlaces, PlaceKind, Tenancy, TenantList};
use crate::plan::tenants as plan;
use crate::postgres::tenants::places;
use crate::postgres::{Server, tenants};

/// Says which tenants have something of their own, and what of it a restore would not take along.
async fn own(server: &Server, of: &OwnPlaces, report: &mut CheckReport) -> anyhow::Result<()> {
    let found = match places::own_places(server, of).await {
        Ok(found) => found,
        Err(why) => {
            report.warn(
                "tenants",
                format!("{why:#}"),
                "Correct TENANT_MODE, TENANT_PATTERN or TENANT_QUERY.",
            );
            return Ok(());
        }
    };
    let kind = of.kind;
    if found.is_empty() {
        let how = match &of.list {
            TenantList::Pattern(pattern) => format!("TENANT_PATTERN {pattern}"),
            TenantList::Query(_) => "TENANT_QUERY".to_owned(),
        };
        report.warn(
            "tenants",
            format!("no {kind} is a tenant's by {how}"),
            "Correct it, or make the first one.",
        );
        return Ok(());
    }
    for place in &found {
        if place.exists {
            report.ok("tenants", format!("{}: {kind} {}", place.id, place.name));
        } else {
            let text = format!("{}: there is no {kind} {}", place.id, place.name);
            report.warn("tenants", text, "TENANT_QUERY names it: correct that, or make it.");
        }
    }
    if kind == PlaceKind::Schema {
        let there = found.iter().filter(|place| place.exists);
        let names: Vec<String> = there.map(|place| place.name.clone()).collect();
        for name in &names {
            let hanging = places::hanging_on(server, name).await?;
            if !hanging.is_empty() {
                let text = format!("something of other schemas hangs on {name}: {}", hanging.join(", "));
                report.warn("tenants", text, "A restore in its place is refused as long as that is so.");
            }
        }
        for said in places::uncovered_in(server, &names).await? {
            report.ok("tenants", format!("not covered: {said}"));
        }
    }
    Ok(())
}

/// Says it of every table of the database that the connection is to; nothing where there are no tenants.
pub(super) async fn check(
    server: &Server,
    settings: &Settings,
    report: &mut CheckReport,
) -> anyhow::Result<()> {
    if let Tenancy::Own(of) = &settings.tenancy {
        return own(server, of, report).await;
    }
    let facts = tenants::facts(server).await?;
    let rules = &settings.tenants;
    let graph = match plan::graph(&facts, rules) {
        Ok(graph) => graph,
        // Most databases have none.
        Err(_) if rules.table.is_none() && rules.tables.is_empty() => return Ok(()),
        Err(why) => {
            report.warn("tenants", why, "Correct TENANT_COLUMN, TENANT_TABLE or TENANT_TABLES.");
            return Ok(());
        }
    };
    for table in &graph.tables {
        report.ok("tenants", format!("{}: {}", table.facts.name, table.belonging));
    }
    let shared: Vec<String> = graph.shared.iter().map(|facts| facts.name.to_string()).collect();
    if !shared.is_empty() {
        report.ok("tenants", format!("shared, never written: {}", shared.join(", ")));
    }
    for undecided in &graph.undecided {
        let text = format!("{}: {}", undecided.table, undecided.why);
        report.warn("tenants", text, "No tenant is backed up or restored until that is decided.");
    }
    for said in tenants::uncovered(server, &graph).await? {
        report.ok("tenants", format!("not covered: {said}"));
    }
    Ok(())
}
