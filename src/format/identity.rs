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
        let damaged = |error: serde_json::Error| {
            Fault::new(Kind::Damaged, format!("read the cluster's identity: {error}"))
        };
        // The version first, alone: a newer identity need not have the fields of this one.
        let FormatOnly { format } = serde_json::from_slice(bytes).map_err(damaged)?;
        if format > super::VERSION {
            return Err(Fault::new(
                Kind::NotInitialised,
                format!("the store was made by a newer pgkeep (format {format})"),
            )
            .hint("Use that version, or a newer one."));
        }
        serde_json::from_slice(bytes).map_err(damaged)
    }
}

#[derive(Deserialize)]
struct FormatOnly {
    format: u16,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_newer_identity_is_refused_by_name_whatever_else_is_in_it() {
        let fault = Identity::from_bytes(br#"{"format": 2, "name": "main"}"#).unwrap_err();
        assert_eq!(fault.kind, Kind::NotInitialised);
        assert_eq!(fault.message, "the store was made by a newer pgkeep (format 2)");
        assert_eq!(Identity::from_bytes(br#"{"format": 1}"#).unwrap_err().kind, Kind::Damaged);
    }

    #[test]
    fn an_unknown_field_is_ignored() {
        let text = r#"{"format": 1, "cluster": "main", "system_identifier": 18446744073709551615,
            "created_at": "2026-11-22T02:00:00.000Z", "later": {"a": 1}}"#;
        assert_eq!(Identity::from_bytes(text.as_bytes()).unwrap().system_identifier, u64::MAX);
    }
}
