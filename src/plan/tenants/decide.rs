//! The decision: table by table, first by column, then round by round by what hangs on what is decided.

use std::collections::{BTreeMap, BTreeSet};

use super::{Belonging, Facts, ForeignKey, TableFacts, TableName, TenantGraph, TenantTable, Undecided};
use crate::model::{TenantRule, TenantRules};

/// Decides for every table. An error, a sentence for the operator, when there is no table of tenants to begin with or a
/// setting names what is not there.
pub fn graph(facts: &Facts, rules: &TenantRules) -> Result<TenantGraph, String> {
    let decider = Decider::new(facts, rules)?;
    let (root, root_key) = decider.root()?;
    decider.decide(root, root_key)
}

struct Decider<'a> {
    facts: &'a Facts,
    rules: &'a TenantRules,
    by_name: BTreeMap<&'a TableName, &'a TableFacts>,
    decided: BTreeMap<&'a TableName, &'a TenantRule>,
}

impl<'a> Decider<'a> {
    fn new(facts: &'a Facts, rules: &'a TenantRules) -> Result<Self, String> {
        let by_name = facts.tables.iter().map(|table| (&table.name, table)).collect();
        let mut decider = Self { facts, rules, by_name, decided: BTreeMap::new() };
        for (name, rule) in &rules.tables {
            let table = decider.find(name).ok_or_else(|| {
                format!("TENANT_TABLES names \"{name}\", and there is no table of that name, or several")
            })?;
            decider.decided.insert(&table.name, rule);
        }
        Ok(decider)
    }

