//! Text that came from a database, a store or a person, made harmless for where it goes.

/// For HTML, between tags and in attributes with double quotes. Characters that steer a terminal or turn the direction of
/// writing around, and those that HTML does not allow, become visible ones.
pub(super) fn html(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '\n' | '\t' => safe.push(' '),
            _ if is_steering(letter) => safe.push('\u{FFFD}'),
            _ => safe.push(letter),
        }
    }
    safe
}

/// For a label's value in the exposition format: backslash, double quote and line feed are escaped
/// (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
pub(super) fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Whether a character does something else than to be seen.
fn is_steering(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{FEFF}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_came_from_outside_is_markup() {
        assert_eq!(
            html("<script>alert(\"1\" & '2')</script>"),
            "&lt;script&gt;alert(&quot;1&quot; &amp; &#39;2&#39;)&lt;/script&gt;"
        );
        assert_eq!(html("a\nb\u{1b}[31m\u{202e}c\u{0}"), "a b\u{FFFD}[31m\u{FFFD}c\u{FFFD}");
        assert_eq!(label("a\\b\"c\nd"), "a\\\\b\\\"c\\nd");
    }
}
