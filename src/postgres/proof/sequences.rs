//! Sequences that would give out a number that their column has already.

use super::{Proven, damage};
use crate::postgres::Server;
use crate::postgres::quote::identifier;
use crate::postgres::text::ServerText;

/// What came of looking at sequences.
#[derive(Debug, Clone, Default)]
pub struct Sequences {
    /// How many there are, and everything but those that are behind.
    pub proven: Proven,
    /// Those that are behind.
    pub behind: Vec<Behind>,
}

/// A sequence that is behind its column.
#[derive(Debug, Clone)]
pub struct Behind {
    /// `schema.sequence`.
    pub sequence: String,
    /// What is wrong, in a sentence.
    pub text: String,
}

/// Compares every sequence that belongs to a column with the highest value there, or the lowest where it counts down; or
/// `only` those of these names.
pub async fn behind(server: &Server, only: Option<&[String]>) -> anyhow::Result<Sequences> {
    let sql = "SELECT sn.nspname::text, s.relname::text, tn.nspname::text, t.relname::text, a.attname::text, \
                      q.seqincrement > 0, q.seqcycle \
               FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' \
               JOIN pg_namespace sn ON sn.oid = s.relnamespace JOIN pg_sequence q ON q.seqrelid = s.oid \
               JOIN pg_class t ON t.oid = d.refobjid AND t.relkind IN ('r', 'p') \
               JOIN pg_namespace tn ON tn.oid = t.relnamespace \
               JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid \
               JOIN pg_type y ON y.oid = a.atttypid \
               WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass \
                 AND d.deptype IN ('a', 'i') AND y.typcategory = 'N' AND s.relpersistence <> 't' \
               ORDER BY sn.nspname COLLATE \"C\", s.relname COLLATE \"C\"";
    let (mut proven, mut behind) = (Proven::default(), Vec::new());
    for row in server.query("list the sequences", sql, &[]).await? {
        let names: Vec<ServerText> = (0..5).map(|column| row.get(column)).collect();
        let shown = format!("{}.{}", names[0].shown(), names[1].shown());
        if only.is_some_and(|only| !only.contains(&shown)) {
            continue;
        }
        let (counts_up, cycles): (bool, bool) = (row.get(5), row.get(6));
        if cycles {
            proven.notes.push(format!("sequence {shown}: not checked, it begins again at its end"));
            continue;
        }
        if !names.iter().all(ServerText::is_utf8) {
            proven.notes.push(format!("sequence {shown}: not checked, a name is not UTF-8"));
            continue;
        }
        let name = |at: usize| identifier(&names[at].shown());
        let (extreme, wrong) = if counts_up { ("max", "<=") } else { ("min", ">=") };
        let sql = format!(
            "SELECT m.extreme::text, n.next::text FROM (SELECT {extreme}({column}) AS extreme FROM {table}) m, \
             (SELECT s.last_value + CASE WHEN s.is_called THEN q.seqincrement ELSE 0 END AS next \
              FROM {sequence} s, pg_sequence q WHERE q.seqrelid = {regclass}::regclass) n \
             WHERE n.next {wrong} m.extreme",
            column = name(4),
            table = format_args!("{}.{}", name(2), name(3)),
            sequence = format_args!("{}.{}", name(0), name(1)),
            regclass = crate::postgres::quote::literal(&format!("{}.{}", name(0), name(1))),
        );
        proven.checked += 1;
        let found = match server.query(&format!("check the sequence {shown}"), &sql, &[]).await {
            Ok(found) => found,
            Err(error) => {
                proven.findings.push(format!("sequence {shown}: {}", damage(error)?));
                continue;
            }
        };
        if let Some(found) = found.first() {
            let (extreme, next): (String, String) = (found.get(0), found.get(1));
            let text = format!(
                "sequence {shown}: the next number is {next}, and {}.{} has {extreme} already",
                names[3].shown(),
                names[4].shown()
            );
            behind.push(Behind { sequence: shown, text });
        }
    }
    Ok(Sequences { proven, behind })
}
