//! Tenants that share tables: what the catalogs say about the tables, and the SQL that finds one tenant's rows in them.

mod facts;
mod select;

pub use facts::{Tenant, canonical, facts, find_tenants, sizes, tenants, unchecked, uncovered, unlogged};
pub use select::{Selection, owned, references, torn_between};
