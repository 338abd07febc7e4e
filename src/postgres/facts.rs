//! What the server holds: asked, never changed (save that [`terminate`] ends connections and [`drop_database`]
//! drops a database).

use std::fmt;
use std::path::PathBuf;

use tokio_postgres::Row;

use super::connection::Server;
use super::quote::{identifier, qualified};
use super::subscriptions;
use super::text::{ServerText, text, text_or_null};
use crate::format::manifest::{RawName, Table};
use crate::model::{Fault, FaultContext, Kind, Timestamp};

/// What kind of server this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFacts {
    /// The version as the server writes it: `15.18 (Debian 15.18-0+deb12u1)`.
    pub version: String,
    /// Whether it computes checksums of its pages.
    pub data_checksums: bool,
    /// Whether it is a standby, or recovering.
    pub in_recovery: bool,
}

/// Asks what kind of server this is.
pub async fn server(server: &Server) -> anyhow::Result<ServerFacts> {
    let sql = "SELECT current_setting('server_version'), current_setting('data_checksums') = 'on', \
               pg_is_in_recovery()";
    let row = server.query_one("ask the server about itself", sql, &[]).await?;
    Ok(ServerFacts { version: row.get(0), data_checksums: row.get(1), in_recovery: row.get(2) })
}

/// The number that no two clusters share (copies of one do): `pg_control_system()`.
pub async fn system_identifier(server: &Server) -> anyhow::Result<u64> {
    let sql = "SELECT system_identifier::text FROM pg_control_system()";
    let asked = server.query_one("read the cluster's system identifier", sql, &[]).await;
    let row = asked.or_fault(|| {
        Fault::new(Kind::Postgres, "could not find out which cluster this is").hint(
            "Let the user run it: GRANT EXECUTE ON FUNCTION pg_control_system() TO the role; in a managed \
             service that has no such function, pgkeep cannot tell the cluster from its copies.",
        )
    })?;
    // A bigint there, but the number has 64 bits without a sign.
    let text: String = row.get(0);
    text.parse::<i64>()
        .map(i64::cast_unsigned)
        .or_else(|_| text.parse())
        .or_fault(|| Fault::new(Kind::Postgres, format!("read the system identifier \"{text}\"")))
}

/// Where the server's data lies on its machine; `None` where the user may not know (`pg_read_all_settings`).
pub async fn data_directory(server: &Server) -> anyhow::Result<Option<PathBuf>> {
    // Not SHOW, which is an error for those who may not see it.
    let sql = "SELECT setting FROM pg_settings WHERE name = 'data_directory'";
    let rows = server.query("ask for the data directory", sql, &[]).await?;
    let setting = rows.first().and_then(|row| row.get::<_, Option<String>>(0));
    Ok(setting.filter(|path| !path.is_empty()).map(PathBuf::from))
}

/// What the user that is logged in may do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // Five rights, each asked for alone.
pub struct Rights {
    /// The role's name.
    pub user: String,
    /// Everything.
    pub superuser: bool,
    /// Make databases, and so restore.
    pub create_databases: bool,
    /// Read every table (role `pg_read_all_data`, 14 and newer).
    pub read_all_data: bool,
    /// Read tables with row security whole.
    pub bypass_row_security: bool,
    /// End other users' connections (role `pg_signal_backend`).
    pub signal_backends: bool,
}

/// Asks what the user may do.
pub async fn rights(server: &Server) -> anyhow::Result<Rights> {
    let sql = "SELECT rolname::text, rolsuper, rolcreatedb, \
                      EXISTS (SELECT FROM pg_roles g WHERE g.rolname = 'pg_read_all_data' \
                              AND pg_has_role(u.oid, g.oid, 'USAGE')), \
                      rolbypassrls, \
                      EXISTS (SELECT FROM pg_roles g WHERE g.rolname = 'pg_signal_backend' \
                              AND pg_has_role(u.oid, g.oid, 'USAGE')) \
               FROM pg_roles u WHERE rolname = current_user";
    let row = server.query_one("ask for the user's rights", sql, &[]).await?;
    Ok(Rights {
        user: text(&row, 0),
        superuser: row.get(1),
        create_databases: row.get(2),
        read_all_data: row.get(3),
        bypass_row_security: row.get(4),
        signal_backends: row.get(5),
    })
}

