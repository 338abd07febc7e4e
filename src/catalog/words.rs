//! Enumerations that are words in the catalog.

pub(super) use crate::model::words;
