//! What the server says when it refuses, in words: `tokio_postgres` itself prints no more than "db error".

use std::error::Error as _;
use std::fmt;

use tokio_postgres::error::{DbError, SqlState};

use crate::model::{Fault, Kind};

/// An error of the server or of the way to it, with everything that is known of it. It stands as the cause
/// below the [`Fault`] that says what was being done.
#[derive(Debug, Clone)]
pub struct ServerError {
    text: String,
    code: Option<SqlState>,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for ServerError {}

impl ServerError {
    pub(super) fn new(text: String, code: Option<SqlState>) -> Self {
        Self { text, code }
    }
}

impl From<&tokio_postgres::Error> for ServerError {
    fn from(error: &tokio_postgres::Error) -> Self {
        Self::new(describe(error), error.code().cloned())
    }
}

/// The error in one line: severity, message, detail, hint and SQLSTATE if the server sent it, else all causes.
pub fn describe(error: &tokio_postgres::Error) -> String {
    if let Some(said) = error.as_db_error() {
        return describe_answer(said);
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    one_line(&text)
}

fn describe_answer(said: &DbError) -> String {
    let mut text = format!("{}: {}", said.severity(), said.message());
    if let Some(detail) = said.detail() {
        text.push_str("; ");
        text.push_str(detail);
    }
    if let Some(hint) = said.hint() {
        text.push_str("; ");
        text.push_str(hint);
    }
    one_line(&format!("{text} (SQLSTATE {})", said.code().code()))
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// The error of a statement: `action` says what was being done to what; the server's answer is the cause.
pub fn failed(action: impl Into<String>, error: &tokio_postgres::Error) -> anyhow::Error {
    let fault = Fault::new(Kind::Postgres, action);
    let fault = match hint_for(error.code()) {
        Some(hint) => fault.hint(hint),
        None => fault,
    };
    anyhow::Error::new(ServerError::from(error)).context(fault)
}

/// The same with a hint of the caller's.
pub(super) fn failed_with(
    action: impl Into<String>,
    error: &tokio_postgres::Error,
    hint: impl Into<String>,
) -> anyhow::Error {
    anyhow::Error::new(ServerError::from(error)).context(Fault::new(Kind::Postgres, action).hint(hint))
}

/// The SQLSTATE of the server's answer that stands somewhere in the error's chain.
pub fn sqlstate(error: &anyhow::Error) -> Option<&SqlState> {
    error.downcast_ref::<ServerError>().and_then(|error| error.code.as_ref())
}

fn hint_for(code: Option<&SqlState>) -> Option<&'static str> {
    let code = code?;
    if *code == SqlState::INSUFFICIENT_PRIVILEGE {
        Some("Connect as a superuser (PGUSER), or grant the user the right that is missing.")
    } else if *code == SqlState::ADMIN_SHUTDOWN || *code == SqlState::CRASH_SHUTDOWN {
        Some("Somebody stopped the server or ended this connection; run the command again when it is back.")
    } else if *code == SqlState::DISK_FULL {
        Some("Make room on the disk of the PostgreSQL server.")
    } else if *code == SqlState::READ_ONLY_SQL_TRANSACTION {
        Some("This server is a standby or is set to read only; connect to the primary (PGHOST).")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sqlstate_is_found_below_the_fault_and_its_contexts() {
        let error = anyhow::Error::new(ServerError::new("ERROR: no".to_owned(), Some(SqlState::DISK_FULL)))
            .context(Fault::new(Kind::Postgres, "fill the table"))
            .context("restore");
        assert_eq!(sqlstate(&error), Some(&SqlState::DISK_FULL));
        assert_eq!(format!("{error:#}"), "restore: fill the table: ERROR: no");
    }

    #[test]
    fn a_message_of_several_lines_becomes_one() {
        assert_eq!(one_line("could not\n\n  do it\n"), "could not do it");
    }
}
