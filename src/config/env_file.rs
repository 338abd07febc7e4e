//! The env file: where it is looked for and how it is written.
//!
//! A line is empty, a comment (`#` first), or `NAME=value`, optionally after `export`. The value is taken as it
//! stands: nothing is substituted, so a password may hold `$`, `\` and backquotes. White space around it goes;
//! a pair of single or double quotes around it goes too and keeps what is inside as it is.
//!
//! Not read with dotenvy, which puts the values of variables in place of `$NAME` in unquoted and double-quoted
//! values, and whose errors quote the line, secret and all.

use std::path::PathBuf;

use zeroize::Zeroizing;

use super::faults::Faults;
use super::inputs::Inputs;
use super::private_file;
use crate::model::{Fault, Kind};

/// One setting of the file.
pub(super) struct Line {
    /// Its line's number, from 1.
    pub(super) number: usize,
    /// The variable's name.
    pub(super) name: String,
    /// Its value, never empty.
    pub(super) value: Zeroizing<String>,
}

/// Finds the file: the one named must exist, the two default ones may.
pub(super) fn locate(inputs: &Inputs) -> Result<Option<PathBuf>, Fault> {
    let named =
        inputs.env_file.as_ref().map(|path| (path.clone(), "--env-file")).or_else(|| {
            inputs.variable("PGKEEP_ENV_FILE").map(|path| (PathBuf::from(path), "PGKEEP_ENV_FILE"))
        });
    if let Some((path, by)) = named {
        let path = inputs.current_dir.join(path);
        // One that is there but can't be looked at is found out when it is read.
        return if matches!(path.try_exists(), Ok(false)) {
            Err(Fault::new(Kind::Settings, format!("there is no file {}, named by {by}", path.display()))
                .hint("Name the env file that is meant, or none."))
        } else {
            Ok(Some(path))
        };
    }
    // `sudo -u postgres pgkeep ...` is often called where postgres may not even look: there is nothing for it there.
    let beside = inputs.current_dir.join("pgkeep.env");
    if matches!(beside.try_exists(), Ok(true)) {
        return Ok(Some(beside));
    }
    // In the machine's place, one that can't be looked at is found out when it is read.
    let system = inputs.system_env_file.clone();
    Ok(Some(system).filter(|path| !matches!(path.try_exists(), Ok(false))))
}

/// Reads the file. Fails when it can't be read or is not private; what is wrong in single lines goes to `faults`.
pub(super) fn read(path: &std::path::Path, faults: &mut Faults) -> Result<Vec<Line>, Fault> {
    let bytes = private_file::read(path, Kind::Settings)?;
    let shown = path.display().to_string();
    Ok(parse(&bytes, &shown, faults))
}

/// Parses the file's content; a wrong line becomes a fault that names its number and shows nothing of it.
fn parse(bytes: &[u8], shown: &str, faults: &mut Faults) -> Vec<Line> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut lines: Vec<Line> = Vec::new();
    for (index, raw) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let number = index + 1;
        let parsed = std::str::from_utf8(raw).map_err(|_| "is not text in UTF-8").and_then(assignment);
        let wrong = match parsed {
            Ok(Some((name, value))) => {
                if let Some(first) = lines.iter().find(|line| line.name == name) {
                    format!("sets {name} again, after line {}", first.number)
                } else {
                    let value = Zeroizing::new(value.to_owned());
                    lines.push(Line { number, name: name.to_owned(), value });
                    continue;
                }
            }
            Ok(None) => continue,
            Err(wrong) => wrong.to_owned(),
        };
        faults.add(Fault::new(Kind::Settings, format!("{shown}:{number}: the line {wrong}")).hint(
            "Write NAME=value, comments on lines of their own, and quotes around a value with \" #\" in it.",
        ));
    }
    lines
}

