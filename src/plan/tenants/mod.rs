//! Which rows of a database are one tenant's, where tenants share tables: decided from the tables and foreign keys alone.
//!
//! A table's rows are a tenant's because a column of theirs says so, or because they hang on rows that are, by a foreign
//! key or over several. A table for which neither holds is shared. Where the catalogs can't tell, nothing is guessed: the
//! table is undecided, and nothing is backed up or restored until a setting decides.

mod decide;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use decide::graph;

/// A table's name with its schema, not quoted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableName {
    /// The schema.
    pub schema: String,
    /// The table.
    pub name: String,
}

impl TableName {
    /// Puts a name together.
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        Self { schema: schema.into(), name: name.into() }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{}", self.schema, self.name))
    }
}

/// A column as the catalogs describe it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "what the catalogs say of a column")]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type as SQL, such as `numeric(12,2)`.
    #[serde(rename = "type")]
    pub type_name: String,
    /// The type below, where it is a domain.
    pub base_type: String,
    /// Whether it may not be null.
    pub not_null: bool,
    /// Whether it is computed from others, so that nobody writes it.
    pub generated: bool,
    /// Whether it gets its values from a sequence (identity, or a default of `nextval`).
    pub numbered: bool,
    /// Whether its values are the database's alone (`GENERATED ALWAYS AS IDENTITY`): a row may come with one, and keeps it.
    #[serde(default, skip_serializing)]
    pub fixed: bool,
    /// Whether a row that does not say gets something else than null.
    pub has_default: bool,
}

/// A table with rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableFacts {
    /// Its name.
    pub name: TableName,
    /// Whether its rows lie in partitions.
    pub partitioned: bool,
    /// Its columns, in their order.
    pub columns: Vec<Column>,
    /// Its keys without null, the primary one first: the columns of each.
    pub keys: Vec<Vec<String>>,
    /// About how many bytes it takes.
    pub bytes: u64,
}

impl TableFacts {
    /// The column of this name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }
}

/// A foreign key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ForeignKey {
    /// The constraint's name.
    pub name: String,
    /// Whose rows refer.
    pub child: TableName,
    /// By these columns.
    pub columns: Vec<String>,
    /// To rows of this table.
    pub parent: TableName,
    /// By these of its columns, of the same number.
    pub parent_columns: Vec<String>,
}

/// All that the decision rests on.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The tables, partitions left out.
    pub tables: Vec<TableFacts>,
    /// Their foreign keys.
    pub foreign_keys: Vec<ForeignKey>,
}

/// Why rows of a table are a tenant's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Belonging {
    /// It is the table of tenants, and this is its key.
    Tenant(String),
    /// This column says so.
    Column(String),
    /// They hang on rows that are.
    Through {
        /// By these foreign keys: the first whose row is a tenant's counts.
        keys: Vec<ForeignKey>,
        /// And rows without any of these are whose the row is that this key, into the same table, leads to.
        upward: Option<ForeignKey>,
    },
}

impl fmt::Display for Belonging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tenant(key) => write!(f, "the tenants, by {key}"),
            Self::Column(column) => write!(f, "by column {column}"),
            Self::Through { keys, upward } => {
                let ways = keys.iter().map(|key| format!("{} ({})", key.parent, key.columns.join(", ")));
                write!(f, "through {}", ways.collect::<Vec<_>>().join(" or "))?;
                match upward {
                    Some(key) => write!(f, ", else as the row above ({})", key.columns.join(", ")),
                    None => Ok(()),
                }
            }
        }
    }
}

/// A table with rows of tenants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantTable {
    /// The table.
    pub facts: TableFacts,
    /// Why rows are a tenant's.
    pub belonging: Belonging,
}

/// A table for which the catalogs don't say enough.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Undecided {
    /// The table.
    pub table: TableName,
    /// Why it can't be decided, and what would.
    pub why: String,
}

/// What is whose in a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantGraph {
    /// The table of tenants.
    pub root: TableName,
    /// Its key.
    pub root_key: String,
    /// The type of that.
    pub key_type: String,
    /// Tables with rows of tenants; each comes behind those through which its rows belong to somebody.
    pub tables: Vec<TenantTable>,
    /// Tables of nobody's.
    pub shared: Vec<TableFacts>,
    /// Tables that a setting has to decide.
    pub undecided: Vec<Undecided>,
    /// All foreign keys between the tables.
    pub foreign_keys: Vec<ForeignKey>,
}

impl TenantGraph {
    /// The table with rows of tenants of this name.
    pub fn table(&self, name: &TableName) -> Option<&TenantTable> {
        self.tables.iter().find(|table| table.facts.name == *name)
    }

    /// The shared table of this name.
    pub fn shared(&self, name: &TableName) -> Option<&TableFacts> {
        self.shared.iter().find(|facts| facts.name == *name)
    }

    /// Foreign keys from rows of tenants into shared tables.
    pub fn into_shared(&self) -> impl Iterator<Item = &ForeignKey> {
        self.foreign_keys
            .iter()
            .filter(|key| self.table(&key.child).is_some() && self.shared(&key.parent).is_some())
    }
}
