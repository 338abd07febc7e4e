//! A database that is there for a while beside those in use.

use std::time::Duration;

use super::Context;
use crate::model::ConnectionSettings;
use crate::postgres::{Server, facts};
use crate::system::Stop;
use crate::target::database as target;

/// How long a statement that was broken off may take to end.
const BREAKING_OFF: Duration = Duration::from_mins(1);

/// Removes it if it is there, also after its making was broken off on `server`, and writes down that it is gone; the next
/// run tries again if this fails. `avoid`: databases to which nobody may be connected.
pub(super) async fn remove(
    context: &Context,
    server: &Server,
    connection: &ConnectionSettings,
    avoid: &[&str],
    staging: &str,
    entry: i64,
) -> anyhow::Result<()> {
    // What was broken off here goes on in the server: a CREATE DATABASE would be done after nobody found the database. The
    // answer to the next statement comes when that one has ended, well or not.
    let ended = async {
        let _ = server.cancel().await;
        let _ = server.run("wait for what was broken off", "SELECT 1").await;
    };
    let _ = tokio::time::timeout(BREAKING_OFF, ended).await;
    let server = target::connect_beside(connection, avoid, &Stop::default()).await?;
    if facts::database_exists(&server, staging).await? {
        facts::drop_database(&server, staging, true).await?;
    }
    server.close().await;
    context.catalog.restores().clear_staging(entry)
}
