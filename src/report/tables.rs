//! Tables of the page. The script makes them sort and filter; without it they are plain tables.

use std::fmt::Write;

use super::escape::html;

/// How a column is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Set {
    /// Short text that is not broken.
    Plain,
    /// Numbers, to the right.
    Right,
    /// Text that may be long.
    Long,
}

impl Set {
    const fn class(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Right => "right",
            Self::Long => "long",
        }
    }
}

/// With more rows than this a table scrolls in its box, so that what comes after it is not far away.
const TALL: usize = 14;

/// A cell: HTML that is safe already, and what it is sorted by if not by its text.
pub(super) struct Cell {
    html: String,
    by: Option<String>,
}

/// Text from anywhere.
pub(super) fn text(text: impl AsRef<str>) -> Cell {
    Cell { html: html(text.as_ref()), by: None }
}

/// Text that is sorted by a number.
pub(super) fn number(shown: impl AsRef<str>, by: f64) -> Cell {
    Cell { html: html(shown.as_ref()), by: Some(by.to_string()) }
}

/// HTML of our own.
pub(super) fn markup(html: String, by: impl Into<String>) -> Cell {
    Cell { html, by: Some(by.into()) }
}

/// Writes a table in a card of its own, which scrolls sideways where it is too wide; with no rows, the sentence instead.
pub(super) fn table(caption: &str, columns: &[(&str, Set)], rows: &[Vec<Cell>], none: &str) -> String {
    let mut out = String::new();
    let caption = html(caption);
    if rows.is_empty() {
        return format!(
            "<section class=\"card\"><h2>{caption}</h2><p class=\"soft\">{}</p></section>\n",
            html(none)
        );
    }
    // Writing into a string cannot fail.
    let _ = write!(
        out,
        "<section class=\"card\"><h2>{caption}</h2><div class=\"scroll{}\" tabindex=\"0\" role=\"region\" \
         aria-label=\"{caption}\"><table class=\"data\" aria-label=\"{caption}\"><thead><tr>",
        if rows.len() > TALL { " tall" } else { "" },
    );
    for (name, set) in columns {
        let class = if *set == Set::Right { " class=\"right\"" } else { "" };
        let _ = write!(out, "<th scope=\"col\"{class}>{}</th>", html(name));
    }
    out.push_str("</tr></thead><tbody>\n");
    for row in rows {
        out.push_str("<tr>");
        for (cell, (_, set)) in row.iter().zip(columns) {
            let by = cell.by.as_ref().map_or_else(String::new, |by| format!(" data-v=\"{}\"", html(by)));
            let _ = write!(out, "<td class=\"{}\"{by}>{}</td>", set.class(), cell.html);
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div></section>\n");
    out
}