/// One database of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseFacts {
    /// Its name.
    pub name: String,
    /// The role that owns it.
    pub owner: String,
    /// Its size on disk; `None` where the user may not ask.
    pub bytes: Option<u64>,
    /// Whether it is a template.
    pub is_template: bool,
    /// Whether one can connect to it.
    pub allow_connections: bool,
    /// Whether its removal was interrupted, so that it can only be dropped.
    pub is_invalid: bool,
}

/// All databases by name, templates too.
pub async fn databases(server: &Server) -> anyhow::Result<Vec<DatabaseFacts>> {
    // pg_database_size fails where CONNECT is missing, unless the user may read all statistics.
    let sql = "SELECT d.datname::text, coalesce(r.rolname::text, d.datdba::text), \
                      CASE WHEN has_database_privilege(d.oid, 'CONNECT') \
                             OR pg_has_role('pg_read_all_stats', 'USAGE') \
                           THEN pg_database_size(d.oid) END, \
                      d.datistemplate, d.datallowconn, d.datconnlimit = -2 \
               FROM pg_database d LEFT JOIN pg_roles r ON r.oid = d.datdba ORDER BY d.datname";
    let rows = server.query("list the databases", sql, &[]).await?;
    let read = |row: &Row| DatabaseFacts {
        name: text(row, 0),
        owner: text(row, 1),
        bytes: row.get::<_, Option<i64>>(2).and_then(|bytes| u64::try_from(bytes).ok()),
        is_template: row.get(3),
        allow_connections: row.get(4),
        is_invalid: row.get(5),
    };
    Ok(rows.iter().map(read).collect())
}

/// How many bytes the database of this name takes on disk; `None` where there is none, or the user may not ask.
pub async fn database_size(server: &Server, name: &str) -> anyhow::Result<Option<u64>> {
    let sql = "SELECT CASE WHEN has_database_privilege(oid, 'CONNECT') OR pg_has_role('pg_read_all_stats', 'USAGE') \
                      THEN pg_database_size(oid) END FROM pg_database WHERE datname::text = $1";
    let rows = server.query(&format!("ask for the size of \"{name}\""), sql, &[&name]).await?;
    let bytes = rows.first().and_then(|row| row.get::<_, Option<i64>>(0));
    Ok(bytes.and_then(|bytes| u64::try_from(bytes).ok()))
}

/// Whether there is a database of this name, in whatever state.
pub async fn database_exists(server: &Server, name: &str) -> anyhow::Result<bool> {
    let sql = "SELECT EXISTS (SELECT FROM pg_database WHERE datname::text = $1)";
    let row = server.query_one(&format!("look for the database \"{name}\""), sql, &[&name]).await?;
    Ok(row.get(0))
}

/// The number (`pg_database.oid`) of the database of this name, in whatever state; `None` when there is none. It stays
/// the same when the database is renamed, and no other database of the server gets it as long as this one is there.
pub async fn database_oid(server: &Server, name: &str) -> anyhow::Result<Option<u32>> {
    let sql = "SELECT oid FROM pg_database WHERE datname::text = $1";
    let rows = server.query(&format!("look for the database \"{name}\""), sql, &[&name]).await?;
    Ok(rows.first().map(|row| row.get(0)))
}

/// The server options that a program needs in order to write into a new database however long it takes, where the
/// sessions of this user begin with something else; nothing where they are fine, since poolers refuse options.
///
/// Only what `pg_restore` does not set by itself.
pub async fn hindrances(server: &Server) -> anyhow::Result<Option<String>> {
    let sql = "SELECT string_agg(format('-c %s=%s', name, boot_val), ' ') FROM pg_settings \
               WHERE name IN ('default_transaction_read_only', 'idle_session_timeout') AND reset_val <> boot_val";
    let row = server.query_one("ask how sessions begin", sql, &[]).await?;
    Ok(row.get(0))
}

