//! Subscriptions of logical replication: what keeps a database from being dropped, and does not come back as it was.

use super::connection::Server;
use super::quote::identifier;
use super::text::text;
use crate::system::Stop;

/// The names of a database's subscriptions, from whatever database the connection is in.
pub async fn names(server: &Server, database: &str) -> anyhow::Result<Vec<String>> {
    let action = format!("look for subscriptions of the database \"{database}\"");
    let sql = "SELECT subname FROM pg_subscription JOIN pg_database ON pg_database.oid = subdbid \
               WHERE datname::text = $1 ORDER BY subname";
    let rows = server.query(&action, sql, &[&database]).await?;
    Ok(rows.iter().map(|row| text(row, 0)).collect())
}

/// The statements that drop a subscription and leave its slot on the publisher alone.
pub fn forgetting(subscription: &str) -> [String; 3] {
    let name = identifier(subscription);
    [
        format!("ALTER SUBSCRIPTION {name} DISABLE"),
        format!("ALTER SUBSCRIPTION {name} SET (slot_name = NONE)"),
        format!("DROP SUBSCRIPTION {name}"),
    ]
}

/// Forgets the subscriptions of a database that is about to be dropped: the server drops none that has some (manual,
/// DROP DATABASE). Their slots on the publishers stay: the database that took this one's place has the same
/// subscriptions and may need them.
pub(super) async fn forget(server: &Server, database: &str, subscriptions: &[String]) -> anyhow::Result<()> {
    let inside = server.beside(database, &Stop::default()).await?;
    for name in subscriptions {
        let action = format!("drop the subscription \"{name}\" of the database \"{database}\"");
        for sql in forgetting(name) {
            inside.run(&action, &sql).await?;
        }
    }
    inside.close().await;
    Ok(())
}
