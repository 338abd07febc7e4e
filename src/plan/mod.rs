//! Pure decisions: from facts to a plan that can be shown, tested and carried out. Nothing here reads or writes.

pub mod conditions;
pub mod copies;
pub mod data_directory;
pub mod gaps;
pub mod health;
pub mod includes;
pub mod ledger;
pub mod proof;
pub mod proofs;
pub mod quote;
pub mod recovery;
pub mod retention;
pub mod stretches;
pub mod tenants;
pub mod turns;
