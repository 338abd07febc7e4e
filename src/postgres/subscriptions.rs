//! Subscriptions of logical replication: what keeps a database from being dropped.

use super::connection::Server;
use super::quote::identifier;
use super::text::text;
use crate::system::Stop;

/// Forgets the subscriptions of a database that is about to be dropped: the server drops none that has some (manual,
/// DROP DATABASE). Their slots on the publishers stay: the database that took this one's place has the same
/// subscriptions, and goes on with the same slots.
pub(super) async fn forget(server: &Server, database: &str) -> anyhow::Result<()> {
    let action = format!("look for subscriptions of the database \"{database}\"");
    let sql = "SELECT subname FROM pg_subscription JOIN pg_database ON pg_database.oid = subdbid \
               WHERE datname::text = $1 ORDER BY subname";
    let rows = server.query(&action, sql, &[&database]).await?;
    if rows.is_empty() {
        return Ok(());
    }
    let inside = server.beside(database, &Stop::default()).await?;
    for row in &rows {
        let name = text(row, 0);
        let action = format!("drop the subscription \"{name}\" of the database \"{database}\"");
        let name = identifier(&name);
        for sql in [
            format!("ALTER SUBSCRIPTION {name} DISABLE"),
            format!("ALTER SUBSCRIPTION {name} SET (slot_name = NONE)"),
            format!("DROP SUBSCRIPTION {name}"),
        ] {
            inside.run(&action, &sql).await?;
        }
    }
    inside.close().await;
    Ok(())
}
