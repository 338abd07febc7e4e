//! `TENANT_*`: whose rows are whose.

use std::collections::BTreeMap;

use super::faults::Faults;
use super::values::{Value, Values};
use crate::model::{OwnPlaces, PlaceKind, Tenancy, TenantList, TenantPattern, TenantRule, TenantRules};

const DEFAULT_COLUMN: &str = "tenant_id";

/// Reads the rules.
pub(super) fn read(values: &Values, faults: &mut Faults) -> TenantRules {
    let text = |name| values.get(name).map(|value| value.text.trim().to_owned());
    let mut tables = BTreeMap::new();
    if let Some(value) = values.get("TENANT_TABLES") {
        for word in value.text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match rule(word) {
                Some((table, rule)) => {
                    if tables.insert(table.clone(), rule).is_some() {
                        faults.add(value.fault(format_args!("names the table {table} twice")));
                    }
                }
                None => faults.add(malformed(value, word)),
            }
        }
    }
    TenantRules {
        column: text("TENANT_COLUMN").unwrap_or_else(|| DEFAULT_COLUMN.to_owned()),
        table: text("TENANT_TABLE"),
        tables,
    }
}

/// Reads how tenants are told apart. What another mode would need and this one has no use for is a fault: it would be passed
/// over in silence.
pub(super) fn tenancy(values: &Values, faults: &mut Faults) -> Tenancy {
    let (pattern, query) = (values.get("TENANT_PATTERN"), values.get("TENANT_QUERY"));
    let mode = values.get("TENANT_MODE");
    let kind = match mode.map(|mode| mode.text.trim().to_lowercase()).as_deref() {
        None | Some("row") => None,
        Some("schema") => Some(PlaceKind::Schema),
        Some("database") => Some(PlaceKind::Database),
        Some(_) => {
            if let Some(mode) = mode {
                let fault = mode.fault(format_args!("\"{}\" is no way to tell tenants apart", *mode.text));
                faults.add(fault.hint("Write row, schema or database."));
            }
            return Tenancy::Row;
        }
    };
    let Some(kind) = kind else {
        for value in [pattern, query].into_iter().flatten() {
            faults.add(
                value
                    .fault("is for tenants with a schema or a database of their own")
                    .hint("Set TENANT_MODE=schema or TENANT_MODE=database, or leave it out."),
            );
        }
        return Tenancy::Row;
    };
    for name in ["TENANT_COLUMN", "TENANT_TABLE", "TENANT_TABLES"] {
        if let Some(value) = values.get(name) {
            faults.add(
                value
                    .fault(format_args!("is for tenants that share tables, and TENANT_MODE is {kind}"))
                    .hint("Leave it out, or set TENANT_MODE=row."),
            );
        }
    }
    let list = match (pattern, query) {
        (Some(value), None) => {
            let Some(pattern) = TenantPattern::parse(value.text.trim()) else {
                faults.add(value.fault(format_args!("\"{}\" has not exactly one star", *value.text)).hint(
                    "Write a name with one star in it, such as tenant_*: the star stands for the tenant.",
                ));
                return Tenancy::Row;
            };
            TenantList::Pattern(pattern)
        }
        (None, Some(value)) => {
            TenantList::Query(value.text.trim().trim_end_matches(';').trim_end().to_owned())
        }
        (Some(_), Some(value)) => {
            faults.add(
                value
                    .fault("says which tenants there are, and so does TENANT_PATTERN")
                    .hint("Set one of them."),
            );
            return Tenancy::Row;
        }
        (None, None) => {
            if let Some(mode) = mode {
                let fault = mode.fault(format_args!("nothing says which {kind}s are tenants'"));
                faults.add(fault.hint(
                    "Set TENANT_PATTERN to a name with a star in it, or TENANT_QUERY to a query for them.",
                ));
            }
            return Tenancy::Row;
        }
    };
    Tenancy::Own(OwnPlaces { kind, list })
}

fn malformed(value: &Value, word: &str) -> crate::model::Fault {
    value
        .fault(format_args!("\"{word}\" is no decision about a table"))
        .hint("Write TABLE=shared, TABLE=column:NAME or TABLE=via:FOREIGN_KEY+FOREIGN_KEY.")
}

fn rule(word: &str) -> Option<(String, TenantRule)> {
    let (table, rule) = word.split_once('=')?;
    let name = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let rule = match rule.split_once(':') {
        None if rule == "shared" => TenantRule::Shared,
        Some(("column", column)) => TenantRule::Column(name(column)?),
        Some(("via", keys)) => TenantRule::Via(keys.split('+').map(name).collect::<Option<_>>()?),
        _ => return None,
    };
    Some((name(table)?, rule))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions_are_read_and_anything_else_is_none() {
        let via = TenantRule::Via(vec!["a_fkey".to_owned(), "b_fkey".to_owned()]);
        assert_eq!(rule("notes=via:a_fkey+b_fkey"), Some(("notes".to_owned(), via)));
        assert_eq!(rule("app.plans=shared"), Some(("app.plans".to_owned(), TenantRule::Shared)));
        let column = TenantRule::Column("customer".to_owned());
        assert_eq!(rule("audit=column:customer"), Some(("audit".to_owned(), column)));
        for word in
            ["notes", "notes=", "=shared", "notes=via:", "notes=via:a++b", "notes=column:", "notes=skip"]
        {
            assert_eq!(rule(word), None, "{word}");
        }
    }
}