/// Whether some connection is still making the database of this name, of which nothing can be seen until it is done.
pub async fn is_being_created(server: &Server, name: &str) -> anyhow::Result<bool> {
    let sql = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid() \
                              AND starts_with(query, $1))";
    let begins = format!("CREATE DATABASE {} ", identifier(name));
    let row = server.query_one(&format!("look for the database \"{name}\""), sql, &[&begins]).await?;
    Ok(row.get(0))
}

/// One table with rows of its own: the kind for which `pg_dump` writes data (`makeTableDataInfo` in `pg_dump.c`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableFacts {
    /// Its number within the database.
    pub oid: u32,
    /// Its schema, as [`crate::format::manifest::Table`] has it.
    pub schema: String,
    /// Its name, likewise.
    pub name: String,
    /// Both as they are, where one is not UTF-8.
    pub raw: Option<RawName>,
    /// Its size on disk with TOAST, without indexes.
    pub bytes: u64,
    /// Whether an extension made it. Its rows are then in no dump, unless the extension asked for it.
    pub extension_member: bool,
    /// Whether an extension asked for its rows to be dumped (`pg_extension_config_dump`), all or some of them.
    pub extension_configuration: bool,
    /// Whether it is unlogged: `pg_dump` leaves out its rows on a standby.
    pub unlogged: bool,
}

/// The tables of the database, sorted by schema and name: no views, no partitioned parents, no foreign tables, no
/// temporary tables, nothing of PostgreSQL's own; but wherever it lies, `pg_catalog` included, what an extension
/// asked to be dumped.
pub async fn tables(server: &Server) -> anyhow::Result<Vec<TableFacts>> {
    let sql = "SELECT c.oid, n.nspname::text, c.relname::text, coalesce(pg_table_size(c.oid), 0), \
                      EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass \
                              AND d.objid = c.oid AND d.objsubid = 0 \
                              AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'), \
                      EXISTS (SELECT FROM pg_extension e WHERE c.oid = ANY (e.extconfig)), \
                      c.relpersistence = 'u' \
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE c.relkind = 'r' AND c.relpersistence <> 't' \
                 AND (n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' \
                      OR EXISTS (SELECT FROM pg_extension e WHERE c.oid = ANY (e.extconfig))) \
               ORDER BY n.nspname COLLATE \"C\", c.relname COLLATE \"C\"";
    let rows = server.query("list the tables", sql, &[]).await?;
    let read = |row: &Row| {
        let (schema, name): (ServerText, ServerText) = (row.get(1), row.get(2));
        TableFacts {
            oid: row.get(0),
            schema: schema.shown(),
            name: name.shown(),
            raw: (!schema.is_utf8() || !name.is_utf8()).then_some(RawName { schema: schema.0, name: name.0 }),
            bytes: u64::try_from(row.get::<_, i64>(3)).unwrap_or(0),
            extension_member: row.get(4),
            extension_configuration: row.get(5),
            unlogged: row.get(6),
        }
    };
    Ok(rows.iter().map(read).collect())
}

/// When the present transaction began, by the server's clock.
pub async fn transaction_time(server: &Server) -> anyhow::Result<Timestamp> {
    let sql = "SELECT (extract(epoch FROM now()) * 1000)::int8";
    let milliseconds: i64 = server.query_one("ask the time", sql, &[]).await?.get(0);
    Timestamp::from_timestamp_millis(milliseconds)
        .ok_or_else(|| Fault::new(Kind::Postgres, "the server's clock shows an impossible time").into())
}

