//! Every heap and every index, page by page, by PostgreSQL's own extension amcheck (manual, "amcheck").

use tokio_postgres::Row;
use tokio_postgres::error::SqlState;

use super::{Proven, damage};
use crate::postgres::text::text;
use crate::postgres::{Server, facts, sqlstate};

/// The first version with `verify_heapam`.
const HEAP_SINCE: u32 = 14;
/// How many findings of one heap are named.
const NAMED: i64 = 5;

/// What came of looking at heaps and at indexes.
#[derive(Debug, Clone, Default)]
pub struct Corruption {
    /// Tables and what is stored beside them (TOAST).
    pub heaps: Proven,
    /// Indexes: order, and that every row of the table is in it.
    pub indexes: Proven,
}

/// Looks at every table and B-tree index of the database, after it has made the extension in it.
pub async fn corruption(server: &Server) -> anyhow::Result<Corruption> {
    if let Some(why) = without_extension(server).await? {
        return Ok(Corruption { heaps: Proven::not_checked(why.clone()), indexes: Proven::not_checked(why) });
    }
    let row = server
        .query_one(
            "look for amcheck",
            "SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace \
             WHERE e.extname = 'amcheck'",
            &[],
        )
        .await?;
    let schema: String = row.get(0);
    Ok(Corruption { heaps: heaps(server, &schema).await?, indexes: indexes(server, &schema).await? })
}

/// Makes the extension; or the reason why it can't be had.
async fn without_extension(server: &Server) -> anyhow::Result<Option<String>> {
    let sql = "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'amcheck')";
    let is_there: bool = server.query_one("look for amcheck", sql, &[]).await?.get(0);
    if !is_there {
        return Ok(Some("amcheck is not installed on the server (package postgresql-contrib)".to_owned()));
    }
    match server.run("make the extension amcheck", "CREATE EXTENSION IF NOT EXISTS amcheck").await {
        Ok(()) => {}
        Err(error) if sqlstate(&error) == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            let user = facts::rights(server).await?.user;
            return Ok(Some(format!("user \"{user}\" may not create the extension amcheck")));
        }
        Err(error) => return Err(error),
    }
    Ok(None)
}

/// What somebody's session has for itself is nothing of the backup's.
const OURS: &str = "c.relpersistence <> 't'";

async fn heaps(server: &Server, schema: &str) -> anyhow::Result<Proven> {
    if server.major() < HEAP_SINCE {
        return Ok(Proven::not_checked(format!("PostgreSQL {HEAP_SINCE} is the first that can")));
    }
    let sql = format!(
        "SELECT c.oid, c.oid::regclass::text FROM pg_class c JOIN pg_am m ON m.oid = c.relam \
         WHERE c.relkind IN ('r', 'm', 't', 'S') AND m.amname = 'heap' AND {OURS} ORDER BY c.oid"
    );
    let mut proven = Proven::default();
    for row in server.query("list the heaps", &sql, &[]).await? {
        let (oid, name): (u32, String) = (row.get(0), text(&row, 1));
        // Sequences are one page each; those before 17 are refused by it.
        let sql = format!(
            "SELECT format('block %s%s: %s', v.blkno, ', line ' || v.offnum, v.msg), count(*) OVER () \
             FROM {schema}.verify_heapam(relation => $1::oid::regclass, check_toast => true) v LIMIT {NAMED}"
        );
        let action = format!("look at the pages of {name}");
        match server.query(&action, &sql, &[&oid]).await {
            Ok(rows) => {
                proven.checked += 1;
                proven.findings.extend(named(&name, &rows));
            }
            Err(error) if is_unfit(&error) => {}
            Err(error) => {
                proven.checked += 1;
                proven.findings.push(format!("{name}: {}", damage(error)?));
            }
        }
    }
    Ok(proven)
}

fn named(name: &str, rows: &[Row]) -> Vec<String> {
    let all = rows.first().map_or(0, |row| row.get::<_, i64>(1));
    let mut findings: Vec<String> = rows.iter().map(|row| format!("{name}: {}", text(row, 0))).collect();
    if all > NAMED {
        findings.push(format!("{name}: and {} more", all - NAMED));
    }
    findings
}

async fn indexes(server: &Server, schema: &str) -> anyhow::Result<Proven> {
    let sql = format!(
        "SELECT c.oid, c.oid::regclass::text, t.oid::regclass::text, m.amname = 'btree', i.indisunique, \
                i.indisvalid AND i.indisready \
         FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid \
         JOIN pg_am m ON m.oid = c.relam WHERE c.relkind = 'i' AND {OURS} ORDER BY c.oid"
    );
    // From 17 on also: no two rows that can be seen have one key.
    let unique = if server.major() >= 17 { ", checkunique => $2" } else { "" };
    let check = format!(
        "SELECT {schema}.bt_index_parent_check(index => $1::oid::regclass, heapallindexed => true{unique})::text"
    );
    let (mut proven, mut others, mut invalid) = (Proven::default(), 0_u64, Vec::new());
    for row in server.query("list the indexes", &sql, &[]).await? {
        let (oid, name, table): (u32, String, String) = (row.get(0), text(&row, 1), text(&row, 2));
        let (is_btree, is_unique, is_valid): (bool, bool, bool) = (row.get(3), row.get(4), row.get(5));
        if !is_valid {
            invalid.push(name);
            continue;
        }
        if !is_btree {
            others += 1;
            continue;
        }
        let action = format!("look at the index {name}");
        let asked = if unique.is_empty() {
            server.query(&action, &check, &[&oid]).await
        } else {
            server.query(&action, &check, &[&oid, &is_unique]).await
        };
        proven.checked += 1;
        if let Err(error) = asked {
            proven.findings.push(format!("index {name} of {table}: {}", damage(error)?));
        }
    }
    if others > 0 {
        let what = if others == 1 { "1 index is" } else { &format!("{others} indexes are") };
        proven.notes.push(format!("{what} of a kind that amcheck does not know (it knows B-trees)"));
    }
    proven.notes.extend(invalid.into_iter().map(|name| format!("index {name} is not valid: not looked at")));
    Ok(proven)
}

/// Whether the relation is of a kind that can't be looked at, such as a foreign table or an access method of somebody's.
fn is_unfit(error: &anyhow::Error) -> bool {
    sqlstate(error).is_some_and(|code| {
        *code == SqlState::FEATURE_NOT_SUPPORTED
            || *code == SqlState::WRONG_OBJECT_TYPE
            || *code == SqlState::INVALID_PARAMETER_VALUE
    })
}