    /// The one table of this name, with or without its schema.
    fn find(&self, name: &str) -> Option<&'a TableFacts> {
        let mut found = self.facts.tables.iter().filter(|table| {
            table.name.to_string() == name || (!name.contains('.') && table.name.name == name)
        });
        let first = found.next()?;
        found.next().is_none().then_some(first)
    }

    /// The table of tenants and its key: as set, or the one into which the tenant columns refer.
    fn root(&self) -> Result<(&'a TableFacts, String), String> {
        let column = &self.rules.column;
        if let Some(name) = &self.rules.table {
            let table = self.find(name).ok_or_else(|| {
                format!("TENANT_TABLE is \"{name}\", and there is no table of that name, or several")
            })?;
            let referred = self.facts.foreign_keys.iter().find(|key| {
                key.parent == table.name && key.columns == [column.clone()] && key.child != table.name
            });
            let key = referred.map(|key| key.parent_columns.clone());
            let own = || table.keys.iter().find(|key| **key == [column.clone()]).cloned();
            let key = key.or_else(own).or_else(|| table.keys.first().cloned());
            return match key.as_deref() {
                Some([key]) => Ok((table, key.clone())),
                _ => Err(format!("the table of tenants, {}, has no key of one column", table.name)),
            };
        }
        let mut roots: BTreeSet<(&TableName, &str)> = BTreeSet::new();
        for key in &self.facts.foreign_keys {
            if let ([child], [parent]) = (key.columns.as_slice(), key.parent_columns.as_slice())
                && child == column
            {
                roots.insert((&key.parent, parent));
            }
        }
        let mut roots = roots.into_iter();
        match (roots.next(), roots.next()) {
            (Some((name, key)), None) => match self.by_name.get(name) {
                Some(table) => Ok((table, key.to_owned())),
                None => Err(format!("the table of tenants, {name}, cannot be read")),
            },
            (None, _) => {
                Err(format!("no foreign key of a column {column} says which table holds the tenants"))
            }
            (Some((one, _)), Some((other, _))) => {
                Err(format!("columns {column} refer to more than one table: {one}, {other}"))
            }
        }
    }

    fn decide(&self, root: &'a TableFacts, root_key: String) -> Result<TenantGraph, String> {
        let key_type = root.column(&root_key).map_or_else(String::new, |column| column.base_type.clone());
        if family(&key_type).is_none() {
            return Err(format!(
                "the tenants' key {}.{root_key} is {key_type}; it must be an integer, a uuid or a text",
                root.name
            ));
        }
        let mut undecided: BTreeMap<&TableName, String> = BTreeMap::new();
        let mut belongings: BTreeMap<&TableName, Belonging> = BTreeMap::new();
        // In the order in which they were decided: parents first.
        let mut order: Vec<&TableName> = Vec::new();
        for table in &self.facts.tables {
            let belonging = if table.name == root.name {
                Belonging::Tenant(root_key.clone())
            } else {
                let column = match self.decided.get(&table.name) {
                    None => self.rules.column.as_str(),
                    Some(TenantRule::Column(column)) => column.as_str(),
                    Some(TenantRule::Shared | TenantRule::Via(_)) => continue,
                };
                match table.column(column) {
                    None if self.decided.contains_key(&table.name) => {
                        return Err(format!("TENANT_TABLES: {} has no column {column}", table.name));
                    }
                    None => continue,
                    Some(found) if !alike(&found.base_type, &key_type) => {
                        let why = format!(
                            "its column {column} is {}, the tenants' {root_key} is {key_type}",
                            found.type_name
                        );
                        undecided.insert(&table.name, why);
                        continue;
                    }
                    Some(_) => Belonging::Column(column.to_owned()),
                }
            };
            belongings.insert(&table.name, belonging);
            order.push(&table.name);
        }
        // Round by round, what hangs on what is decided.
        loop {
            let known: BTreeSet<&TableName> = order.iter().copied().collect();
            let mut found: BTreeMap<&TableName, Vec<&ForeignKey>> = BTreeMap::new();
            for key in &self.facts.foreign_keys {
                let wanted = match self.decided.get(&key.child) {
                    None => true,
                    Some(TenantRule::Via(names)) => names.contains(&key.name),
                    Some(TenantRule::Shared | TenantRule::Column(_)) => false,
                };
                let is_new = !known.contains(&key.child) && !undecided.contains_key(&key.child);
                if wanted && is_new && known.contains(&key.parent) && self.by_name.contains_key(&key.child) {
                    found.entry(&key.child).or_default().push(key);
                }
            }
            if found.is_empty() {
                break;
            }
            for (child, keys) in found {
                belongings.insert(
                    child,
                    Belonging::Through { keys: keys.into_iter().cloned().collect(), upward: None },
                );
                order.push(child);
            }
        }
        self.add_longer_ways(&mut belongings, &mut order);
        for name in &order {
            let Some(Belonging::Through { keys, upward }) = belongings.get_mut(name) else { continue };
            if let Err(why) = self.settle(name, keys, upward) {
                undecided.insert(name, why);
            }
        }
        self.refuse_rules_without_effect(&belongings)?;
        let tables = order.iter().filter(|name| !undecided.contains_key(*name)).filter_map(|name| {
            let facts = (*self.by_name.get(name)?).clone();
            Some(TenantTable { facts, belonging: belongings.get(name)?.clone() })
        });
        let tables: Vec<TenantTable> = tables.collect();
        let is_shared = |facts: &&TableFacts| {
            !belongings.contains_key(&facts.name) && !undecided.contains_key(&facts.name)
        };
        let shared = self.facts.tables.iter().filter(is_shared).cloned().collect();
        let undecided =
            undecided.into_iter().map(|(table, why)| Undecided { table: table.clone(), why }).collect();
        Ok(TenantGraph {
            root: root.name.clone(),
            root_key,
            key_type,
            tables,
            shared,
            undecided,
            foreign_keys: self.facts.foreign_keys.clone(),
        })
    }

    /// Adds the foreign keys that lead to tables decided in the same round or later, where that makes no circle, and puts
    /// the tables into an order in which all that a table hangs on comes before it.
    fn add_longer_ways(
        &self,
        belongings: &mut BTreeMap<&'a TableName, Belonging>,
        order: &mut Vec<&'a TableName>,
    ) {
        for name in order.clone() {
            let more = self.facts.foreign_keys.iter().filter(|key| key.child == *name && key.parent != *name);
            for key in more {
                let wanted = match self.decided.get(name) {
                    Some(TenantRule::Via(names)) => names.contains(&key.name),
                    _ => true,
                };
                if !wanted || !belongings.contains_key(&key.parent) || hangs_on(belongings, &key.parent, name)
                {
                    continue;
                }
                if let Some(Belonging::Through { keys, .. }) = belongings.get_mut(name)
                    && !keys.contains(key)
                {
                    keys.push(key.clone());
                }
            }
        }
        let mut sorted: Vec<&TableName> = Vec::with_capacity(order.len());
        while sorted.len() < order.len() {
            let before = sorted.len();
            for name in order.iter() {
                let ready = match belongings.get(name) {
                    Some(Belonging::Through { keys, .. }) => {
                        keys.iter().all(|key| sorted.iter().any(|done| **done == key.parent))
                    }
                    _ => true,
                };
                if ready && !sorted.contains(name) {
                    sorted.push(name);
                }
            }
            if sorted.len() == before {
                break;
            }
        }
        *order = sorted;
    }

    /// Puts the ways of a table into their order, and says why they are not enough.
    fn settle(
        &self,
        name: &TableName,
        keys: &mut [ForeignKey],
        upward: &mut Option<ForeignKey>,
    ) -> Result<(), String> {
        let Some(table) = self.by_name.get(name) else { return Ok(()) };
        let sure = |key: &ForeignKey| {
            key.columns.iter().all(|column| table.column(column).is_some_and(|column| column.not_null))
        };
        // One that always says whose comes first.
        keys.sort_by_key(|key| (!sure(key), key.name.clone()));
        let chosen = match self.decided.get(name) {
            Some(TenantRule::Via(names)) => {
                keys.sort_by_key(|key| names.iter().position(|name| *name == key.name));
                Some(names)
            }
            _ => None,
        };
        if keys.first().is_some_and(sure) {
            return Ok(());
        }
        let mut own = self.facts.foreign_keys.iter().filter(|key| {
            key.child == *name && key.parent == *name && chosen.is_none_or(|names| names.contains(&key.name))
        });
        *upward = own.next().cloned();
        if let (Some(one), Some(other)) = (upward.as_ref(), own.next()) {
            return Err(format!(
                "which of its rows is above another can't be told: {} or {}; name one of them in TENANT_TABLES={name}=via:...",
                one.name, other.name
            ));
        }
        if upward.is_some() || chosen.is_some() {
            return Ok(());
        }
        let ways: Vec<&str> = keys.iter().map(|key| key.name.as_str()).collect();
        Err(format!(
            "its rows belong to a tenant through {}, which may be null: rows with none of them would be nobody's; \
             decide with TENANT_TABLES={name}=via:{}, or {name}=shared",
            ways.join(" or "),
            ways.join("+"),
        ))
    }

    /// A setting that asks for a foreign key which does not lead to a tenant would be passed over without a word.
    fn refuse_rules_without_effect(
        &self,
        belongings: &BTreeMap<&'a TableName, Belonging>,
    ) -> Result<(), String> {
        for (table, rule) in &self.decided {
            let TenantRule::Via(names) = rule else { continue };
            let (keys, upward) = match belongings.get(table) {
                Some(Belonging::Through { keys, upward }) => (keys.as_slice(), upward.as_ref()),
                _ => (&[] as &[ForeignKey], None),
            };
            for name in names {
                if !keys.iter().chain(upward).any(|key| key.name == *name) {
                    return Err(format!(
                        "TENANT_TABLES: the foreign key {name} of {table} is not there, or leads to no tenant"
                    ));
                }
            }
        }
        Ok(())
    }
}

