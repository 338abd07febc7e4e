//! The operator's own questions (`TEST_RESTORE_SQL`): each must be answered with true.

use super::Proven;
use crate::postgres::Server;
use crate::postgres::quote::{identifier, literal};

/// Asks in a transaction that can't write, with the names that sessions of this database usually see: `search_path` is
/// what was set for the database.
pub async fn ask(server: &Server, search_path: Option<&str>, questions: &[&str]) -> anyhow::Result<Proven> {
    let mut proven = Proven::default();
    for question in questions {
        let path = search_path.map_or_else(
            || "SET LOCAL search_path TO DEFAULT".to_owned(),
            |path| format!("SET LOCAL search_path TO {}", list(path)),
        );
        server.run("prepare a question", &format!("BEGIN READ ONLY; {path}")).await?;
        let asked = server.client().query(*question, &[]).await;
        // Also after an error, and whatever that was.
        let _ = server.run("end a question", "ROLLBACK").await;
        proven.checked += 1;
        let shown = shortened(question);
        match asked {
            Err(error) if error.is_closed() => return Err(server.failed("ask a question", &error).await),
            Err(error) => {
                proven.findings.push(format!("{shown}: {}", crate::postgres::describe(&error)));
            }
            Ok(rows) => {
                let answer = match rows.as_slice() {
                    [row] if row.len() == 1 => row.try_get::<_, Option<bool>>(0).map_err(|_| "no boolean"),
                    [_] => Err("more than one column"),
                    [] => Err("no row"),
                    _ => Err("more than one row"),
                };
                match answer {
                    Ok(Some(true)) => {}
                    Ok(Some(false)) => proven.findings.push(format!("{shown}: false")),
                    Ok(None) => proven.findings.push(format!("{shown}: null")),
                    Err(what) => {
                        proven.findings.push(format!("{shown}: the answer is {what}, and must be true"));
                    }
                }
            }
        }
    }
    Ok(proven)
}

/// A path as `pg_db_role_setting` has it, `"$user", public`, as a list of literals.
fn list(path: &str) -> String {
    let names = path.split(',').map(|name| name.trim().trim_matches('"')).filter(|name| !name.is_empty());
    let names: Vec<String> = names.map(literal).collect();
    if names.is_empty() { identifier("") } else { names.join(", ") }
}

/// The question in one line, not too long.
fn shortened(question: &str) -> String {
    const LONGEST: usize = 100;
    let line = question.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= LONGEST {
        return line;
    }
    line.chars().take(LONGEST).chain("...".chars()).collect()
}
