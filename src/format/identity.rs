//! The object `identity`: which server's backups these are.

use serde::{Deserialize, Serialize};

use crate::model::{ClusterName, Fault, Kind};

/// The content of `<cluster>/identity`, JSON, not secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Version of the format.
    pub format: u16,
    /// The cluster's name.
    pub cluster: ClusterName,
    /// PostgreSQL's system identifier (`pg_control_system()`): no two clusters share one, copies do.
    pub system_identifier: u64,
    /// When it was written, RFC 3339.
    pub created_at: String,
}

impl Identity {
    /// The bytes to store.
    pub fn to_bytes(&self) -> anyhow::Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Reads what was stored.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Fault> {
        let identity: Self = serde_json::from_slice(bytes)
            .map_err(|error| Fault::new(Kind::Damaged, format!("read the cluster's identity: {error}")))?;
        if identity.format > super::VERSION {
            return Err(Fault::new(
                Kind::NotInitialised,
                format!("the store was made by a newer pgkeep (format {})", identity.format),
            )
            .hint("Use that version, or a newer one."));
        }
        Ok(identity)
    }
}
