//! Nouns without input or output: identifiers, digests, sizes, times, failures.
//!
//! Everybody may import this module; it imports nothing of the crate. Each type is valid by construction:
//! what could be wrong with the text it came from is said by its `parse`.

mod alert;
mod codec;
mod connection;
mod digest;
mod failure;
mod id;
mod lsn;
mod measure;
mod progress;
mod questions;
mod tenants;
mod time;
mod timeline;
mod wal;
mod words;

pub use alert::{Channel, QuietHours, Severity};
pub use codec::Codec;
pub use connection::{ConnectionSettings, SslMode};
pub use digest::Digest;
pub use failure::{Fault, FaultContext, Kind};
pub use id::{BackupId, BackupKind, ClusterName, RunId, StoreName};
pub use lsn::Lsn;
pub use measure::{Bytes, Elapsed, Thousands, ratio};
pub use progress::{Counter, Progress, Silent, Stage};
pub use questions::{InDatabase, TestQuestions, parse_queries};
pub use tenants::{
    OwnPlaces, PlaceKind, Tenancy, TenantList, TenantPattern, TenantRule, TenantRules, is_made_by_a_restore,
};
pub use time::{Timestamp, parse_timestamp, timestamp_text};
pub use timeline::{Ancestor, TimelineHistory};
pub use wal::{NotAWalName, WalKind, WalName};

pub(crate) use words::words;