/// Whether rows of `name` belong to somebody through rows of `other`, over however many steps.
fn hangs_on(belongings: &BTreeMap<&TableName, Belonging>, name: &TableName, other: &TableName) -> bool {
    if name == other {
        return true;
    }
    match belongings.get(name) {
        Some(Belonging::Through { keys, .. }) => {
            keys.iter().any(|key| hangs_on(belongings, &key.parent, other))
        }
        _ => false,
    }
}

/// Whether values of the two types are compared as one would expect.
fn alike(one: &str, other: &str) -> bool {
    family(one).is_some_and(|one| family(other) == Some(one))
}

/// The types of which equal values have the same text and only those: what is compared here and what the server compares
/// must be the same.
fn family(name: &str) -> Option<&'static str> {
    match name {
        "smallint" | "integer" | "bigint" => Some("integer"),
        "text" | "character varying" => Some("text"),
        "uuid" => Some("uuid"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::plan::tenants::Column;

    fn table(name: &str, columns: &[&str]) -> TableFacts {
        // `name?` may be null, `name:type` has a type.
        let column = |text: &&str| {
            let not_null = !text.contains('?');
            let text = text.replace('?', "");
            let (name, of) = text.split_once(':').unwrap_or((&text, "integer"));
            Column {
                name: name.to_owned(),
                type_name: of.to_owned(),
                base_type: of.to_owned(),
                not_null,
                generated: false,
                numbered: false,
                fixed: false,
                has_default: false,
            }
        };
        TableFacts {
            name: TableName::new("public", name),
            partitioned: false,
            columns: columns.iter().map(column).collect(),
            keys: vec![vec!["id".to_owned()]],
            bytes: 0,
        }
    }

    fn key(child: &str, column: &str, parent: &str) -> ForeignKey {
        ForeignKey {
            name: format!("{child}_{column}"),
            child: TableName::new("public", child),
            columns: vec![column.to_owned()],
            parent: TableName::new("public", parent),
            parent_columns: vec!["id".to_owned()],
        }
    }

    fn rules(tables: &[(&str, TenantRule)]) -> TenantRules {
        TenantRules {
            column: "tenant_id".to_owned(),
            table: None,
            tables: tables.iter().map(|(name, rule)| ((*name).to_owned(), rule.clone())).collect(),
        }
    }

    fn base() -> Facts {
        Facts {
            tables: vec![table("tenants", &["id"]), table("users", &["id", "tenant_id"])],
            foreign_keys: vec![key("users", "tenant_id", "tenants")],
        }
    }

    fn with(tables: Vec<TableFacts>, keys: Vec<ForeignKey>) -> Facts {
        let mut facts = base();
        facts.tables.extend(tables);
        facts.foreign_keys.extend(keys);
        facts
    }

    /// Tables of tenants in their order, shared ones, undecided ones.
    fn decided(facts: &Facts, rules: &TenantRules) -> (Vec<String>, Vec<String>, Vec<String>) {
        let graph = graph(facts, rules).unwrap();
        (
            graph
                .tables
                .iter()
                .map(|table| format!("{} {}", table.facts.name.name, table.belonging))
                .collect(),
            graph.shared.iter().map(|facts| facts.name.name.clone()).collect(),
            graph.undecided.iter().map(|undecided| undecided.table.name.clone()).collect(),
        )
    }

    #[test]
    fn columns_chains_and_shared_tables() {
        let facts = with(
            vec![
                table("items", &["id", "order_id", "product_id"]),
                table("orders", &["id", "user_id"]),
                table("products", &["id"]),
            ],
            vec![
                key("items", "order_id", "orders"),
                key("items", "product_id", "products"),
                key("orders", "user_id", "users"),
            ],
        );
        let (tables, shared, undecided) = decided(&facts, &rules(&[]));
        let expected = [
            "tenants the tenants, by id",
            "users by column tenant_id",
            "orders through public.users (user_id)",
            "items through public.orders (order_id)",
        ];
        assert_eq!(tables, expected);
        assert_eq!((shared, undecided), (vec!["products".to_owned()], vec![]));
    }

    #[test]
    fn a_way_that_may_be_null_decides_nothing_unless_a_setting_says_so() {
        let tables = vec![table("notes", &["id", "user_id?"])];
        let facts = with(tables, vec![key("notes", "user_id", "users")]);
        assert_eq!(decided(&facts, &rules(&[])).2, ["notes"]);
        let via = TenantRule::Via(vec!["notes_user_id".to_owned()]);
        assert_eq!(decided(&facts, &rules(&[("notes", via)])).0[2], "notes through public.users (user_id)");
        assert_eq!(decided(&facts, &rules(&[("public.notes", TenantRule::Shared)])).1, ["notes"]);
        // A tree gets it from above.
        let mut facts = facts;
        facts.foreign_keys.push(key("notes", "parent", "notes"));
        assert_eq!(
            decided(&facts, &rules(&[])).0[2],
            "notes through public.users (user_id), else as the row above (parent)"
        );
    }

    #[test]
    fn circles_end_and_columns_of_other_types_are_not_compared() {
        let facts = with(
            vec![
                table("chickens", &["id", "user_id", "egg_id?"]),
                table("eggs", &["id", "chicken_id"]),
                table("odd", &["id", "tenant_id:uuid"]),
                table("wide", &["id", "tenant_id:bigint"]),
            ],
            vec![
                key("chickens", "user_id", "users"),
                key("chickens", "egg_id", "eggs"),
                key("eggs", "chicken_id", "chickens"),
            ],
        );
        let (tables, _, undecided) = decided(&facts, &rules(&[]));
        assert!(tables.contains(&"chickens through public.users (user_id)".to_owned()), "{tables:?}");
        assert!(tables.contains(&"eggs through public.chickens (chicken_id)".to_owned()), "{tables:?}");
        assert!(tables.contains(&"wide by column tenant_id".to_owned()), "{tables:?}");
        assert_eq!(undecided, ["odd"]);
    }

    #[test]
    fn settings_that_name_what_is_not_there_are_errors() {
        let shared = [("nothing", TenantRule::Shared)];
        let column = [("users", TenantRule::Column("owner".to_owned()))];
        let via = [("users", TenantRule::Via(vec!["users_nothing".to_owned()]))];
        for wrong in [&shared[..], &column, &via] {
            assert!(graph(&base(), &rules(wrong)).is_err(), "{wrong:?}");
        }
        let nobody = TenantRules { column: "customer".to_owned(), ..rules(&[]) };
        assert!(graph(&base(), &nobody).is_err());
        let two = with(vec![table("other", &["id"])], vec![key("users", "tenant_id", "other")]);
        assert!(graph(&two, &rules(&[])).unwrap_err().contains("more than one table"));
    }
}
