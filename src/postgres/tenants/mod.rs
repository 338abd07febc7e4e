//! Tenants: what the catalogs say about the tables that they share, and the SQL that finds one tenant's rows in them; and
//! those that have a schema or a database of their own.

mod facts;
mod needed;
pub mod places;
mod select;

pub use facts::{
    Tenant, canonical, deferrable, facts, find_tenants, sizes, tenants, unchecked, uncovered, unlogged,
};
pub use needed::{Needed, needed};
pub use select::{Selection, owned, references, torn_between};