/// Counts the rows of the table itself, without those of its partitions or children. Reads the whole table.
pub async fn count_rows(server: &Server, table: &Table) -> anyhow::Result<u64> {
    let shown = qualified(&table.schema, &table.name);
    let action = format!("count the rows of {shown}");
    let row = match &table.raw {
        None => server.query_one(&action, &format!("SELECT count(*) FROM ONLY {shown}"), &[]).await?,
        // A statement is UTF-8 here, so these names cannot stand in it: the server itself makes one of them and runs
        // it, which without a procedural language only this function does (it needs no libxml).
        Some(raw) => {
            let sql = "SELECT substring(query_to_xml( \
                           format('SELECT count(*) AS n FROM ONLY %I.%I', \
                                  convert_from($1, 'SQL_ASCII'), convert_from($2, 'SQL_ASCII')), \
                           false, true, '')::text FROM '<n>([0-9]+)</n>')::int8";
            server.query_one(&action, sql, &[&raw.schema, &raw.name]).await?
        }
    };
    Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or(0))
}

/// Constraints that are not validated and indexes that are not valid, as `schema.table.name`, sorted. What a
/// restored database has beyond its source is damage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unproven {
    /// Constraints that rows may violate (`NOT VALID`, `NOT ENFORCED`); of a domain: `schema.domain.name`.
    pub constraints: Vec<String>,
    /// Indexes that queries do not use, left by a `CREATE INDEX CONCURRENTLY` that failed or incomplete on a
    /// partitioned table.
    pub indexes: Vec<String>,
}

impl Unproven {
    /// All of them with what they are: `constraint public.t.c`, `index public.t.i`.
    pub fn names(self) -> Vec<String> {
        let constraints = self.constraints.into_iter().map(|name| format!("constraint {name}"));
        constraints.chain(self.indexes.into_iter().map(|name| format!("index {name}"))).collect()
    }
}

/// Asks for what is not valid in the database.
pub async fn unproven(server: &Server) -> anyhow::Result<Unproven> {
    let constraints = "SELECT concat_ws('.', n.nspname, coalesce(c.relname, t.typname), k.conname) \
                       FROM pg_constraint k JOIN pg_namespace n ON n.oid = k.connamespace \
                       LEFT JOIN pg_class c ON c.oid = k.conrelid LEFT JOIN pg_type t ON t.oid = k.contypid \
                       WHERE NOT k.convalidated AND n.nspname !~ '^pg_'";
    let indexes = "SELECT concat_ws('.', n.nspname, t.relname, i.relname) \
                   FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid \
                   JOIN pg_class t ON t.oid = x.indrelid JOIN pg_namespace n ON n.oid = t.relnamespace \
                   WHERE NOT x.indisvalid AND n.nspname !~ '^pg_'";
    let constraints = server.query("list the constraints that are not validated", constraints, &[]).await?;
    let indexes = server.query("list the indexes that are not valid", indexes, &[]).await?;
    let names = |rows: Vec<Row>| {
        let mut names: Vec<String> = rows.iter().map(|row| text(row, 0)).collect();
        names.sort_unstable();
        names
    };
    Ok(Unproven { constraints: names(constraints), indexes: names(indexes) })
}

/// One connection that somebody has to a database. What the user may not see of others is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// The server's process.
    pub pid: i32,
    /// The role.
    pub user: Option<String>,
    /// What the client calls itself.
    pub application: Option<String>,
    /// The client's address; `None` over a socket of the server's machine.
    pub address: Option<String>,
    /// What it is doing: `active`, `idle`, `idle in transaction`...
    pub state: Option<String>,
    /// Since when it is connected, RFC 3339 in UTC.
    pub since: Option<String>,
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {}", self.pid)?;
        if let Some(user) = &self.user {
            write!(f, " of \"{user}\"")?;
        }
        if let Some(application) = self.application.as_ref().filter(|text| !text.is_empty()) {
            write!(f, " ({application})")?;
        }
        match &self.address {
            Some(address) => write!(f, " from {address}"),
            None => f.write_str(" from the server's own machine"),
        }
    }
}

/// Who is connected to the database, besides this connection and PostgreSQL's own maintenance.
pub async fn connections(server: &Server, database: &str) -> anyhow::Result<Vec<Connection>> {
    // Autovacuum gives way by itself to what pgkeep does.
    let sql = format!(
        "{CONNECTIONS} WHERE datname::text = $1 AND pid <> pg_backend_pid() \
         AND backend_type IS DISTINCT FROM 'autovacuum worker' ORDER BY backend_start, pid"
    );
    let action = format!("list the connections to \"{database}\"");
    let rows = server.query(&action, &sql, &[&database]).await?;
    Ok(rows.iter().map(connection).collect())
}

