//! Whose the rows of which table are, where tenants share tables: part of `pgkeep check`.

use super::CheckReport;
use crate::config::Settings;
use crate::plan::tenants as plan;
use crate::postgres::{Server, tenants};

/// Says it of every table of the database that the connection is to; nothing where there are no tenants.
pub(super) async fn check(
    server: &Server,
    settings: &Settings,
    report: &mut CheckReport,
) -> anyhow::Result<()> {
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
