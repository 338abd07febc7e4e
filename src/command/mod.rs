//! One file per subcommand, each a short chain; and [`Context`], all that a command may touch.

pub mod alerts;
mod archive;
pub mod backup;
pub mod catalog;
pub mod check;
mod context;
pub mod init;
mod instance;
pub mod jobs;
pub mod key;
pub mod list;
mod listing;
mod manifests;
mod outcome;
mod quoting;
pub mod recoverable;
pub mod restore;
pub mod restore_cluster;
pub mod restore_tenant;
pub mod run_due;
mod saved;
mod settle;
pub mod show;
mod staging;
pub mod status;
mod stores;
pub mod sync;
pub mod tenants;
pub mod test_restore;
mod turn;
pub mod verify;
mod volumes;
pub mod wal_fetch;
pub mod wal_push;
pub mod watch;

pub use context::{Context, Environment, Shelf};
pub use outcome::{Report, Verdict, judge};

pub use crate::plan::quote::Quote;
pub use crate::plan::recovery::Target;
pub use crate::system::Stop;
pub use crate::system::secret::leave_no_core_file;
pub use crate::system::stop::Interrupted;
pub use crate::system::tether::tethered;