/// Splits a line into name and value; `None` when it sets nothing.
fn assignment(line: &str) -> Result<Option<(&str, &str)>, &'static str> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let exported = line.strip_prefix("export").filter(|rest| rest.starts_with([' ', '\t']));
    let (name, value) = exported.unwrap_or(line).split_once('=').ok_or("has no \"=\"")?;
    let name = name.trim();
    let fine = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    if name.is_empty() || !name.chars().all(fine) || name.starts_with(|letter: char| letter.is_ascii_digit())
    {
        return Err("does not begin with a variable's name");
    }
    let value = unquoted(value.trim())?;
    if value.contains('\0') {
        return Err("has a byte 0 in its value");
    }
    Ok((!value.is_empty()).then_some((name, value)))
}

fn unquoted(value: &str) -> Result<&str, &'static str> {
    for quote in ['"', '\''] {
        let Some(rest) = value.strip_prefix(quote) else { continue };
        let (inside, after) = rest.split_once(quote).ok_or("has a quote that does not end")?;
        let after = after.trim_start();
        // `"a" "b"` and `"a"b` mean something to a shell, and nothing here.
        return if after.is_empty() || after.starts_with('#') {
            Ok(inside)
        } else {
            Err("goes on after the closing quote")
        };
    }
    // A value with a comment behind it, or one that holds the characters? Better asked than guessed.
    if value.starts_with('#') || value.contains(" #") || value.contains("\t#") {
        return Err("has a \"#\" in a value without quotes");
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn parsed(text: &str) -> Vec<(usize, String, String)> {
        let mut faults = Faults::default();
        let lines = parse(text.as_bytes(), "pgkeep.env", &mut faults);
        faults.into_result().unwrap();
        lines.into_iter().map(|line| (line.number, line.name, line.value.to_string())).collect()
    }

    fn value(text: &str) -> String {
        parsed(text).remove(0).2
    }

    #[test]
    fn values_are_taken_as_they_stand() {
        assert_eq!(value("PGPASSWORD=pa$HOME${x}`id`\\n%!"), "pa$HOME${x}`id`\\n%!");
        assert_eq!(value("PGPASSWORD='a $b \"c\" # d'"), "a $b \"c\" # d");
        assert_eq!(value("PGPASSWORD=\"it's $5\\\""), "it's $5\\");
        assert_eq!(value("PGPASSWORD=a#b=c"), "a#b=c");
        assert_eq!(value("  export PGHOST = two words  \r"), "two words");
        assert_eq!(value("\u{feff}PGHOST='x'  # why"), "x");
    }

    #[test]
    fn comments_and_empty_values_set_nothing() {
        let lines = parsed("# PGHOST=a\n\nPGHOST=\nPGPORT=''\n  # x\nPGUSER=u\n");
        assert_eq!(lines, [(6, "PGUSER".to_owned(), "u".to_owned())]);
    }

    #[test]
    fn a_wrong_line_is_named_by_its_number_and_not_shown() {
        for line in [
            "hunter2",
            "PG HOST=hunter2",
            "=hunter2",
            "2X=hunter2",
            "X='hunter2",
            "X=\"hunter2\"hunter2",
            "X=hunter2 # my secret",
            "X=#hunter2",
            "X=hunter2\0",
        ] {
            let mut faults = Faults::default();
            parse(format!("# fine\n{line}\n").as_bytes(), "pgkeep.env", &mut faults);
            let fault = faults.into_result().unwrap_err();
            assert!(fault.message.starts_with("pgkeep.env:2: "), "{line}: {}", fault.message);
            assert!(!format!("{fault:?}").contains("hunter2"), "{fault:?}");
        }
        let mut faults = Faults::default();
        parse(b"X=\xff\nX=1\nX=2", "pgkeep.env", &mut faults);
        let message = faults.into_result().unwrap_err().message;
        assert!(message.contains("pgkeep.env:1: the line is not text in UTF-8"), "{message}");
        assert!(message.contains("pgkeep.env:3: the line sets X again, after line 2"), "{message}");
    }
}
