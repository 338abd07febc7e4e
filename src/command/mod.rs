//! One file per subcommand, each a short chain; and [`Context`], all that a command may touch.

mod access;
mod archive;
pub mod backup;
pub mod catalog;
pub mod check;
pub mod choices;
pub mod cleanup;
mod context;
pub mod init;
mod instance;
pub mod keep;
pub mod key;
pub mod key_rotate;
pub mod list;
mod listing;
mod manifests;
mod outcome;
mod quoting;
pub mod recoverable;
pub mod restore;
pub mod restore_cluster;
pub mod restore_config;
pub mod restore_tenant;
mod saved;
mod settle;
pub mod show;
mod staging;
pub mod status;
mod stores;
pub mod sync;
pub mod tenants;
pub mod test_restore;
pub mod verify;
mod volumes;
pub mod wal_fetch;
pub mod wal_push;

pub use context::{Context, Environment, Shelf};
pub use outcome::{Report, Verdict, judge};

pub use crate::plan::quote::Quote;
pub use crate::plan::recovery::Target;
pub use crate::system::Stop;
pub use crate::system::secret::leave_no_core_file;
pub use crate::system::stop::Interrupted;
pub use crate::system::tether::tethered;
