//! Where the files with a server's configuration lie, as the server has them.

use std::path::PathBuf;

use super::connection::Server;
use super::facts;
use crate::model::{Fault, Kind};

/// The files.
#[derive(Debug, Clone)]
pub struct ConfigFiles {
    /// `postgresql.conf`, `pg_hba.conf`, `pg_ident.conf`.
    pub files: Vec<PathBuf>,
    /// The data directory.
    pub data_directory: PathBuf,
}

/// Asks for them.
pub async fn config_files(server: &Server) -> anyhow::Result<ConfigFiles> {
    let sql = "SELECT setting FROM pg_settings WHERE name IN ('config_file', 'hba_file', 'ident_file') \
               AND setting <> '' ORDER BY name";
    let rows = server.query("ask for the server's files", sql, &[]).await?;
    let files: Vec<PathBuf> = rows.iter().map(|row| PathBuf::from(row.get::<_, String>(0))).collect();
    match facts::data_directory(server).await? {
        Some(data_directory) if !files.is_empty() => Ok(ConfigFiles { files, data_directory }),
        _ => Fault::new(Kind::Postgres, "the user may not know where the server's files lie")
            .hint("GRANT pg_read_all_settings TO the role, or use a superuser.")
            .err(),
    }
}

/// Whether the user may read the passwords of roles (their sums, rather).
pub async fn may_read_passwords(server: &Server) -> anyhow::Result<bool> {
    let sql = "SELECT has_table_privilege('pg_catalog.pg_authid', 'SELECT')";
    Ok(server.query_one("ask for the right to read roles", sql, &[]).await?.get(0))
}
