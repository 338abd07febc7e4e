//! pgkeep backs up a multi-tenant PostgreSQL server, proves every backup, and brings back what was lost.
//!
//! The map of the house, from the top down; each module imports only from those below it:
//!
//! - [`cli`]: what the user types and sees.
//! - [`command`]: one file per subcommand, each a short chain.
//! - [`source`] and [`target`]: what is read, and what is written.
//! - [`store`], [`catalog`], [`postgres`], [`pipeline`]: where objects live, the index, the server, bytes in motion.
//! - [`report`]: the dashboard and the metrics.
//! - [`notify`]: telling people.
//! - [`plan`]: pure decisions.
//! - [`config`]: typed settings.
//! - [`mod@format`]: what lies in a store, to the last byte.
//! - [`model`], [`system`]: nouns, and the machine.

pub mod catalog;
pub mod cli;
pub mod command;
pub mod config;
pub mod format;
pub mod model;
pub mod notify;
pub mod pipeline;
pub mod plan;
pub mod postgres;
pub mod report;
pub mod source;
pub mod store;
pub mod system;
pub mod target;
