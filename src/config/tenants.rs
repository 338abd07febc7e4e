//! `TENANT_*`: whose rows are whose.

use std::collections::BTreeMap;

use super::faults::Faults;
use super::values::{Value, Values};
use crate::model::{TenantRule, TenantRules};

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
