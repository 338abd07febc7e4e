//! `TEST_RESTORE_*`: what a test restore looks for and asks.

use std::path::PathBuf;

use super::faults::Faults;
use super::values::Values;
use crate::model::{InDatabase, TestQuestions, parse_queries};

/// Reads the tables and the queries; a value that is a path names a file with queries.
pub(super) fn read(values: &Values, faults: &mut Faults) -> TestQuestions {
    let mut questions = TestQuestions::default();
    if let Some(value) = values.get("TEST_RESTORE_TABLES") {
        let words = value.text.split(',').map(str::trim).filter(|word| !word.is_empty());
        questions.tables = words.map(InDatabase::parse).collect();
    }
    if let Some(value) = values.get("TEST_RESTORE_SQL") {
        let text = value.text.trim();
        if text.starts_with('/') && !text.starts_with("/*") {
            questions.file = Some(PathBuf::from(text));
        } else {
            match parse_queries(text) {
                Ok(queries) => questions.queries = queries,
                Err(what) => {
                    faults.add(value.fault(what).hint("Close it, or put the queries into a file."));
                }
            }
        }
    }
    questions
}
