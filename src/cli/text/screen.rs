//! Text for a screen of any width: paragraphs under labels, wrapped; in colour where that is wanted.

use std::io::IsTerminal;

/// Below this there is no room for labels beside the text.
const NARROW: usize = 60;

/// The labels' column.
const LABELS: usize = 11;

/// No line is longer, however wide the screen: long ones are hard to read.
const WIDEST: usize = 110;

/// What a word means, for its colour; the word itself says it too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Attention,
    Critical,
    Soft,
    Strong,
}

/// Where the text goes.
#[derive(Debug)]
pub(super) struct Screen {
    width: usize,
    is_coloured: bool,
    text: String,
}

impl Screen {
    /// Stdout as it is: as wide as the terminal, else `COLUMNS`, else 80; colours only on a terminal, and not with
    /// `NO_COLOR` (<https://no-color.org>) or `TERM=dumb`.
    pub(super) fn of_stdout() -> Self {
        let stdout = std::io::stdout();
        let size = rustix::termios::tcgetwinsize(&stdout).ok().map(|size| usize::from(size.ws_col));
        let columns = || std::env::var("COLUMNS").ok()?.parse().ok();
        let width = size.filter(|width| *width > 0).or_else(columns).unwrap_or(80);
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let is_coloured = stdout.is_terminal() && !is_set("NO_COLOR") && !is_dumb;
        Self::new(width, is_coloured)
    }

    /// One of this width.
    pub(super) fn new(width: usize, is_coloured: bool) -> Self {
        Self { width: width.clamp(24, WIDEST), is_coloured, text: String::new() }
    }

    /// What was written.
    pub(super) fn into_text(self) -> String {
        self.text
    }

    /// A paragraph under a label; an empty label goes on under the one before. What is wrapped is indented by two more.
    /// Text from outside cannot steer the terminal.
    pub(super) fn paragraph(&mut self, label: &str, text: &str, tone: Option<Tone>) {
        let is_narrow = self.width < NARROW;
        let indent = if is_narrow { 2 } else { LABELS };
        if is_narrow && !label.is_empty() {
            let label = self.painted(label, Some(Tone::Strong));
            self.text.push_str(&label);
            self.text.push('\n');
        }
        for (number, line) in wrap(&plain(text), self.width - indent, 2).into_iter().enumerate() {
            let beside = if number == 0 && !is_narrow { label } else { "" };
            let padding = " ".repeat(indent - beside.chars().count().min(indent));
            let beside = self.painted(beside, Some(Tone::Strong));
            let line = self.painted(&line, tone);
            self.text.push_str(format!("{beside}{padding}{line}").trim_end());
            self.text.push('\n');
        }
    }

    /// An empty line.
    pub(super) fn gap(&mut self) {
        self.text.push('\n');
    }

    fn painted(&self, text: &str, tone: Option<Tone>) -> String {
        let Some(tone) = tone.filter(|_| self.is_coloured && !text.is_empty()) else {
            return text.to_owned();
        };
        let code = match tone {
            Tone::Good => "32",
            Tone::Attention => "33",
            Tone::Critical => "1;31",
            Tone::Soft => "2",
            Tone::Strong => "1",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

/// Characters that would steer the terminal become visible ones.
fn plain(text: &str) -> String {
    text.chars()
        .map(|letter| match letter {
            '\n' | '\t' => ' ',
            _ if letter.is_control()
                || matches!(letter, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}') =>
            {
                '\u{FFFD}'
            }
            _ => letter,
        })
        .collect()
}

/// Breaks between words, and words that are longer than a line.
fn wrap(text: &str, width: usize, hang: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in text.split_whitespace() {
        let mut letters: Vec<char> = word.chars().collect();
        loop {
            let line_start = if lines.len() > 1 { hang } else { 0 };
            let gap = usize::from(used > line_start);
            if used + gap + letters.len() <= width {
                push(&mut lines, if gap > 0 { " " } else { "" });
                push(&mut lines, &letters.iter().collect::<String>());
                used += gap + letters.len();
                break;
            }
            if used > line_start {
                lines.push(" ".repeat(hang));
                used = hang;
                continue;
            }
            let rest = letters.split_off(width - used);
            push(&mut lines, &letters.iter().collect::<String>());
            letters = rest;
            lines.push(" ".repeat(hang));
            used = hang;
        }
    }
    lines
}

fn push(lines: &mut [String], text: &str) {
    if let Some(last) = lines.last_mut() {
        last.push_str(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_between_words_and_long_words_within() {
        assert_eq!(wrap("one two three", 8, 2), ["one two", "  three"]);
        assert_eq!(wrap("abcdefghijkl", 8, 2), ["abcdefgh", "  ijkl"]);
        assert_eq!(wrap("", 8, 2), [""]);
        assert_eq!(wrap("ab abcdefgh c", 8, 2), ["ab", "  abcdef", "  gh c"]);
    }

    #[test]
    fn labels_stand_beside_the_text_or_above_it() {
        let shown = |width| {
            let mut screen = Screen::new(width, false);
            screen.paragraph("RPO", "4 min", Some(Tone::Good));
            screen.into_text()
        };
        assert_eq!(shown(80), "RPO        4 min\n");
        assert_eq!(shown(40), "RPO\n  4 min\n");
    }

    #[test]
    fn colours_come_only_where_they_are_wanted_and_text_from_outside_brings_none() {
        let mut screen = Screen::new(80, true);
        screen.paragraph("", "well \u{1b}[31m", Some(Tone::Good));
        assert_eq!(screen.into_text(), "           \u{1b}[32mwell \u{FFFD}[31m\u{1b}[0m\n");
    }
}
