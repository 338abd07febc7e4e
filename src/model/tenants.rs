//! What the settings say about tenants.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// What a setting decides about a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TenantRule {
    /// Nobody's: never written by a restore.
    Shared,
    /// This column says whose.
    Column(String),
    /// These foreign keys say whose; the first that is not null counts.
    Via(Vec<String>),
}

/// What the settings say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantRules {
    /// The column that says whose a row is, in every table that has it.
    pub column: String,
    /// The table of tenants, with or without its schema; without one it is found.
    pub table: Option<String>,
    /// Decisions for single tables, by name with or without schema.
    pub tables: BTreeMap<String, TenantRule>,
}

/// How tenants are told apart: `TENANT_MODE`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Tenancy {
    /// They share tables; a column says whose a row is.
    #[default]
    Row,
    /// Each has a schema or a database of its own.
    Own(OwnPlaces),
}

/// What a tenant has for itself alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PlaceKind {
    /// A schema of one database.
    Schema,
    /// A database.
    Database,
}

impl PlaceKind {
    /// The word for it, as in `TENANT_MODE`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Schema => "schema",
            Self::Database => "database",
        }
    }
}

impl fmt::Display for PlaceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Tenants with schemas or databases of their own, and how these are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnPlaces {
    /// Which of the two.
    pub kind: PlaceKind,
    /// How they are found.
    pub list: TenantList,
}

/// How the tenants that have something of their own are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TenantList {
    /// `TENANT_PATTERN`: by the names.
    Pattern(TenantPattern),
    /// `TENANT_QUERY`: one column, the name, which is the tenant's key too; or two, the key and the name.
    Query(String),
}

/// Names such as `tenant_*`; what stands for the star is the tenant's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantPattern {
    before: String,
    after: String,
}

impl TenantPattern {
    /// Reads a pattern: exactly one star, which stands for one character or more.
    pub fn parse(text: &str) -> Option<Self> {
        let (before, after) = text.split_once('*')?;
        (!after.contains('*')).then(|| Self { before: before.to_owned(), after: after.to_owned() })
    }

    /// The tenant of this name; `None` if the name is no tenant's.
    pub fn id_of<'a>(&self, name: &'a str) -> Option<&'a str> {
        let id = name.strip_prefix(self.before.as_str())?.strip_suffix(self.after.as_str())?;
        (!id.is_empty()).then_some(id)
    }

    /// The name of this tenant.
    pub fn name_of(&self, id: &str) -> String {
        format!("{}{id}{}", self.before, self.after)
    }
}

impl fmt::Display for TenantPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}*{}", self.before, self.after)
    }
}

/// Whether the name is one that a restore gives: of what it has replaced, or of what it has not finished. Such a thing is
/// no tenant, whatever the pattern says.
pub fn is_made_by_a_restore(name: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_time = |text: &str| {
        // 20261128T140200Z, or that and _2.
        let (time, number) = text.split_once('_').unwrap_or((text, "0"));
        let parts = time.strip_suffix('Z').and_then(|time| time.split_once('T'));
        parts.is_some_and(|(day, time)| day.len() == 8 && time.len() == 6 && digits(day) && digits(time))
            && digits(number)
    };
    let is_run = |text: &str| text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let after = |word: &str| name.rfind(word).map(|at| &name[at + word.len()..]);
    after("_old_").is_some_and(is_time)
        || ["_restore_", "_tenants_", "_aside_", "_test_"].iter().any(|word| after(word).is_some_and(is_run))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_for_the_star_is_the_key() {
        let pattern = TenantPattern::parse("t_*_data").expect("a pattern");
        assert_eq!(pattern.id_of("t_17_data"), Some("17"));
        for other in ["t__data", "t_data", "x_17_data", "t_17_datas", "t_17"] {
            assert_eq!(pattern.id_of(other), None, "{other}");
        }
        assert_eq!(pattern.name_of("a \"b\""), "t_a \"b\"_data");
        assert_eq!(pattern.to_string(), "t_*_data");
        assert_eq!(TenantPattern::parse("tenant"), None);
        assert_eq!(TenantPattern::parse("*_*"), None);
    }

    #[test]
    fn what_a_restore_has_made_is_known_by_its_name() {
        for name in ["t_1_old_20261128T140200Z", "t_1_old_20261128T140200Z_2", "t_1_restore_0a1b2c3d"] {
            assert!(is_made_by_a_restore(name), "{name}");
        }
        for name in ["t_1", "t_old_1", "t_old_20261128", "t_restore_point", "t_old_20261128T140200Zx"] {
            assert!(!is_made_by_a_restore(name), "{name}");
        }
    }
}
