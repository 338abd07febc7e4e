//! Times, ages and sizes as the page says them.

use std::time::Duration;

use super::tables::{Cell, markup};
use crate::model::{Bytes, Elapsed, Thousands, Timestamp};
use crate::plan::health::days;

pub(super) fn time_with_id(at: Timestamp) -> String {
    format!("<time id=\"made\" datetime=\"{}\">{} UTC</time>", at.format("%FT%TZ"), at.format("%F %H:%M"))
}

pub(super) fn when(at: Timestamp) -> Cell {
    markup(
        format!("<time datetime=\"{}\">{}</time>", at.format("%FT%TZ"), minute(at)),
        at.timestamp().to_string(),
    )
}

pub(super) fn minute(at: Timestamp) -> String {
    at.format("%F %H:%M").to_string()
}

pub(super) fn since(now: Timestamp, then: Timestamp) -> String {
    days((now - then).to_std().unwrap_or_default())
}

pub(super) fn age_of(seconds: u64) -> String {
    days(Duration::from_secs(seconds))
}

pub(super) fn took(seconds: f64) -> String {
    Elapsed(Duration::from_secs_f64(seconds.max(0.0))).to_string()
}

pub(super) fn axis_bytes(bytes: f64) -> String {
    Bytes(bytes as u64).to_string().replace(".0 ", " ")
}

pub(super) fn axis_seconds(seconds: f64) -> String {
    if seconds < 10.0 {
        format!("{} s", rounded(seconds))
    } else {
        days(Duration::from_secs_f64(seconds.max(0.0)))
    }
}

/// A number with as few digits as it needs.
pub(super) fn rounded(value: f64) -> String {
    if value.fract() == 0.0 { Thousands(value as u64).to_string() } else { format!("{value:.1}") }
}

pub(super) fn counted(count: u64, what: &str) -> String {
    format!("{} {what}{}", Thousands(count), if count == 1 { "" } else { "s" })
}
