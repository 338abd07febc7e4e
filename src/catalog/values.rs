//! Values between SQLite and the model: identifiers, words and times are text, counts are signed integers.

use std::str::FromStr;

use rusqlite::types::Type;
use rusqlite::{Error, Row};
use serde::{Serialize, Serializer};

use crate::model::{Fault, Kind, RunId, Timestamp, parse_timestamp, timestamp_text};

/// Reads a text column as the type that it stands for.
pub(super) fn parsed<T: FromStr<Err = Fault>>(row: &Row<'_>, column: &str) -> rusqlite::Result<T> {
    parse(row, column, &row.get::<_, String>(column)?, str::parse)
}

/// The same for a column that may be null.
pub(super) fn parsed_or_null<T: FromStr<Err = Fault>>(
    row: &Row<'_>,
    column: &str,
) -> rusqlite::Result<Option<T>> {
    let text: Option<String> = row.get(column)?;
    text.map(|text| parse(row, column, &text, str::parse)).transpose()
}

/// Reads a time.
pub(super) fn time(row: &Row<'_>, column: &str) -> rusqlite::Result<Timestamp> {
    parse(row, column, &row.get::<_, String>(column)?, parse_timestamp)
}

/// The same for a column that may be null.
pub(super) fn time_or_null(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<Timestamp>> {
    let text: Option<String> = row.get(column)?;
    text.map(|text| parse(row, column, &text, parse_timestamp)).transpose()
}

/// Reads a count or a size.
pub(super) fn count(row: &Row<'_>, column: &str) -> rusqlite::Result<u64> {
    positive(row, column, row.get(column)?)
}

/// The same for a column that may be null.
pub(super) fn count_or_null(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<u64>> {
    let number: Option<i64> = row.get(column)?;
    number.map(|number| positive(row, column, number)).transpose()
}

/// Reads JSON that may be null.
pub(super) fn json_or_null<T: serde::de::DeserializeOwned>(
    row: &Row<'_>,
    column: &str,
) -> rusqlite::Result<Option<T>> {
    let text: Option<String> = row.get(column)?;
    text.map(|text| {
        parse(row, column, &text, |text| {
            serde_json::from_str(text).map_err(|error| Fault::new(Kind::Damaged, error.to_string()))
        })
    })
    .transpose()
}

/// A count as SQLite has it; what does not fit (8 EiB and more) is the largest that does.
pub(super) fn integer(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Writes an identifier into JSON.
pub(super) fn as_text<S: Serializer>(value: &impl ToString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&value.to_string())
}

/// Writes a run's identifier that may be missing into JSON.
#[allow(clippy::ref_option)] // serde hands it over so
pub(super) fn run_as_text<S: Serializer>(run: &Option<RunId>, serializer: S) -> Result<S::Ok, S::Error> {
    run.as_ref().map(RunId::as_str).serialize(serializer)
}

/// Writes a time into JSON as the catalog has it.
pub(super) fn time_as_text<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&timestamp_text(*time))
}

/// The same for one that may be missing.
#[allow(clippy::ref_option)] // serde hands it over so
pub(super) fn time_or_null_as_text<S: Serializer>(
    time: &Option<Timestamp>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => time_as_text(time, serializer),
        None => serializer.serialize_none(),
    }
}

fn parse<T>(
    row: &Row<'_>,
    column: &str,
    text: &str,
    read: impl FnOnce(&str) -> Result<T, Fault>,
) -> rusqlite::Result<T> {
    read(text).map_err(|fault| {
        let index = row.as_ref().column_index(column).unwrap_or_default();
        Error::FromSqlConversionFailure(index, Type::Text, Box::new(fault))
    })
}

fn positive(row: &Row<'_>, column: &str, number: i64) -> rusqlite::Result<u64> {
    u64::try_from(number).map_err(|_| {
        Error::IntegralValueOutOfRange(row.as_ref().column_index(column).unwrap_or_default(), number)
    })
}