/// Who is behind these server processes, to whatever database; those that are gone are left out.
pub async fn connections_of(server: &Server, pids: &[i32]) -> anyhow::Result<Vec<Connection>> {
    let sql = format!("{CONNECTIONS} WHERE pid = ANY ($1) ORDER BY backend_start, pid");
    let rows = server.query("look whose server processes these are", &sql, &[&pids]).await?;
    Ok(rows.iter().map(connection).collect())
}

/// What [`connection`] reads.
const CONNECTIONS: &str = "SELECT pid, usename::text, application_name, host(client_addr), state, \
    to_char(backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') FROM pg_stat_activity";

fn connection(row: &Row) -> Connection {
    Connection {
        pid: row.get(0),
        user: text_or_null(row, 1),
        application: text_or_null(row, 2),
        address: text_or_null(row, 3),
        state: text_or_null(row, 4),
        since: text_or_null(row, 5),
    }
}

/// Transactions that are prepared (two-phase commit) in the database, by identifier; they hold it like a connection.
pub async fn prepared_transactions(server: &Server, database: &str) -> anyhow::Result<Vec<String>> {
    let sql = "SELECT gid FROM pg_prepared_xacts WHERE database::text = $1 ORDER BY prepared";
    let action = format!("list the prepared transactions in \"{database}\"");
    let rows = server.query(&action, sql, &[&database]).await?;
    Ok(rows.iter().map(|row| text(row, 0)).collect())
}

/// Asks these server processes to end; those that are gone already don't matter. Does not wait for their end.
pub async fn terminate(server: &Server, pids: &[i32]) -> anyhow::Result<()> {
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE pid = ANY ($1) AND pid <> pg_backend_pid()";
    server.query("end other connections", sql, &[&pids]).await?;
    Ok(())
}

/// Drops the database if it is there; with `force` ends its connections first. A template is unmarked before, and its
/// subscriptions are forgotten.
///
/// May run again. Must not be asked of the database that this connection is in. After a connection was lost in
/// the middle the database is whole, gone, or can only be dropped again.
pub async fn drop_database(server: &Server, name: &str, force: bool) -> anyhow::Result<()> {
    let action = format!("drop the database \"{name}\"");
    let database = identifier(name);
    let sql = "SELECT datistemplate FROM pg_database WHERE datname::text = $1";
    let rows = server.query(&action, sql, &[&name]).await?;
    if rows.first().is_some_and(|row| row.get(0)) {
        server.run(&action, &format!("ALTER DATABASE {database} WITH IS_TEMPLATE false")).await?;
    }
    let subscriptions = if rows.is_empty() { Vec::new() } else { subscriptions::names(server, name).await? };
    if !subscriptions.is_empty() {
        // Before anything is taken from a database that stays after all.
        if !force && let Some(connection) = connections(server, name).await?.first() {
            return Fault::new(Kind::Postgres, format!("{action}: {connection} is connected to it"))
                .hint("End the connection, then drop it by hand.")
                .err();
        }
        subscriptions::forget(server, name, &subscriptions).await?;
    }
    let how = if force { " WITH (FORCE)" } else { "" };
    server.run(&action, &format!("DROP DATABASE IF EXISTS {database}{how}")).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_named_by_what_is_known_of_it() {
        let mut connection = Connection {
            pid: 4711,
            user: Some("app".to_owned()),
            application: Some("psql".to_owned()),
            address: Some("10.0.0.5".to_owned()),
            state: None,
            since: None,
        };
        assert_eq!(connection.to_string(), "pid 4711 of \"app\" (psql) from 10.0.0.5");
        connection.application = Some(String::new());
        connection.address = None;
        assert_eq!(connection.to_string(), "pid 4711 of \"app\" from the server's own machine");
    }
}
