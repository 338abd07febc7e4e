//! One instant of a database that several connections look at together.

use super::connection::Server;

/// A transaction that has exported its snapshot. Others can take it over (`pg_dump --snapshot`, `SET
/// TRANSACTION SNAPSHOT`) as long as this value lives; dropping it closes the connection and ends the transaction.
#[derive(Debug)]
pub struct ExportedSnapshot {
    /// The name of the snapshot, such as `00000003-0000001B-1`.
    pub id: String,
    /// The connection inside the transaction: what is asked through it belongs to the same instant.
    pub server: Server,
}

/// Begins a read-only transaction and exports its snapshot; works on a standby too.
pub async fn export(server: Server) -> anyhow::Result<ExportedSnapshot> {
    const ACTION: &str = "export a snapshot";
    server.run(ACTION, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let row = server.query_one(ACTION, "SELECT pg_export_snapshot()", &[]).await?;
    Ok(ExportedSnapshot { id: row.get(0), server })
}

impl ExportedSnapshot {
    /// Ends the transaction and closes the connection.
    pub async fn close(self) -> anyhow::Result<()> {
        self.server.run("end the snapshot", "COMMIT").await?;
        self.server.close().await;
        Ok(())
    }
}
