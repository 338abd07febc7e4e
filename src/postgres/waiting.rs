//! Saying whom a session waits for, while it waits: a lock that somebody else has can hold up a dump for hours.

use std::fmt;
use std::time::Duration;

use super::connection::Server;
use super::facts::{self, Connection};
use super::text::text;
use crate::model::Progress;
use crate::system::Stop;

/// How long a session may wait before anything is said, and how often one looks.
const PAUSE: Duration = Duration::from_secs(5);

/// A lock that a session waits for, and who is in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// What is locked: `table public.orders`.
    pub object: String,
    /// Those who have the lock or wait for it before us; none when they have just ended.
    pub others: Vec<Connection>,
    /// Whether a prepared transaction (two-phase commit) is among them.
    pub prepared: bool,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut others: Vec<String> = self.others.iter().map(ToString::to_string).collect();
        if self.prepared {
            others.push("a prepared transaction".to_owned());
        }
        write!(f, "waiting for a lock on {}, in the way: {}", self.object, others.join(", "))
    }
}

/// The sessions of one run: pgkeep's own, and those of a program that bears [`Session::application`].
#[derive(Debug, Clone, Copy)]
pub struct Session {
    pid: i32,
}

impl Session {
    /// The session of this connection.
    pub async fn of(server: &Server) -> anyhow::Result<Self> {
        let row = server.query_one("ask for the session's number", "SELECT pg_backend_pid()", &[]).await?;
        Ok(Self { pid: row.get(0) })
    }

    /// What a program is to call itself (`PGAPPNAME`) in order to be known as this session's.
    pub fn application(self) -> String {
        format!("pgkeep for session {}", self.pid)
    }

    /// The locks that the session and its program wait for; `server` is another connection to the same database.
    pub async fn waits(self, server: &Server) -> anyhow::Result<Vec<Wait>> {
        const ACTION: &str = "look who waits for whom";
        let sql = "SELECT CASE WHEN c.oid IS NULL THEN l.locktype \
                               ELSE format('%s %I.%I', CASE c.relkind WHEN 'v' THEN 'view' WHEN 'S' THEN 'sequence' \
                                                       WHEN 'm' THEN 'materialized view' WHEN 'i' THEN 'index' \
                                                       ELSE 'table' END, n.nspname, c.relname) END, \
                          pg_blocking_pids(l.pid) \
                   FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid \
                   LEFT JOIN pg_class c ON c.oid = l.relation \
                        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
                   LEFT JOIN pg_namespace n ON n.oid = c.relnamespace \
                   WHERE NOT l.granted AND (l.pid = $1 OR a.application_name = $2) ORDER BY 1";
        let mut waits = Vec::new();
        for row in server.query(ACTION, sql, &[&self.pid, &self.application()]).await? {
            let pids: Vec<i32> = row.get(1);
            let others = facts::connections_of(server, &pids).await?;
            // A prepared transaction has no process: it counts as 0.
            waits.push(Wait { object: text(&row, 0), others, prepared: pids.contains(&0) });
        }
        Ok(waits)
    }

    /// Notes what the session and its program wait for, each thing once, until `done` or the future is dropped.
    ///
    /// Connects only after some seconds, and what it cannot find out it does not say: it must not hinder the work.
    pub async fn say_waits(
        self,
        server: &Server,
        progress: &dyn Progress,
        stop: &Stop,
        done: impl Fn() -> bool,
    ) {
        let mut other: Option<Server> = None;
        let mut said: Vec<Wait> = Vec::new();
        loop {
            tokio::time::sleep(PAUSE).await;
            if done() {
                return;
            }
            if other.is_none() {
                other = server.another(stop).await.ok();
            }
            let Some(connected) = &other else { continue };
            let Ok(mut waits) = self.waits(connected).await else {
                other = None;
                continue;
            };
            // Those who ended between the two looks are not in the way any more.
            waits.retain(|wait| wait.prepared || !wait.others.is_empty());
            for wait in waits.iter().filter(|wait| !said.contains(wait)) {
                progress.note(&wait.to_string());
            }
            said = waits;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prepared_transaction_in_the_way_is_said_to_be_one() {
        let wait = Wait { object: "table public.orders".to_owned(), others: Vec::new(), prepared: true };
        assert_eq!(
            wait.to_string(),
            "waiting for a lock on table public.orders, in the way: a prepared transaction"
        );
    }
}
