//! Questions at a terminal, and the ways of leaving them.

use std::fmt;
use std::io::Write;

use anyhow::Context;
use inquire::validator::Validation;
use inquire::{Confirm, InquireError, Select, Text};
use rustix::termios::{OptionalActions, tcgetattr, tcgetwinsize, tcsetattr};

use crate::command::{Interrupted, Stop};
use crate::model::{Fault, Kind};

/// Somebody has left at a question.
#[derive(Debug, Clone, Copy)]
pub(super) struct Left;

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("left")
    }
}

impl std::error::Error for Left {}

/// Whether the error is that somebody has left: with Esc, with Ctrl-C, or by a signal.
pub(super) fn has_left(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Left>().is_some() || error.downcast_ref::<Interrupted>().is_some()
}

/// Tells something beside the questions; lines end between words, also on a narrow terminal.
pub(super) fn say(text: &str) -> anyhow::Result<()> {
    let columns = tcgetwinsize(std::io::stderr()).map_or(0, |size| usize::from(size.ws_col));
    show(&wrapped(text, if columns == 0 { 80 } else { columns }))
}

/// Shows what is already in lines, such as a plan, or must stay in one, such as a command.
pub(super) fn show(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stderr(), "{text}").context("write to the terminal")
}

/// Breaks a line between words; what follows is set in as far as its beginning.
fn wrapped(line: &str, columns: usize) -> String {
    let indent = line.len() - line.trim_start().len();
    let (mut text, mut width) = (line[..indent].to_owned(), indent);
    for (index, word) in line.split_whitespace().enumerate() {
        let length = word.chars().count();
        if index > 0 && width + 1 + length > columns {
            text.push('\n');
            text.push_str(&line[..indent]);
            width = indent;
        } else if index > 0 {
            text.push(' ');
            width += 1;
        }
        text.push_str(word);
        width += length;
    }
    text
}

/// Asks which of these it is; returns its number. What is typed narrows the list.
pub(super) fn which(question: &str, options: Vec<String>) -> anyhow::Result<usize> {
    let question = question.to_owned();
    put(move || {
        let help = "type to search, Enter takes, Esc ends";
        let asked = Select::new(&question, options).with_page_size(9).with_help_message(help);
        Ok(asked.raw_prompt()?.index)
    })
}

/// Asks for a yes or a no.
pub(super) fn whether(question: &str, usual: bool) -> anyhow::Result<bool> {
    let question = question.to_owned();
    put(move || Confirm::new(&question).with_default(usual).prompt())
}

/// Asks for a text until `check` has nothing against it.
pub(super) fn text(
    question: &str,
    usual: Option<String>,
    help: &'static str,
    check: impl Fn(&str) -> Result<(), String> + Clone + Send + 'static,
) -> anyhow::Result<String> {
    let question = question.to_owned();
    put(move || {
        let mut asked = Text::new(&question).with_validator(move |typed: &str| {
            Ok(match check(typed.trim()) {
                Ok(()) => Validation::Valid,
                Err(why) => Validation::Invalid(why.into()),
            })
        });
        if let Some(usual) = &usual {
            asked = asked.with_default(usual);
        }
        if !help.is_empty() {
            asked = asked.with_help_message(help);
        }
        Ok(asked.prompt()?.trim().to_owned())
    })
}

/// Asks for a name to be typed; another one is a refusal.
pub(super) fn typed(which: &str, name: &str) -> anyhow::Result<()> {
    let question = format!("Type {which} ({name}) to go on:");
    let answer =
        put(move || Text::new(&question).with_help_message("anything else changes nothing").prompt())?;
    if answer.trim() == name {
        return Ok(());
    }
    Fault::new(Kind::Refused, format!("\"{}\" was typed and not \"{name}\": not confirmed", answer.trim()))
        .hint("Nothing was changed.")
        .err()
}

/// Puts a question. It has a thread and a runtime of its own, so that whoever asks need not be able to wait, and a
/// signal ends it all the same; the terminal is then as it was before.
fn put<T: Send + 'static>(
    question: impl FnOnce() -> Result<T, InquireError> + Send + 'static,
) -> anyhow::Result<T> {
    let stdin = std::io::stdin();
    let before = tcgetattr(&stdin).context("look at the terminal")?;
    let asking = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let answer = runtime.block_on(async {
            let stop = Stop::on_signals()?;
            let asked = tokio::task::spawn_blocking(question);
            stop.or(async { asked.await.context("ask at the terminal") }).await
        });
        // A question that nobody will answer any more is not waited for.
        runtime.shutdown_background();
        answer
    });
    let answer = asking.join().map_err(|_| anyhow::anyhow!("asking at the terminal has failed"))?;
    if answer.is_err() {
        // Whoever has gone has taken the terminal along: then there is nothing to put right.
        let _ = tcsetattr(&stdin, OptionalActions::Now, &before);
        let _ = write!(std::io::stderr(), "\x1b[?25h\r\n");
    }
    match answer? {
        Ok(answer) => Ok(answer),
        Err(InquireError::OperationCanceled | InquireError::OperationInterrupted) => Err(Left.into()),
        Err(error) => Fault::new(Kind::Interrupted, format!("ask at the terminal: {error}"))
            .hint("Nothing was changed.")
            .err(),
    }
}

#[cfg(test)]
mod tests {
    use super::wrapped;

    #[test]
    fn lines_end_between_words() {
        assert_eq!(wrapped("one two three", 80), "one two three");
        assert_eq!(wrapped("  one two three", 10), "  one two\n  three");
        assert_eq!(wrapped("unbreakable", 4), "unbreakable");
        assert_eq!(wrapped("", 4), "");
    }
}
